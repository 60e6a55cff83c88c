"""Attention modules against naive transcriptions of their sheets' equations."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
import torch.nn.functional as F

from detrkit.registry import MODULES
from tests.modules.naive import image, made, moved, per_pixel, same, sigmoid, softmax


@pytest.fixture(autouse=True)
def _no_grad():
    with torch.no_grad():
        yield


def test_seam_only_amplifies():
    seam, x = made("SEAM", in_channels=8, depth=2, reduction=2), image(2, 8, 5, 4)
    y = x
    for layer in seam.layers:
        conv, _, norm = layer.depthwise
        y = y + norm(F.gelu(conv(y)))
        conv, _, norm = layer.pointwise
        y = norm(F.gelu(conv(y)))
    first, _, second, _ = seam.gate.layers
    hidden = (y.mean((2, 3)) @ first.weight.T).clamp(min=0)
    factor = sigmoid(hidden @ second.weight.T).exp()
    same(seam(x), x * factor[:, :, None, None])
    assert ((factor > 1) & (factor < math.e)).all()


def test_multi_seam_averages_patches_and_the_map():
    module, x = made("MultiSEAM", in_channels=4, reduction=2, patch_sizes=(2, 3)), image(1, 4, 7, 5)
    means = [x.mean((2, 3))]
    for side, branch in zip((2, 3), module.branches, strict=True):
        embed, _, norm, layer = branch
        whole = x[:, :, : 7 // side * side, : 5 // side * side]
        patches = whole.unflatten(3, (-1, side)).unflatten(2, (-1, side))
        y = torch.einsum("bchiwj,ocij->bohw", patches, embed.weight) + embed.bias[:, None, None]
        means.append(layer(norm(F.gelu(y))).mean((2, 3)))
    same(module(x), x * module.gate(sum(means) / 3))


def test_multi_seam_names_a_map_smaller_than_a_patch():
    with pytest.raises(ValueError, match=r"at least 7 pixels a side, got 6x9"):
        made("MultiSEAM", in_channels=16)(image(1, 16, 6, 9))


def test_coordatt_gates_rows_and_columns():
    module, x = made("CoordAtt", in_channels=8), image(1, 8, 4, 3)
    conv, norm = module.encode.conv, module.encode.norm

    def code(z):
        z = norm(conv(z[None, :, :, None]))
        return z * (z + 3).clamp(0, 6) / 6

    out = torch.empty_like(x)
    for i, j in itertools.product(range(4), range(3)):
        row = module.rows(code(x[0, :, i].mean(1)[:, None]))
        column = module.columns(code(x[0, :, :, j].mean(1)[:, None]))
        out[0, :, i, j] = x[0, :, i, j] * sigmoid(row).flatten() * sigmoid(column).flatten()
    same(module(x), out)


def test_ema_by_groups():
    module, x = made("EMA", in_channels=6, factor=2), image(2, 6, 4, 5)
    for b, g in itertools.product(range(2), range(2)):
        part = x[b, 3 * g : 3 * g + 3]
        rows = per_pixel(module.coordinates, part.mean(2, keepdim=True))
        columns = per_pixel(module.coordinates, part.mean(1, keepdim=True))
        one = part * sigmoid(rows) * sigmoid(columns)
        centred = one - one.mean((1, 2), keepdim=True)
        one = centred / (one.var((1, 2), unbiased=False, keepdim=True) + 1e-5).sqrt()
        one = one * module.norm.weight[:, None, None] + module.norm.bias[:, None, None]
        other = module.local(part[None])[0]
        weights = [softmax(t.mean((1, 2)), 0) for t in (one, other)]
        gate = sum(weights[0][c] * other[c] + weights[1][c] * one[c] for c in range(3))
        same(module(x)[b, 3 * g : 3 * g + 3], part * sigmoid(gate))


def test_lsk_selects_by_mean_and_maximum():
    module, x = made("LSKUnit", in_channels=4), image(1, 4, 6, 5)
    near = F.conv2d(x, module.near.weight, module.near.bias, padding=2, groups=4)
    far = F.conv2d(near, module.far.weight, module.far.bias, padding=9, dilation=3, groups=4)
    a = [
        per_pixel(module.narrow_near, near[0]),
        per_pixel(module.narrow_far, far[0]),
    ]
    both = torch.cat(a)
    maps = torch.stack([both.mean(0), both.max(0).values])[None]
    s = sigmoid(F.conv2d(maps, module.select.weight, module.select.bias, padding=3))[0]
    same(module(x)[0], x[0] * per_pixel(module.widen, a[0] * s[0] + a[1] * s[1]))


@pytest.mark.parametrize("name", ["LSKBlock", "DeformableLKAAttention"])
def test_the_block_projects_around_the_unit(name):
    block = made(name, in_channels=4)
    x = image(1, 4, 5, 6)
    inner = F.gelu(per_pixel(block.project_in[0], x[0]))
    same(block(x)[0], x[0] + per_pixel(block.project_out, block.unit(inner[None])[0]))


def test_deformable_lka_starts_as_a_plain_large_kernel():
    torch.manual_seed(0)
    module = MODULES.create("DeformableLKA", in_channels=4).double()
    x = image(1, 4, 9, 8)
    y = F.conv2d(x, module.near.weight, padding=2, groups=4)
    y = F.conv2d(y, module.far.weight, padding=9, dilation=3, groups=4)
    same(module(x), x * module.mix(y))


def test_deformable_lka_moves_its_points():
    module = MODULES.create("DeformableLKA", in_channels=2).double()
    x = image(1, 2, 9, 8)
    module.near.offset.bias[0::2] = 1.0  # dy of every point: a row further down
    below = F.pad(x, [0, 0, 0, 1])[:, :, 1:]
    moved_by_one = module.near(x)
    plain = F.conv2d(below, module.near.weight, padding=2, groups=2)
    same(moved_by_one[:, :, 2:-3], plain[:, :, 2:-3])


@pytest.mark.parametrize("size", [(10, 5), (7, 6)])
def test_mlca_spreads_cells(size):
    module, x = made("MLCA", in_channels=8, local_size=5), image(2, 8, *size)

    def bins(length, count):
        return [range(i * length // count, -(-(i + 1) * length // count)) for i in range(count)]

    rows, columns = (bins(n, 5) for n in size)
    for b in range(2):
        cells = [x[b][:, list(r)][:, :, list(c)].mean((1, 2)) for r in rows for c in columns]
        flat = F.pad(torch.cat(cells), [1, 1])
        taps = module.of_cells.weight.flatten()
        local = sum(taps[k] * flat[k : k + 8 * 25] for k in range(3))
        whole = F.pad(torch.stack(cells).mean(0), [1, 1])
        taps = module.of_all.weight.flatten()
        whole = sum(taps[k] * whole[k : k + 8] for k in range(3))
        gate = 0.5 * sigmoid(whole) + 0.5 * sigmoid(local.reshape(25, 8))  # (cell, C)
        back = [bins(5, n) for n in size]
        for i, j in itertools.product(*map(range, size)):
            touched = [5 * r + c for r in back[0][i] for c in back[1][j]]
            same(module(x)[b, :, i, j], x[b, :, i, j] * gate[touched].mean(0))


def test_mlca_kernel_is_odd():
    sizes = {c: MODULES.create("MLCA", in_channels=c).of_all.kernel_size[0] for c in (8, 64, 512)}
    assert sizes == {8: 3, 64: 3, 512: 5}


@pytest.mark.parametrize("size", [(8, 8), (9, 7), (3, 6)])
def test_fsa_filters_low_frequencies(size):
    module, x = made("FSA", in_channels=2, ratio=2), image(1, 2, *size)
    height, width = size
    spectrum = torch.fft.fft2(x)
    window = torch.view_as_complex(module.window)
    for u, v in itertools.product(range(-2, 2), range(-2, 2)):
        known = -(height // 2) <= u < (height + 1) // 2 and -(width // 2) <= v < (width + 1) // 2
        if known:
            spectrum[:, :, u, v] *= window[:, u + 2, v + 2]
    maps = torch.stack([x.mean(1), x.amax(1)], dim=1)
    same(module(x), torch.fft.ifft2(spectrum).real + x * sigmoid(module.spatial(maps)))


def test_fsa_starts_by_passing_everything():
    module, x = MODULES.create("FSA", in_channels=4, ratio=3).double(), image(2, 4, 8, 6)
    same(module.filtered(x), x)


def outlook(layer, x, source, heads):
    """Weights of every place mix its 3x3 neighbours; each result is added where it came from."""
    channels, height, width = x.shape
    d = channels // heads
    out = torch.zeros(channels, height + 2, width + 2, dtype=x.dtype)
    around = F.pad(x, [1, 1, 1, 1])
    scores = per_pixel(layer.weights, source).reshape(heads, 9, 9, height, width)
    for i, j, m in itertools.product(range(height), range(width), range(heads)):
        a = softmax(d**-0.5 * scores[m, :, :, i, j], 1)
        v = around[m * d : (m + 1) * d, i : i + 3, j : j + 3].flatten(1)  # (d, 9)
        mixed = (a @ v.T).T.reshape(d, 3, 3)
        out[m * d : (m + 1) * d, i : i + 3, j : j + 3] += mixed
    return out[:, 1:-1, 1:-1]


def test_cdfa_mixes_neighbours_twice():
    module = made(
        "ContrastDrivenFeatureAggregation", in_channels=[3, 4, 4], out_channels=4, num_heads=2
    )
    x, fg, bg = image(1, 3, 4, 3), image(1, 4, 4, 3, seed=2), image(1, 4, 4, 3, seed=3)
    y = per_pixel(module.value, module.before(x)[0])
    for layer, source in ((module.foreground, fg), (module.background, bg)):
        y = per_pixel(module.project, outlook(layer, y, source[0], 2))
    same(module([x, fg, bg]), module.after(y[None]))


def test_cdfa_splits_one_map_by_haar():
    module, x = made("CDFA", in_channels=4, num_heads=2), image(1, 4, 5, 4)
    inner = module.before(x)
    a, b, c, d = (
        F.pad(inner, [0, 1, 0, 1])[:, :, i : i + 5, j : j + 4]
        for i, j in itertools.product(range(2), range(2))
    )
    mean = (a + b + c + d) / 4
    differences = [(a - b + c - d) / 4, (a + b - c - d) / 4, (a - b - c + d) / 4]
    same(module(x), module.aggregate(inner, sum(differences), mean))


def test_cdfa_names_wrong_widths():
    with pytest.raises(ValueError, match=r"need 8 channels, got \[8, 4\]"):
        MODULES.create("ContrastDrivenFeatureAggregation", in_channels=[16, 8, 4])


def test_glsa_of_two_halves():
    module, x = made("GLSA", in_channels=6, out_channels=4), image(2, 6, 4, 3)
    for b in range(2):
        g = per_pixel(module.to_global, x[b, 3:])
        weights = softmax(per_pixel(module.context.score, g).flatten(), 0)
        context = (g.flatten(1) * weights).sum(1)
        first, norm, _, second = module.context.perceptron
        t = first.weight[:, :, 0, 0] @ context + first.bias
        t = (t - t.mean()) / (t.var(unbiased=False) + 1e-5).sqrt()
        t = (t * norm.weight.flatten() + norm.bias.flatten()).clamp(min=0)
        gate = sigmoid(second.weight[:, :, 0, 0] @ t + second.bias)
        context_map = g + g * gate[:, None, None]
        start = u = module.to_local(x[b : b + 1, :3])
        for i in range(3):
            u = module.local.pointwise[i](u)
            u = u + module.local.depthwise[i](u)
        local = start + start * sigmoid(module.local.project(u))
        both = torch.cat([local, context_map[None]], dim=1)
        same(module(x)[b : b + 1], module.fuse(both))


def test_mca_crosses_axes():
    module, x = made("MCA", in_channels=4, num_heads=2, kernel_sizes=(3, 5)), image(1, 4, 5, 3)
    normed = module.norm(x)
    o1 = module.project(sum(strip(normed) for strip in module.along_rows))[0]
    o2 = module.project(sum(strip(normed) for strip in module.along_columns))[0]

    def attend(query, key):
        """Tokens (N, features)."""
        q, k = (t / t.norm(dim=1, keepdim=True) for t in (query, key))
        return softmax(q @ k.T, 1) @ key + q

    rows, columns = torch.empty(4, 5, 3).double(), torch.empty(4, 5, 3).double()
    for head in (slice(0, 2), slice(2, 4)):
        tokens = [t[head].permute(1, 2, 0).flatten(1) for t in (o2, o1)]
        rows[head] = attend(*tokens).reshape(5, 3, 2).permute(2, 0, 1)
        tokens = [t[head].permute(2, 1, 0).flatten(1) for t in (o1, o2)]
        columns[head] = attend(*tokens).reshape(3, 5, 2).permute(2, 1, 0)
    same(module(x)[0], sum(per_pixel(module.project, t) for t in (rows, columns)) + x[0])


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("SEAM", {"in_channels": 8}, "reduction 16 leaves none of 8"),
        ("EMA", {"in_channels": 12}, "factor must divide 12 channels, got 8"),
        ("LSKUnit", {"in_channels": 7}, "even number of channels, got 7"),
        ("GLSA", {"in_channels": 7}, "even number of channels, got 7"),
        ("MCA", {"in_channels": 12}, "num_heads must divide 12 channels, got 8"),
        ("FSA", {"in_channels": 4, "ratio": 0}, "at least 1, got 0"),
    ],
)
def test_wrong_arguments_are_named(name, arguments, message):
    with pytest.raises(ValueError, match=message):
        MODULES.create(name, **arguments)


def test_simam_is_the_energy():
    x = image(1, 2, 3, 4)
    d = (x - x.mean((2, 3), keepdim=True)) ** 2
    e = d / (4 * (d.sum((2, 3), keepdim=True) / 11 + 1e-4)) + 0.5
    same(moved(MODULES.create("SimAM", in_channels=2))(x), x * sigmoid(e), 1e-6)
