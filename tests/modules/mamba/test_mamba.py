"""State-space modules against naive transcriptions of their equations."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from detrkit.layers.state_space import MambaMixer, per_chunk
from detrkit.modules.mamba.mair import snake, snake_orders
from detrkit.modules.mamba.mobilemamba import BothWaysScan, WaveletScan
from detrkit.modules.mamba.savss import snakes
from detrkit.registry import MODULES
from tests.modules.naive import image, made, moved, per_pixel, same, sigmoid
from tests.ops.naive_scan import stepwise


@pytest.fixture(autouse=True)
def _no_grad():
    with torch.no_grad():
        yield


def silu(x: Tensor) -> Tensor:
    return x * sigmoid(x)


def layer_norm(layer: Any, x: Tensor) -> Tensor:
    """Over the first dimension of (C, …)."""
    variance, mean = torch.var_mean(x, 0, correction=0)
    shape = (-1, *[1] * (x.dim() - 1))
    normed = (x - mean) / (variance + layer.eps).sqrt()
    return normed * layer.weight.reshape(shape) + layer.bias.reshape(shape)


def scanned(scan: Any, k: int, x: Tensor, prompt: Tensor | float = 0.0) -> Tensor:
    """Direction k of a `DirectionalScan`: (D, L) -> (D, L)."""
    low, b, c = (scan.x_proj_weight[k] @ x).split([scan.dt_rank, scan.d_state, scan.d_state])
    own = slice(k * len(x), (k + 1) * len(x))
    return stepwise(
        x[None],
        (scan.dt_projs_weight[k] @ low)[None],
        -scan.A_logs[own].exp(),
        b[None, None],
        (c + prompt)[None, None],
        scan.Ds[own],
        scan.dt_projs_bias[k],
    )[0]


def in_orders(scan: Any, x: Tensor, orders: list[list[int]]) -> list[Tensor]:
    """Each direction along its pixels, written back to them: (D, H, W) -> K times (D, H, W)."""
    results = []
    for k, order in enumerate(orders):
        y = torch.empty_like(x.flatten(1))
        y[:, order] = scanned(scan, k, x.flatten(1)[:, order])
        results.append(y.view_as(x))
    return results


def four_ways(h: int, w: int) -> list[list[int]]:
    rows = list(range(h * w))
    columns = [i * w + j for j in range(w) for i in range(h)]
    return [rows, columns, rows[::-1], columns[::-1]]


def test_ss2d():
    module = made("SS2D", in_channels=4, d_state=2, ssm_rank_ratio=1.0)
    x = image(1, 4, 3, 2)
    x_part, z = per_pixel(module.in_proj, x[0]).chunk(2)
    x_part = per_pixel(module.down, F.gelu(module.conv(x_part[None])[0]))
    y = sum(in_orders(module.scan, x_part, four_ways(3, 2)))
    y = per_pixel(module.up, layer_norm(module.norm, y)) * F.gelu(z)
    same(module(x)[0], per_pixel(module.out_proj, y))


def test_ss2d_without_gate():
    module = made("SS2D", in_channels=4, d_state=2, gated=False)
    assert module.in_proj.out_channels == 8
    x = image(1, 4, 3, 2)
    inner = F.gelu(module.conv(module.in_proj(x))[0])
    y = sum(in_orders(module.scan, inner, four_ways(3, 2)))
    same(module(x)[0], per_pixel(module.out_proj, layer_norm(module.norm, y)))


@pytest.mark.parametrize("groups", [1, 2])
def test_vssd_sums_over_all_pixels(groups):
    heads, n, length = 4, 3, 5
    block = made("VMAMBA2Block", in_channels=4, num_heads=heads, ssd_ngroups=groups, d_state=n)
    mixer = block.mixer
    v, b, c = (
        image(1, length, 8),
        image(1, length, groups * n),
        image(1, length, groups * n, seed=3),
    )
    dt = image(1, length, heads, seed=4)
    expected = torch.empty_like(v)
    for head in range(heads):
        own, group = slice(2 * head, 2 * head + 2), head % groups
        states = slice(n * group, n * group + n)
        total = torch.zeros(n, 2).double()
        for t in range(length):
            step = torch.log1p((dt[0, t, head] + mixer.dt_bias[head]).exp())
            weight = step * mixer.A_log[head].exp()
            total += torch.outer(b[0, t, states], weight * v[0, t, own])
        for t in range(length):
            expected[0, t, own] = c[0, t, states] @ total + mixer.D[head] * v[0, t, own]
    same(mixer.mix(v, b, c, dt), expected)


def test_vssd_has_no_order():
    mixer = made("VMAMBA2Block", in_channels=4, num_heads=2, d_state=3).mixer
    parts = (image(1, 6, 8), image(1, 6, 3), image(1, 6, 3, seed=3), image(1, 6, 2, seed=4))
    order = torch.tensor([3, 1, 5, 0, 2, 4])
    same(mixer.mix(*(t[:, order] for t in parts)), mixer.mix(*parts)[:, order])


def test_snake():
    grid = torch.arange(15).reshape(3, 5).numpy()
    assert snake(grid, 2, 2).tolist() == [0, 1, 6, 5, 10, 11, 12, 13, 8, 7, 2, 3, 4, 9, 14]
    assert snake(grid, 2, 1)[:7].tolist() == [0, 5, 10, 11, 12, 7, 6]
    assert snake(grid, 8, 8).tolist() == [0, 1, 2, 3, 4, 9, 8, 7, 6, 5, 10, 11, 12, 13, 14]


def test_snakes_of_the_four_views():
    orders = snake_orders(2, 3, 8, 8).tolist()
    assert orders == [
        [0, 1, 2, 5, 4, 3],
        [5, 4, 3, 0, 1, 2],
        [0, 3, 4, 1, 2, 5],
        [5, 2, 1, 4, 3, 0],
    ]


def test_vmm():
    module, x = made("VMM", in_channels=4, d_state=2, scan_len=2), image(1, 4, 3, 5)
    x_part, z = per_pixel(module.in_proj, x[0]).chunk(2)
    x_part = silu(module.conv(x_part[None])[0])
    results = in_orders(module.scan, x_part, snake_orders(3, 5, 2, 2).tolist())
    y = torch.zeros_like(results[0])
    for channel in range(len(y)):
        means = torch.stack([result[channel].mean() for result in results])
        own = slice(4 * channel, 4 * channel + 4)
        gates = sigmoid(module.gate.weight[own, :, 0, 0] @ means + module.gate.bias[own])
        y[channel] = sum(g * result[channel] for g, result in zip(gates, results, strict=True))
    same(module(x)[0], per_pixel(module.out_proj, layer_norm(module.norm, y) * silu(z)))


def test_tinyvim_pools_low_frequencies():
    mixer = made("TViMBlock", in_channels=8, d_state=2, stage=2).mixer
    x = image(1, 4, 4, 6)
    corners = itertools.product((0, 2), (0, 2, 4))
    means = [x[0, :, i : i + 2, j : j + 2].mean((1, 2)) for i, j in corners]
    pooled = torch.stack(means, 1).view(4, 2, 3)
    y = layer_norm(mixer.norm, sum(in_orders(mixer.scan, pooled, four_ways(2, 3))))
    detail = x[0] - pooled.repeat_interleave(2, 1).repeat_interleave(2, 2)
    same(mixer.mix_low(x)[0], F.interpolate(y[None], (4, 6), mode="bilinear")[0] + detail)


@pytest.mark.parametrize(("stage", "low"), [(0, 4), (1, 8), (2, 8), (3, 12)])
def test_tinyvim_stages(stage, low):
    block = made("TViMBlock", in_channels=16, d_state=2, stage=stage)
    assert block.mixer.parts == [low, 16 - low]
    assert block.mixer.pool == 2 ** (3 - stage)


def test_mobilemamba_starts_at_zero():
    module = MODULES.create("MobileMambaModule", in_channels=64).eval()
    assert not module(torch.randn(1, 64, 5, 6)).any()


def test_mobilemamba_scans_rows_both_ways():
    module, x = moved(BothWaysScan(3, 2.0)), image(1, 3, 2, 3)
    x_part, z = module.in_proj(x)[0].chunk(2)
    x_part = silu(module.conv(x_part[None])[0])
    y = sum(in_orders(module.scan, x_part, [list(range(6)), list(range(6))[::-1]]))
    same(module(x), module.out_proj((layer_norm(module.norm, y) * silu(z))[None]))


def test_mobilemamba_wavelets_restore_what_is_not_filtered():
    module, x = moved(WaveletScan(2, 3, 1.0)), image(1, 2, 5, 7)
    module.scan_scale.zero_()
    module.band_scale.fill_(0.5)
    nn.init.dirac_(module.conv.weight, groups=8)
    same(module(x), x / 2)


@pytest.mark.parametrize(
    ("channels", "ratio", "widths"),
    [(64, 0.25, [16, 16, 32]), (96, 0.25, [32, 24, 40]), (24, 0.25, [0, 6, 18])],
)
def test_mobilemamba_widths(channels, ratio, widths):
    module = MODULES.create("MobileMambaModule", in_channels=channels, global_ratio=ratio)
    assert module.widths == widths


def test_assm():
    module = made("ASSM", in_channels=6, d_state=2, num_tokens=3, inner_rank=2)
    x = image(1, 6, 3, 4)
    table = module.mix @ module.basis
    labels = [int(module.route(pixel).argmax()) for pixel in x[0].flatten(1).T]
    assert len(set(labels)) > 1
    order = [p for label in range(3) for p in range(12) if labels[p] == label]
    prompt = torch.stack([table[label] for label in labels], 1)  # of pixels, not of steps
    values = module.in_proj(x)
    values = (values * sigmoid(module.gate(values)))[0].flatten(1)
    y = torch.empty_like(values)
    y[:, order] = scanned(module.scan, 0, values[:, order], prompt)
    expected = per_pixel(module.out_proj, layer_norm(module.norm, y).view(-1, 3, 4))
    same(module(x)[0], expected)


def test_assm_is_random_in_training_only():
    module = made("ASSM", in_channels=6, d_state=2, num_tokens=8, inner_rank=2)
    x = image(1, 6, 5, 5)
    same(module(x), module(x), 0)
    module.train()
    assert (module(x) - module(x)).abs().max() > 0


def test_savss_orders():
    orders, codes = snakes(2, 3)
    assert orders.tolist() == [
        [3, 4, 5, 2, 1, 0],
        [0, 3, 4, 1, 2, 5],
        [0, 3, 1, 2, 4, 5],
        [2, 5, 1, 0, 4, 3],
    ]
    assert codes[:2].tolist() == [[0, 1, 1, 3, 2, 2], [0, 4, 1, 3, 1, 4]]
    assert codes[2].tolist() == codes[3].tolist() == [0, 1, 4, 1, 1, 4]


@pytest.mark.parametrize("size", [(1, 1), (1, 4), (5, 1), (5, 4), (6, 7)])
def test_savss_visits_each_pixel_once(size):
    orders, _ = snakes(*size)
    assert (orders.sort(-1).values == torch.arange(size[0] * size[1])).all()


def test_savss():
    module, x = made("SAVSS", in_channels=8, d_state=2), image(1, 8, 3, 2)
    u, z = per_pixel(module.in_proj, x[0].flatten(1)[..., None])[..., 0].chunk(2)
    u = silu(module.bottleneck(u.view(1, 16, 3, 2)))[0].flatten(1)
    low, b, c = (module.x_proj.weight @ u).split(module.widths)
    dt = module.dt_proj.weight @ low + module.dt_proj.bias[:, None]
    orders, codes = snakes(3, 2)
    y = torch.zeros_like(u)
    for order, moves in zip(orders, codes, strict=True):
        steps = stepwise(
            u[None, :, order], dt[None], -module.A_log.exp(),
            (b + module.directions[moves].T)[None, None], c[None, None], module.D,
            module.dt_proj.bias,
        )  # fmt: skip
        y[:, order] += steps[0]
    same(module(x)[0].flatten(1), module.out_proj.weight @ (y * silu(z)))


def test_mamba_mixer():
    mixer, x = moved(MambaMixer(4, d_state=3)), image(2, 7, 4)
    for tokens, ours in zip(x, mixer(x), strict=True):
        u, z = (tokens @ mixer.in_proj.weight.T).T.chunk(2)
        past = torch.zeros_like(u)
        for t, tap in itertools.product(range(7), range(4)):
            if t - tap >= 0:
                past[:, t] += mixer.conv.weight[:, 0, 3 - tap] * u[:, t - tap]
        u = silu(past + mixer.conv.bias[:, None])
        low, b, c = (mixer.x_proj.weight @ u).split(mixer.widths)
        dt = mixer.dt_proj.weight @ low
        y = stepwise(
            u[None], dt[None], -mixer.A_log.exp(), b[None, None], c[None, None], mixer.D,
            mixer.dt_proj.bias,
        )  # fmt: skip
        same(ours, (y[0] * silu(z)).T @ mixer.out_proj.weight.T)


def test_chunks_share_a_layer():
    layer, tokens = nn.Linear(3, 3).double(), image(2, 5, 12)
    same(per_chunk(layer, tokens, 4), torch.cat([layer(t) for t in tokens.chunk(4, -1)], -1))


def test_glvss_gates_rows_and_columns():
    module, x = moved(MODULES.create("GL_VSS", in_channels=16).conform[0]), image(1, 16, 4, 5)
    expected = x.clone()
    w_max, w_mean = module.pool.weight.flatten()
    for side in (3, 2):
        pooled = w_max * x.amax(side) + w_mean * x.mean(side) + module.pool.bias
        expected += x * sigmoid(module.norm(module.conv(pooled))).unsqueeze(side)
    same(module(x), expected)


def test_glvss_local_branch():
    module, x = made("GL_VSS", in_channels=16).local, image(1, 16, 5, 4)
    b = start = silu(module.point.norm(module.point.conv(x))) + module.near(x)
    rings = []
    for rate, ring in enumerate(module.rings, 1):
        first, (depth, point), last = ring.layers
        t = first(b)
        t = F.conv2d(t, depth.conv.weight, padding=rate, dilation=rate, groups=16)
        b = (b + last(point(silu(depth.norm(t))))).relu()
        rings.append(b)
    merged = module.merge(torch.cat(rings, 1))
    down, _, up = module.gate.layers
    squeezed = [down(pool[..., None, None]) for pool in (merged.mean((2, 3)), merged.amax((2, 3)))]
    gate = sigmoid(sum(up(s.relu()) for s in squeezed))
    same(module(x), merged * gate + start)


def test_glvss_global_branch():
    module, x = made("GL_VSS", in_channels=16, depth=1, d_state=2), image(1, 16, 3, 2)
    start = module.conform(x)
    unit = module.units[0]
    far = []
    for chunk in start.chunk(4, 1):
        t = chunk[0].flatten(1)
        m = unit.mixer(layer_norm(unit.norm, t).T[None])[0].T
        far.append(layer_norm(unit.last_norm, t + m).view(4, 3, 2))
    far, near = torch.cat(far)[None], module.local(start)
    joined = module.join(far + near)
    lengths = ((far**2).sum(1) * (near**2).sum(1)).sqrt()
    likeness = sigmoid((far * near).sum(1) / lengths)
    same(module(x), module.embed(joined * likeness) + joined + far, 1e-7)


def test_csi():
    module, x = made("CSI", in_channels=8, d_state=2), image(1, 8, 3, 2)
    normed, mixer = layer_norm(module.norm, x[0].flatten(1)), module.mixer
    mixed = torch.empty_like(normed)
    for j, t in enumerate(normed.chunk(4)):
        y = layer_norm(mixer.norm, mixer.mixer(t.T[None])[0].T)
        first, last = mixer.mlp.layers
        y = last(F.gelu(first(y.T))).T + mixer.scale * t
        for i in range(2):
            mixed[4 * i + j] = y[i]
    same(module(x), module.project(mixed.view(1, 8, 3, 2)))


def test_gated_csi():
    module, x = made("GatedCSI", in_channels=6, out_channels=4, d_state=2), image(1, 6, 3, 2)
    skip = module.skip(x)
    y = module.interact(skip)
    means, taps = F.pad(y[0].mean((1, 2)), (1, 1)), module.channel_gate.weight[0, 0]
    side = len(taps) // 2
    means = means[1 - side : len(means) - 1 + side]
    y = y * sigmoid(torch.stack([taps @ means[c : c + len(taps)] for c in range(4)]))[:, None, None]
    pooled = torch.stack([y[0].mean(0), y[0].amax(0)])[None]
    y = y * sigmoid(module.pixel_gate(pooled))
    same(module(x), module.project(skip + y))


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("SS2D", {"in_channels": 8, "d_conv": 4}, "got 4"),
        ("VMAMBA2Block", {"in_channels": 8, "num_heads": 3}, "got 3"),
        ("VMAMBA2Block", {"in_channels": 8, "num_heads": 4, "ssd_ngroups": 3}, "got 3"),
        ("VMM", {"in_channels": 8, "scan_len": 1, "shifted": True}, "got 1"),
        ("TViMBlock", {"in_channels": 8, "stage": 4}, "got 4"),
        ("MobileMambaModule", {"in_channels": 8, "kernel_size": 2}, "got 2"),
        ("MobileMambaModule", {"in_channels": 8, "global_ratio": 1.0}, "16 of 8"),
        ("ASSM", {"in_channels": 2}, "got 2"),
        ("SAVSS", {"in_channels": 4}, "got 8"),
        ("GL_VSS", {"in_channels": 18}, "got 18"),
        ("CSI", {"in_channels": 6}, "got 6"),
    ],
)
def test_wrong_arguments(name, arguments, message):
    with pytest.raises(ValueError, match=message):
        MODULES.create(name, **arguments)


def test_tinyvim_refuses_a_map_without_a_pooled_pixel():
    block = made("TViMBlock", in_channels=8, d_state=2, stage=0)
    with pytest.raises(ValueError, match="8"):
        block(image(1, 8, 7, 9))
