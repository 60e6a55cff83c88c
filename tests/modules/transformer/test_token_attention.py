"""Attention among pixels against naive transcriptions of the equations."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
import torch.nn.functional as F

from detrkit.layers.windows import from_window_tokens, neighbours_in_windows, window_tokens
from detrkit.registry import MODULES
from tests.modules.naive import image, made, per_pixel, same, sigmoid, softmax


@pytest.fixture(autouse=True)
def _no_grad():
    with torch.no_grad():
        yield


def places(h, w):
    """(y, x) of the pixels, row by row."""
    return list(itertools.product(range(h), range(w)))


def tokens(x):
    """(C, H, W) -> (H·W, C)."""
    return x.flatten(1).T


def bilinear(x, y, column):
    """Value of a map (C, H, W) between pixels; zeros outside."""
    _, height, width = x.shape
    out = torch.zeros(x.shape[0]).double()
    for i in (math.floor(y), math.floor(y) + 1):
        for j in (math.floor(column), math.floor(column) + 1):
            if 0 <= i < height and 0 <= j < width:
                out += x[:, i, j] * (1 - abs(y - i)) * (1 - abs(column - j))
    return out


def test_windows_of_any_shape_go_back():
    x = image(2, 3, 6, 8)
    parts = window_tokens(x, (2, 4))
    same(parts[1, 2, 5], x[1, :, 3, 1], 0)
    same(from_window_tokens(parts, (2, 4), (6, 8)), x, 0)


def test_neighbours_in_shifted_windows():
    height, width, side, shift = 7, 4, 4, 1
    allowed = neighbours_in_windows((height, width), side, shift, image(1), padding=True)
    rolled = torch.arange(32).reshape(8, 4).roll((-shift, -shift), (0, 1))
    for n, window in enumerate(rolled.split(side)):
        for (i, one), (j, other) in itertools.product(enumerate(window.flatten()), repeat=2):
            (y1, x1), (y2, x2) = divmod(one.item(), 4), divmod(other.item(), 4)
            near = (y1 == 0) == (y2 == 0) and (x1 == 0) == (x2 == 0)  # row 0 comes from the top
            real = (y1 < height) == (y2 < height)
            if real and y1 < height:
                assert allowed[n, i, j] == near, (n, y1, x1, y2, x2)
            if not real:
                assert not allowed[n, i, j]


def test_polaformer_keeps_signs_apart():
    module = made("PolaLinearAttention", in_channels=8, num_heads=2, size=(3, 4), kernel_size=3)
    x = image(1, 8, 3, 4)
    t = tokens(x[0])
    q, gate = (t @ module.qg.weight.T).chunk(2, dim=1)
    k, v = (t @ module.kv.weight.T).chunk(2, dim=1)
    scale = (1 + module.scale[0].exp()).log()
    q, k = q / scale, (k + module.position[0]) / scale
    out = torch.empty(12, 8).double()
    for head in range(2):
        part = slice(4 * head, 4 * head + 4)
        power = 1 + 4 * sigmoid(module.power[0, head, 0])
        for n in range(12):
            signs = [(sign * t[:, part]).clamp(min=0) ** power for t in (q, k) for sign in (1, -1)]
            q_plus, q_minus, k_plus, k_minus = signs
            alike = k_plus @ q_plus[n] + k_minus @ q_minus[n]  # (12,)
            opposite = k_plus @ q_minus[n] + k_minus @ q_plus[n]
            for weights, values in (
                (alike, slice(4 * head, 4 * head + 2)),
                (opposite, slice(4 * head + 2, 4 * head + 4)),
            ):
                weights = weights / (weights.sum() + 12e-6)
                out[n, values] = weights @ v[:, values]
    local = F.conv2d(
        v.T.reshape(2, 4, 3, 4), module.dwc.weight, module.dwc.bias, padding=1, groups=4
    )
    out = (out + tokens(local.reshape(8, 3, 4))) * gate
    same(tokens(module(x)[0]), out @ module.proj.weight.T + module.proj.bias, 1e-8)


@pytest.mark.parametrize("sr_ratio", [1, 2])
def test_polaformer_takes_other_sizes(sr_ratio):
    module = made("PolaLinearAttention", in_channels=8, num_heads=2, size=8, sr_ratio=sr_ratio)
    assert module(image(1, 8, 10, 7)).shape == (1, 8, 10, 7)


@pytest.mark.parametrize(
    ("name", "size", "region"),
    [
        ("BiLevelRoutingAttention", (6, 4), (3, 2)),
        ("BiLevelRoutingAttention", (5, 3), (3, 2)),
        ("nchwBRA", (6, 4), (3, 2)),
        ("nchwBRA", (5, 5), (2, 2)),
    ],
)
def test_biformer_attends_to_the_best_regions(name, size, region):
    module, x = made(name, in_channels=4, num_heads=2, n_win=2, topk=2), image(1, 4, *size)
    height, width = size
    below, right = -height % region[0], -width % region[1]
    if name == "nchwBRA":
        qkv = per_pixel(module.qkv, x[0])
        inside = F.pad(torch.ones(height, width), [0, right, 0, below])
        qkv = F.pad(qkv, [0, right, 0, below])
    else:
        qkv = per_pixel(module.qkv, F.pad(x[0], [0, right, 0, below]))
        inside = torch.ones(height + below, width + right)
    q, k, v = qkv.chunk(3)
    boxes = [
        (slice(i, i + region[0]), slice(j, j + region[1]))
        for i in range(0, height + below, region[0])
        for j in range(0, width + right, region[1])
    ]
    means = [
        torch.stack([t[:, r, c].sum((1, 2)) / inside[r, c].sum() for r, c in boxes]) for t in (q, k)
    ]
    best = (means[0] @ means[1].T).argsort(1, descending=True)[:, :2]
    out = torch.empty_like(v)
    for n, (r, c) in enumerate(boxes):
        chosen = [boxes[i] for i in best[n]]
        keys, values = (torch.cat([tokens(t[:, a, b]) for a, b in chosen]) for t in (k, v))
        for head in (slice(0, 2), slice(2, 4)):
            scores = tokens(q[head, r, c]) @ keys[:, head].T * 4**-0.5
            mixed = softmax(scores, 1) @ values[:, head]
            out[head, r, c] = mixed.T.reshape(2, *region)
    out = (out + module.lepe(v[None])[0])[:, :height, :width]
    same(module(x)[0], per_pixel(module.proj, out))


def test_both_forms_of_biformer_agree_where_regions_fit():
    torch.manual_seed(0)
    one, other = (
        MODULES.create(n, in_channels=8, n_win=3) for n in ("nchwBRA", "BiLevelRoutingAttention")
    )
    other.load_state_dict(one.state_dict())
    x = torch.randn(1, 8, 6, 9)
    same(one(x), other(x), 1e-5)


@pytest.mark.parametrize("size", [(3, 3), (2, 3), (4, 5)])
def test_cascaded_groups(size):
    module = made(
        "CascadedGroupAttention", in_channels=4, key_dim=2, num_heads=2, window_resolution=3
    )
    x = image(1, 4, *size)
    height, width = size
    if max(size) <= 3:
        windows = [(x, 0, 0)]
    else:
        wide = F.pad(x, [0, -width % 3, 0, -height % 3])
        windows = [
            (wide[:, :, i : i + 3, j : j + 3], i, j)
            for i in range(0, height, 3)
            for j in range(0, width, 3)
        ]
    for window, top, left in windows:
        h, w = window.shape[2:]
        previous, outs = 0, []
        for head, chunk in enumerate(window.chunk(2, dim=1)):
            q, k, v = module.qkv[head](chunk + previous).split([2, 2, 2], dim=1)
            q = module.dws[head](q)
            scores = torch.empty(h * w, h * w).double()
            for (n, (y1, x1)), (m, (y2, x2)) in itertools.product(
                enumerate(places(h, w)), repeat=2
            ):
                bias = module.attention_biases[head, abs(y1 - y2) * 3 + abs(x1 - x2)]
                scores[n, m] = q[0, :, y1, x1] @ k[0, :, y2, x2] * 2**-0.5 + bias
            previous = (softmax(scores, 1) @ tokens(v[0])).T.reshape(1, 2, h, w)
            outs.append(previous)
        expected = module.proj(torch.cat(outs, dim=1).clamp(min=0))
        expected = expected[:, :, : height - top, : width - left]
        same(module(x)[:, :, top : top + h, left : left + w], expected)


@pytest.mark.parametrize("position", ["dwc", "table", "log_cpb", "none"])
@pytest.mark.parametrize(("stride", "factor"), [(1, 2.0), (2, -1.0)])
def test_deformable_attention_samples_where_it_is_told(position, stride, factor):
    module = made(
        "DAttention",
        in_channels=8,
        num_heads=4,
        num_groups=2,
        stride=stride,
        offset_range_factor=factor,
        position=position,
        size=(5, 4),
    )
    x = image(1, 8, 5, 4)
    q = per_pixel(module.proj_q, x[0])
    samples, distances = [], []
    for group in range(2):
        part = slice(4 * group, 4 * group + 4)
        offset = module.offset(q[None, part])[0]
        h, w = offset.shape[1:]
        row, away = [], []
        for i, j in places(h, w):
            if factor < 0:
                y = ((i + 0.5) / (h - 1) * 2 - 1 + offset[0, i, j]).clamp(-1, 1)
                z = ((j + 0.5) / (w - 1) * 2 - 1 + offset[1, i, j]).clamp(-1, 1)
            else:
                y = (i + 0.5) / (h - 1) * 2 - 1 + offset[0, i, j].tanh() * factor / (h - 1)
                z = (j + 0.5) / (w - 1) * 2 - 1 + offset[1, i, j].tanh() * factor / (w - 1)
            row.append(bilinear(x[0, part], (y.item() + 1) / 2 * 4, (z.item() + 1) / 2 * 3))
            away.append(
                [(a / 4 * 2 - 1 - y.item(), b / 3 * 2 - 1 - z.item()) for a, b in places(5, 4)]
            )
        samples.append(torch.stack(row, dim=1))
        distances.append(away)
    sampled = torch.cat(samples)[:, :, None]
    k, v = (per_pixel(layer, sampled)[:, :, 0] for layer in (module.proj_k, module.proj_v))
    out = torch.empty(8, 20).double()
    for head in range(4):
        part = slice(2 * head, 2 * head + 2)
        scores = q.flatten(1)[part].T @ k[part] * 2**-0.5
        for n, m in itertools.product(*map(range, scores.shape)):
            dy, dx = distances[head // 2][m][n]
            if position == "table":
                table = module.rpe_table[head : head + 1]  # (1, 9, 7): -1 to 1 from end to end
                scores[n, m] += bilinear(table, (dy / 2 + 1) / 2 * 8, (dx / 2 + 1) / 2 * 6).item()
            elif position == "log_cpb":
                r = torch.tensor([4 * dy, 4 * dx]).double()
                scores[n, m] += module.rpe_mlp(r.sign() * (r.abs() + 1).log2() / 3)[head % 2]
        out[part] = v[part] @ softmax(scores, 1).T
    out = out.reshape(8, 5, 4)
    if position == "dwc":
        out = (
            out
            + F.conv2d(q[None], module.rpe_conv.weight, module.rpe_conv.bias, padding=1, groups=8)[
                0
            ]
        )
    same(module(x)[0], per_pixel(module.proj_out, out), 1e-8)


def test_deformable_attention_names_a_map_too_small():
    with pytest.raises(ValueError, match="at least 2x2 samples, got 1x2 of a map of 1x2"):
        made("DAttention", in_channels=8)(image(1, 8, 1, 2))


def test_dynamic_position_bias():
    module, x = made("DPBAttention", in_channels=32, num_heads=2), image(1, 32, 2, 3)
    t = tokens(x[0])
    q, k, v = (t @ module.qkv.weight.T + module.qkv.bias).chunk(3, dim=1)
    out = torch.empty_like(v)
    for head in range(2):
        part = slice(16 * head, 16 * head + 16)
        scores = q[:, part] @ k[:, part].T * 16**-0.5
        for (i, (y1, x1)), (j, (y2, x2)) in itertools.product(enumerate(places(2, 3)), repeat=2):
            offset = torch.tensor([y1 - y2, x1 - x2]).double()
            scores[i, j] += module.bias.layers(offset)[head]
        out[:, part] = softmax(scores, 1) @ v[:, part]
    same(tokens(module(x)[0]), out @ module.proj.weight.T + module.proj.bias)


@pytest.mark.parametrize("sparse", [True, False])
@pytest.mark.parametrize("size", [(8, 4), (7, 6)])
def test_adaptive_sparse_attention(sparse, size):
    module, x = (
        made("AdaptiveSparseSA", in_channels=4, num_heads=2, sparse=sparse),
        image(1, 4, *size),
    )
    height, width = size
    high, wide = -(-height // 4) * 4, -(-width // 4) * 4
    out = torch.empty(4, height, width).double()
    q = per_pixel(module.q, x[0])
    k, v = per_pixel(module.kv, x[0]).chunk(2)
    mix = softmax(module.mix, 0) if sparse else (1.0, 0.0)
    for y1, x1 in places(height, width):
        # the window of a pixel after the shift by 2; at the border it ends
        top, left = (y1 - 2) // 4 * 4 + 2, (x1 - 2) // 4 * 4 + 2
        seen = [
            (a, b)
            for a in range(max(top, 0), min(top + 4, height))
            for b in range(max(left, 0), min(left + 4, width))
        ]
        assert high > top
        assert wide > left
        for head in range(2):
            part = slice(2 * head, 2 * head + 2)
            scores = torch.stack(
                [
                    q[part, y1, x1] @ k[part, a, b] * 2**-0.5
                    + module.bias.table[(y1 - a + 3) * 7 + x1 - b + 3, head]
                    for a, b in seen
                ]
            )
            weights = mix[0] * softmax(scores, 0) + mix[1] * scores.clamp(min=0) ** 2
            out[part, y1, x1] = sum(
                w * v[part, a, b] for w, (a, b) in zip(weights, seen, strict=True)
            )
    same(module(x)[0], per_pixel(module.proj, out))


@pytest.mark.parametrize("side", [4, 8])
def test_masked_windows_see_even_distances(side):
    module = made("DilatedMWSA", in_channels=4, num_heads=1, dim_head=3, window_size=side)
    x = image(1, 4, side, 2 * side)
    q, k, v = per_pixel(module.qkv, x[0]).chunk(3)
    around = side + side // 2
    edge = side // 4
    k, v = (F.pad(t, [edge] * 4) for t in (k, v))
    for y1, x1 in [(0, 0), (1, side - 1), (side - 1, side + 2), (2, 2 * side - 1)]:
        top, left = y1 // side * side, x1 // side * side
        scores, values = [], []
        for i, j in places(around, around):
            if (y1 - (top - edge + i)) % 2 or (x1 - (left - edge + j)) % 2:
                continue
            values.append(v[:, top + i, left + j])
            rel = module.rel_height[i - (y1 - top) + around - 1]
            rel = rel + module.rel_width[j - (x1 - left) + around - 1]
            scores.append(q[:, y1, x1] * 3**-0.5 @ (k[:, top + i, left + j] + rel))
        out = softmax(torch.stack(scores), 0) @ torch.stack(values)
        same(module(x)[0, :, y1, x1], per_pixel(module.project_out, out[:, None, None]).flatten())


def test_masked_windows_show_each_pixel_itself():
    for side in (4, 8):
        o = side + side // 2
        own = [(y + side // 4) * o + x + side // 4 for y, x in places(side, side)]
        module = MODULES.create("DilatedMWSA", in_channels=4, window_size=side)
        assert module.allowed[range(side**2), own].all()


def test_masked_windows_of_several_heads():
    """Each is a module of one head."""
    module = made("DilatedMWSA", in_channels=4, num_heads=2, dim_head=3, window_size=4)
    one = made("DilatedMWSA", in_channels=4, num_heads=1, dim_head=3, window_size=4)
    one.rel_height.copy_(module.rel_height)
    one.rel_width.copy_(module.rel_width)
    x, total = image(1, 4, 8, 4), 0
    for head in range(2):
        part = slice(3 * head, 3 * head + 3)
        one.qkv.weight.copy_(torch.cat([t[part] for t in module.qkv.weight.chunk(3)]))
        one.project_out.weight.copy_(module.project_out.weight[:, part])
        total = total + one(x)
    same(module(x), total)


def test_shsa_attends_with_a_part():
    module, x = made("SHSA", in_channels=6, qk_dim=2, partial_channels=3), image(1, 6, 3, 4)
    part = x[0, :3]
    normed = (part - part.mean()) / (part.var(unbiased=False) + 1e-5).sqrt()
    normed = normed * module.norm.weight[:, None, None] + module.norm.bias[:, None, None]
    q, k, v = module.qkv(normed[None])[0].flatten(1).split([2, 2, 3])
    out = (v @ softmax(q.T @ k * 2**-0.5, 1).T).reshape(3, 3, 4)
    same(module(x), module.proj(torch.cat([out, x[0, 3:]])[None].clamp(min=0)))


def test_shsa_starts_as_nothing():
    module = MODULES.create("SHSA", in_channels=64)
    assert module.part == 13
    assert not module.eval()(torch.randn(1, 64, 5, 4)).any()


def window_attention(module, q, k, v):
    """Of a half of SFA, without a shift; maps (C, H, W) of whole windows."""
    h, w = module.side
    channels = q.shape[0] // module.num_heads
    bias = module.bias(h, w)
    out = torch.empty_like(q)
    for i in range(0, q.shape[1], h):
        for j in range(0, q.shape[2], w):
            box = (slice(i, i + h), slice(j, j + w))
            for head in range(module.num_heads):
                part = (slice(channels * head, channels * (head + 1)), *box)
                a, b, c = (tokens(t[part]) for t in (q, k, v))
                mixed = softmax(a @ b.T * channels**-0.5 + bias[head], 1) @ c
                out[part] = mixed.T.reshape(channels, h, w)
    return out


def test_sfa_in_upright_and_lying_windows():
    module, x = made("SFA", in_channels=32, num_heads=4, split_size=(2, 4)), image(1, 32, 4, 6)
    h = module.frequency_projection(per_pixel(module.high, x[0])[None])
    qkv = F.pad(per_pixel(module.qkv, x[0]), [0, 2])  # columns: 6 -> 8
    q, k, v = qkv.chunk(3)
    halves = [
        window_attention(attend, *(t.chunk(2)[i] for t in (q, k, v)))
        for i, attend in enumerate(module.attention)
    ]
    a = torch.cat(halves)[None, :, :, :6]
    c = module.local(v[None, :, :, :6])
    m = module.channel_projection(c)
    c, h = c + m, h + m
    s = module.spatial_projection(a)
    h = h + a
    a = a * sigmoid(m.mean((2, 3), keepdim=True)) * sigmoid(h.mean((2, 3), keepdim=True))
    c = c * sigmoid(s) * sigmoid(h)
    same(module(x)[0], per_pixel(module.proj, (a + c + h)[0]))


def test_sfa_shift_moves_windows():
    """A map without borders between windows: shifted windows of the whole map are plain ones."""
    plain, shifted = (
        made("SFA", in_channels=32, num_heads=2, split_size=(2, 2), shift_size=shift)
        for shift in (None, (1, 1))
    )
    x = image(1, 96, 4, 4)
    inner = plain.attention[0](x[:, :48].unflatten(1, (3, 16))[..., 1:3, 1:3])
    same(shifted.attention[0](x[:, :48].unflatten(1, (3, 16)))[..., 1:3, 1:3], inner)


def test_msla_at_four_scales():
    module, x = made("MSLA", in_channels=16, num_heads=2), image(1, 16, 3, 4)
    parts = []
    for i, (side, part) in enumerate(zip((3, 5, 7, 9), x[0].chunk(4), strict=True)):
        conv = module.convs[i]
        t = F.conv2d(part[None], conv.weight, conv.bias, padding=side // 2, groups=4)[0]
        t = tokens((part + t).clamp(min=0))
        q, k, v = (t @ module.attention.qkv.weight.T).chunk(3, dim=1)
        heads = [slice(0, 2), slice(2, 4)]
        out = torch.cat(
            [softmax(q[:, h], 0) @ (softmax(k[:, h], 1).T @ v[:, h]) for h in heads], dim=1
        )
        proj = module.attention.proj
        parts.append((module.scale_weights[i] * (out @ proj.weight.T + proj.bias)).T)
    same(module(x)[0], per_pixel(module.fuse, torch.cat(parts).reshape(16, 3, 4)))


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("PolaLinearAttention", {"in_channels": 24}, "must divide 24 channels, got 16"),
        ("BiLevelRoutingAttention", {"in_channels": 16, "n_win": 2, "topk": 5}, "= 4, got 5"),
        ("CascadedGroupAttention", {"in_channels": 16, "kernels": [5]}, r"needs 4 .* got \[5\]"),
        ("DAttention", {"in_channels": 16, "num_groups": 3}, "must divide 8 heads, got 3"),
        ("DAttention", {"in_channels": 16, "position": "x"}, "got 'x'"),
        ("DPBAttention", {"in_channels": 8}, "at least 16 channels, got 8"),
        ("AdaptiveSparseSA", {"in_channels": 16, "shift_size": 4}, "from 0 to 3, got 4"),
        ("DilatedMWSA", {"in_channels": 16, "window_size": 6}, "odd overlap of 3"),
        ("SHSA", {"in_channels": 16, "partial_channels": 16}, "from 1 to 15, got 16"),
        ("SFA", {"in_channels": 24}, "at least 32 channels, got 24"),
        ("SFA", {"in_channels": 64, "shift_size": (8, 1)}, "must be below"),
        ("MSLA", {"in_channels": 24}, "must divide 24 channels, got 16"),
    ],
)
def test_wrong_arguments_are_named(name, arguments, message):
    with pytest.raises(ValueError, match=message):
        MODULES.create(name, **arguments)


def test_nchw_bra_names_a_map_with_fewer_pixels_than_regions():
    with pytest.raises(ValueError, match="at least 7 pixels a side, got 6x9"):
        made("nchwBRA", in_channels=16)(image(1, 16, 6, 9))
