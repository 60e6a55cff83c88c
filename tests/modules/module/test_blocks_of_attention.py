"""Blocks that attend, conduct or weigh whole maps, against naive transcriptions."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from detrkit.modules.module.legm import LEGMBlock
from detrkit.registry import MODULES
from tests.modules.naive import (
    conv,
    gelu,
    image,
    image_norm,
    layer_norm,
    made,
    moved,
    norm,
    relu,
    same,
    sigmoid,
    silu,
    softmax,
    unit,
)


@pytest.fixture(autouse=True)
def _no_grad():
    with torch.no_grad():
        yield


def pki(module, x, identity):
    p = unit(module.enter, x, silu)
    u = conv(module.first, p)
    u = unit(module.mix, u + sum(conv(layer, u) for layer in module.others), silu)
    _, first, along, down, last, _ = module.gate
    mean = F.pad(p, (3, 3, 3, 3)).unfold(2, 7, 1).unfold(3, 7, 1).mean((4, 5))
    gate = sigmoid(conv(last, conv(down, conv(along, conv(first, mean)))))
    return unit(module.leave, u * gate + (u if identity else 0), silu)


@pytest.mark.parametrize("out", [8, 5])
def test_pki_module(out):
    module = made("PKIModule", in_channels=8, out_channels=out, kernel_sizes=(3, 5))
    x = image(2, 8, 9, 8)
    assert module.enter.norm.eps == 1e-3
    assert module.enter.conv.out_channels == 8  # 5 is rounded up
    same(module(x), pki(module, x, identity=out == 8))


def test_pki_block():
    module, x = made("PKIBlock", in_channels=8), image(1, 8, 7, 6)
    first, inner = module.mixer
    y = x + module.scale1.gamma[:, None, None] * pki(inner, norm(first, x), identity=True)
    batch, layer, wide, deep, _, narrow = module.mlp
    h = conv(deep, conv(wide, layer_norm(layer, norm(batch, y))))
    h = conv(narrow, h * sigmoid(h.mean((2, 3), keepdim=True)))
    same(module(x), y + module.scale2.gamma[:, None, None] * h)


def test_heat_spreads_by_a_sum_over_frequencies():
    module, x = made("Heat2D", in_channels=3, size=(5, 4)), image(1, 3, 5, 4)
    k = relu(module.frequencies @ module.conductivity.weight.T + module.conductivity.bias)
    heat, z = conv(module.enter, conv(module.dwconv, x)).split(3, 1)

    def wave(n, place, length):
        start = math.sqrt(1 / length) if n == 0 else math.sqrt(2 / length)
        return start * math.cos(n * (place + 0.5) * math.pi / length)

    spread = torch.zeros_like(heat)
    for n, m in itertools.product(range(5), range(4)):
        basis = torch.tensor(
            [[wave(n, i, 5) * wave(m, j, 4) for j in range(4)] for i in range(5)],
            dtype=torch.float64,
        )
        decay = (-((n * math.pi / 5) ** 2 + (m * math.pi / 4) ** 2) * k[n, m]).exp()
        amount = (heat * basis).sum((2, 3)) * decay
        spread += amount[:, :, None, None] * basis
    same(module(x), conv(module.leave, layer_norm(module.norm, spread) * silu(z)))


def test_heat_keeps_the_mean_of_each_channel():
    module, x = made("Heat2D", in_channels=3, size=4), image(2, 3, 7, 6)
    same(module.conduct(x).mean((2, 3)), x.mean((2, 3)))


@pytest.mark.parametrize("post_norm", [True, False])
def test_heat_block(post_norm):
    module = made("HeatBlock", in_channels=4, size=6, post_norm=post_norm, layer_scale=0.5)
    x = y = image(1, 4, 6, 6)
    for first, second, factor, _ in module.branches:
        branch, layer = (first, second) if post_norm else (second, first)
        out = layer_norm(layer, branch(y)) if post_norm else branch(layer_norm(layer, y))
        y = y + out * factor.gamma[:, None, None]
    same(module(x), y)


def heads(t, count):
    """(B, C, H, W) -> (B, M, N, c)."""
    return t.flatten(2).unflatten(1, (count, -1)).transpose(2, 3)


def test_fasa_block():
    module = made("FATBlock_FASA", in_channels=4, num_heads=2, kernel_size=3, mlp_kernel_size=3)
    x = image(2, 4, 8, 7)
    part = module.attention
    y = x + conv(module.position, x)
    n = image_norm(module.norm1, y)
    q, pooled = conv(part.q, n), n
    for layer in part.pool:
        if isinstance(layer, nn.Conv2d):
            pooled = conv(layer, pooled)
        else:
            pooled = norm(layer.norm, conv(layer.conv, pooled)[:, :, ::2, ::2])
    assert pooled.shape[2:] == (2, 2)
    k, v = conv(part.kv, pooled).split(4, 1)
    weights = softmax(heads(q, 2) @ heads(k, 2).transpose(2, 3) / 2**0.5, -1)
    g = (weights @ heads(v, 2)).transpose(2, 3).reshape(q.shape)
    local = silu(conv(part.local, q)) * sigmoid(g)
    y = y + conv(part.leave, local * g)
    h = gelu(conv(module.fc1, image_norm(module.norm2, y)))
    same(module(x), y + conv(module.fc2, norm(module.norm, h + conv(module.dwconv, h))))


def legm_block(**arguments):
    return moved(LEGMBlock(4, 2, 2.0, 4, **arguments))


@pytest.mark.parametrize("shift", [0, 2])
def test_legm_block_pixel_by_pixel(shift):
    module, x = legm_block(shift_size=shift, conv_type="DWConv"), image(1, 4, 5, 6)
    mean, var = x.mean(), x.var(correction=0)
    std = (var + 1e-5).sqrt()
    n = (x - mean) / std * module.norm.weight + module.norm.bias
    s = conv(module.norm.scale, std.view(1, 1, 1, 1))
    t = conv(module.norm.shift, mean.view(1, 1, 1, 1))
    mixer = module.mixer
    q, k = conv(mixer.qk, n).split(4, 1)
    v = conv(mixer.v, n)

    def reflected(i, length):
        return abs(i) if i < length else 2 * (length - 1) - i

    out = torch.zeros_like(v)
    for i, j, head in itertools.product(range(5), range(6), range(2)):
        channels = slice(2 * head, 2 * head + 2)
        top, left = (i + shift) // 4 * 4 - shift, (j + shift) // 4 * 4 - shift
        scores, values = [], []
        for y, z in itertools.product(range(top, top + 4), range(left, left + 4)):
            at = reflected(y, 5), reflected(z, 6)
            query, key = q[0, channels, i, j], k[0, channels][:, at[0], at[1]]
            place = torch.tensor(
                [math.copysign(math.log1p(abs(d)), d) for d in (i - y, j - z)], dtype=q.dtype
            )
            scores.append(query @ key / 2**0.5 + mixer.bias.mlp(place)[head])
            values.append(v[0, channels][:, at[0], at[1]])
        out[0, channels, i, j] = softmax(torch.stack(scores), 0) @ torch.stack(values)
    around = F.pad(v, (2, 2, 2, 2), mode="reflect")
    local = conv(mixer.conv, around)[:, :, 2:-2, 2:-2]
    y = x + conv(mixer.proj, out + local) * s + t
    first, _, second = module.mlp
    same(module(x), y + conv(second, relu(conv(first, y))))


@pytest.mark.parametrize("kind", ["DWConv", "Conv"])
def test_legm_block_without_attention(kind):
    module, x = legm_block(use_attn=False, conv_type=kind), image(2, 4, 7, 6)
    y = x
    for layer in module.mixer:
        if isinstance(layer, nn.ReLU):
            y = relu(y)
        else:
            edge = layer.kernel_size[0] // 2
            y = conv(layer, F.pad(y, [edge] * 4, mode="reflect") if edge else y)
            y = y[:, :, edge:-edge, edge:-edge] if edge else y
    y = x + y
    first, _, second = module.mlp
    same(module(x), y + conv(second, relu(conv(first, y))))


def test_legm_shifts_every_second_block_and_attends_last():
    module = MODULES.create("LEGM", in_channels=16, depth=4, attn_ratio=0.5, conv_type="Conv")
    assert [b.norm is not None for b in module.blocks] == [False, False, True, True]
    assert [b.mixer.shift for b in module.blocks[2:]] == [0, 4]


def test_esc_block_shares_one_large_kernel():
    module = MODULES.create("ESCBlock", in_channels=16, conv_blocks=3)
    kernels = [p for p in module.parameters() if p.shape[-1] == 13]
    assert len(kernels) == 1
    assert all(block[2].large is kernels[0] for block in module.blocks)


def test_esc_block():
    sizes = {"kernel_size": 3, "window_size": 3, "num_heads": 2, "conv_blocks": 2}
    module = made("ESCBlock", in_channels=8, **sizes)
    x = image(1, 8, 6, 6)

    def feed_forward(layer, u):
        u = gelu(conv(layer.fc1[0], u))
        return conv(layer.fc2, u + gelu(conv(layer.dwconv[0], u)))

    t = feed_forward(module.enter[1], layer_norm(module.enter[0], x))
    part = module.windows[1]
    q, k, v = conv(part.qkv, layer_norm(module.windows[0], t)).split(8, 1)
    out = torch.zeros_like(v)
    for i, j, head in itertools.product(range(6), range(6), range(2)):
        channels = slice(4 * head, 4 * head + 4)
        window = [
            (y, z)
            for y in range(i // 3 * 3, i // 3 * 3 + 3)
            for z in range(j // 3 * 3, j // 3 * 3 + 3)
        ]
        scores = [
            q[0, channels, i, j] @ k[0, channels, y, z] / 2
            + part.table[head, (y - i + 2) * 5 + z - j + 2]
            for y, z in window
        ]
        values = torch.stack([v[0, channels, y, z] for y, z in window])
        out[0, channels, i, j] = softmax(torch.stack(scores), 0) @ values
    t = t + conv(part.leave, out)
    for _, first, second in module.blocks:
        t = t + second(feed_forward(first, t))
    layer, last = module.leave
    same(module(x), x + conv(last, layer_norm(layer, t)))


def test_repvit():
    module, x = made("RepViTBlock", in_channels=4, out_channels=8), image(2, 4, 6, 5)
    match, mixer, squeeze = module.token_mixer
    wide = unit(match, x, silu)
    u = norm(mixer.norm, unit(mixer.conv, wide) + conv(mixer.conv1, wide) + wide)
    _, first, _, second, _ = squeeze.gate
    u = u * sigmoid(conv(second, relu(conv(first, u.mean((2, 3), keepdim=True)))))
    first, second = module.channel_mixer
    same(module(x), u + unit(second, unit(first, u, gelu)))


@pytest.mark.parametrize(
    ("arguments", "count"), [({}, 19344), ({"out_channels": 96, "stride": 2}, 46160)]
)
def test_repvit_deploys_to_the_published_number_of_parameters(arguments, count):
    module, x = made("RepViTBlock", in_channels=64, **arguments), image(1, 64, 6, 5)
    expected = module(x)
    for layer in [m for m in module.modules() if hasattr(m, "convert_to_deploy")]:
        layer.convert_to_deploy()
    same(module(x), expected)
    assert sum(p.numel() for p in module.parameters()) == count


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("FATBlock_FASA", {"in_channels": 8, "window_size": 3}, "1, 2, 4 or 8, got 3"),
        ("FATBlock_FASA", {"in_channels": 8, "num_heads": 3}, "must divide 8 channels"),
        ("LEGM", {"in_channels": 8, "num_heads": 3}, "must divide 8 channels"),
        ("LEGM", {"in_channels": 8, "conv_type": "conv"}, "DWConv, Conv or None, got 'conv'"),
        ("LEGM", {"in_channels": 8, "attn_ratio": 0.0}, "needs a conv_type"),
        ("ESCBlock", {"in_channels": 8, "num_heads": 3}, "must divide 8 channels"),
        ("RepViTBlock", {"in_channels": 8, "stride": 3}, "1 or 2, got 3"),
    ],
)
def test_wrong_arguments(name, arguments, message):
    with pytest.raises(ValueError, match=message):
        MODULES.create(name, **arguments)


@pytest.mark.parametrize(
    ("name", "message"), [("LEGM", "window's 8, got 9x7"), ("ESCBlock", "window of 16, got 9x7")]
)
def test_small_maps(name, message):
    with pytest.raises(ValueError, match=message):
        made(name, in_channels=8)(image(1, 8, 9, 7))
