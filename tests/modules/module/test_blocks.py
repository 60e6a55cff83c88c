"""Blocks against naive transcriptions of their equations, and what they refuse."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from detrkit.modules.module.lfe import ShiftConv2d
from detrkit.modules.module.overlock import BRANCHES
from detrkit.registry import MODULES
from tests.modules.naive import (
    conv,
    gelu,
    image,
    layer_norm,
    made,
    moved,
    norm,
    relu,
    same,
    sigmoid,
    silu,
    unit,
)


@pytest.fixture(autouse=True)
def _no_grad():
    with torch.no_grad():
        yield


def scale(layer):
    return layer.gamma[:, None, None]


def fused(name, **arguments):
    """A module, its output, and that of its deployed form."""
    module, x = made(name, **arguments), image(1, arguments["in_channels"], 20, 18)
    expected = module(x)
    for layer in [m for m in module.modules() if hasattr(m, "convert_to_deploy")]:
        layer.convert_to_deploy()
        layer.convert_to_deploy()
    return module, expected, module(x)


def test_pinwheel_reaches_one_way_in_each_quarter():
    module = made("PinwheelConv", in_channels=2, out_channels=4, kernel_size=3)
    module.fuse = nn.Identity()
    seen = torch.zeros(1, 2, 6, 7, dtype=torch.float64)
    seen[0, 0, 2, 3] = 1
    answers = (module(seen) - module(torch.zeros_like(seen))).abs() > 1e-9
    places = [answer.nonzero().tolist() for answer in answers[0]]
    # maps of one more row and column, moved by half a pixel each way
    assert places == [
        [[3, 4], [3, 5], [3, 6]],
        [[2, 1], [2, 2], [2, 3]],
        [[3, 3], [4, 3], [5, 3]],
        [[0, 4], [1, 4], [2, 4]],
    ]


def test_pinwheel_halves_sides_with_stride():
    module = made("PinwheelConv", in_channels=4, stride=2)
    assert module(image(1, 4, 9, 12)).shape == (1, 4, 4, 6)


def test_ap_bottleneck_sees_four_corners_with_one_kernel():
    module, x = made("APBottleneck", in_channels=8), image(2, 8, 5, 6)
    weight = module.corner.conv.weight  # (1, 8, 3, 3)
    wide = F.pad(x, (2, 2, 2, 2))
    corners = []
    for top, left in ((0, 0), (2, 2), (0, 2), (2, 0)):
        seen = torch.zeros(2, 1, 5, 6, dtype=x.dtype)
        for i in range(3):
            for j in range(3):
                part = wide[:, :, top + i : top + i + 5, left + j : left + j + 6]
                seen += torch.einsum("oc,bchw->bohw", weight[:, :, i, j], part)
        corners.append(silu(norm(module.corner.norm, seen)))
    same(module(x), x + unit(module.fuse, torch.cat(corners, 1), silu))


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("PinwheelConv", {"in_channels": 4, "out_channels": 6}, "multiple of 4, got 6"),
        ("APBottleneck", {"in_channels": 12}, "multiple of 4, got 6"),
        ("APBottleneck", {"in_channels": 16, "kernel_size": 4}, "odd, got 4"),
        ("DWR", {"in_channels": 7}, "even, got 7"),
        ("GatedCNNBlock", {"in_channels": 8, "conv_ratio": 3.0}, "24 channels of 21"),
        ("MetaNeXtBlock", {"in_channels": 7}, "branches of 0"),
        ("FCM", {"in_channels": 3, "ratio": 0.1}, "0 of 3"),
        ("FCM", {"in_channels": 8, "out_channels": 9, "last": False}, "is 8, got 9"),
        ("MSBlock", {"in_channels": 8, "kernel_sizes": (1, 3, 3, 3, 3)}, "give 24, which 5"),
        ("MSCB", {"in_channels": 8, "stride": 3}, "1 or 2, got 3"),
        ("MSCB", {"in_channels": 8, "stride": 2, "parallel": False}, "in series"),
        ("DBlock", {"in_channels": 3, "mlp_ratio": 1}, "even number of channels, got 3"),
        ("EBlock", {"in_channels": 3, "expansion": 1}, "even number of channels, got 3"),
        ("FMB", {"in_channels": 1}, "at least 4 channels, got 2"),
        ("LFE", {"in_channels": 4}, "5 channels at least, got 4"),
        ("UniRepLKNetBlock", {"in_channels": 4, "kernel_size": 8}, "got 8"),
        ("RepConvBlock", {"in_channels": 4, "kernel_size": 3}, "got 3"),
        ("RepConvBlock", {"in_channels": 4, "res_scale": True}, "needs a layer_scale"),
    ],
)
def test_wrong_arguments(name, arguments, message):
    with pytest.raises(ValueError, match=message):
        MODULES.create(name, **arguments)


def test_faster_block_adds_its_input_not_the_partial_convolutions():
    module, x = made("FasterBlock", in_channels=8, layer_scale=0.5), image(2, 8, 5, 4)
    u = torch.cat([conv(module.mixer.conv, x[:, :2]), x[:, 2:]], 1)
    y = conv(module.mlp[1], unit(module.mlp[0], u, relu))
    same(module(x), x + scale(module.scale) * y)


def test_faster_block_takes_a_gated_net():
    module, x = made("FasterBlock", in_channels=8, mlp="ConvolutionalGLU"), image(1, 8, 5, 4)
    same(module(x), x + module.mlp(module.mixer(x)))


def test_star_block():
    module, x = made("StarBlock", in_channels=4), image(2, 4, 9, 8)
    u = unit(module.dwconv, x)
    star = conv(module.f1, u).clamp(0, 6) * conv(module.f2, u)
    same(module(x), x + conv(module.dwconv2, unit(module.g, star)))


@pytest.mark.parametrize("dense", [False, True])
def test_dwr(dense):
    module, x = made("DWR", in_channels=4, out_channels=8, dense=dense), image(2, 4, 9, 8)
    wide = unit(module.match, x, silu)
    region = unit(module.region, wide, silu if dense else relu)
    branches = [unit(layer, region, silu if dense else None) for layer in module.semantic]
    assert [b.shape[1] for b in branches] == [8, 4, 4]
    assert [layer.conv.dilation[0] for layer in module.semantic] == [1, 3, 5]
    together = torch.cat(branches, 1)
    mixed = unit(module.fuse, together, silu) if dense else conv(module.fuse, together)
    same(module(x), wide + mixed)


def test_gated_cnn_convolves_the_last_channels_only():
    module, x = made("GatedCNNBlock", in_channels=6, conv_ratio=0.5), image(2, 6, 8, 9)
    hidden = conv(module.fc1, layer_norm(module.norm, x))
    gate, kept, convolved = hidden[:, :16], hidden[:, 16:29], hidden[:, 29:]
    value = torch.cat([kept, conv(module.conv, convolved)], 1)
    same(module(x), x + conv(module.fc2, gelu(gate) * value))


def test_strip_block_uses_its_strips():
    module, x = made("StripBlock", in_channels=4, kernel_size=(1, 5)), image(2, 4, 7, 6)
    n, part = norm(module.norm1, x), module.attention
    u = gelu(conv(part.enter, n))
    strips = u
    for layer in part.strips:
        strips = conv(layer, strips)
    y = x + scale(module.scale1) * (n + conv(part.leave, u * strips))
    wide, deep, _, narrow = module.mlp
    hidden = gelu(conv(deep, conv(wide, norm(module.norm2, y))))
    same(module(x), y + scale(module.scale2) * conv(narrow, hidden))


def test_meta_next():
    module, x = made("MetaNeXtBlock", in_channels=16), image(2, 16, 12, 13)
    m = module.mixer
    parts = [x[:, :10], conv(m.square, x[:, 10:12])]
    parts += [conv(m.horizontal, x[:, 12:14]), conv(m.vertical, x[:, 14:])]
    first, _, second = module.mlp
    y = conv(second, gelu(conv(first, norm(module.norm, torch.cat(parts, 1)))))
    same(module(x), x + scale(module.scale) * y)


@pytest.mark.parametrize(("ratio", "last"), [(0.25, True), (0.75, False)])
def test_fcm_weighs_crosswise(ratio, last):
    module, x = made("FCM", in_channels=8, ratio=ratio, last=last), image(2, 8, 5, 4)
    cut = int(8 * ratio)
    a, b = x[:, :cut], unit(module.plain, x[:, cut:], silu)
    for layer in module.convolve:
        a = unit(layer, a, silu)
    place = sigmoid(unit(module.place, b))
    channel = sigmoid(conv(module.channel[0], a).mean((2, 3), keepdim=True))
    y = place * a + channel * b
    same(module(x), unit(module.last, y, silu) if last else y)


def test_arf():
    module, x = made("ARF", in_channels=3, out_channels=5), image(2, 3, 8, 9)
    a = unit(module.fields[0], x, silu)
    b = unit(module.fields[1], a, silu)
    c = unit(module.fields[2], b, silu)
    every = torch.cat([a, b, c], 1)
    pooled = torch.stack([every.mean(1), every.max(1).values], 1)
    s = sigmoid(unit(module.masks, pooled))
    y = x * (s[:, :3] * a + s[:, 3:6] * b + s[:, 6:] * c)
    same(module(x), unit(module.match, y, silu))


def squeezed(layer, x, act):
    _, first, _, second, _ = layer.gate
    return x * sigmoid(conv(second, act(conv(first, x.mean((2, 3), keepdim=True)))))


def responded(layer, x):
    size = x.square().sum((2, 3), keepdim=True).sqrt()
    return (layer.gamma * size / (size.mean(1, True) + 1e-6) + 1) * x + layer.beta


def test_unireplk():
    module, x = made("UniRepLKNetBlock", in_channels=4, kernel_size=7), image(2, 4, 8, 9)
    reparam = module.large.conv
    u = sum((unit(layer, x) for layer in reparam.dilated), unit(reparam.large, x))
    u = squeezed(module.squeeze, norm(module.large.norm, u), relu)
    y = norm(module.norm, conv(module.fc2, responded(module.response, gelu(conv(module.fc1, u)))))
    same(module(x), x + scale(module.scale) * y)


@pytest.mark.parametrize("side", [3, 5, 13])
def test_unireplk_deploys(side):
    module, expected, output = fused("UniRepLKNetBlock", in_channels=4, kernel_size=side)
    same(output, expected)
    assert isinstance(module.large.conv, nn.Conv2d)
    assert not any(isinstance(m, nn.BatchNorm2d) for m in module.modules())


@pytest.mark.parametrize("res_scale", [False, True])
def test_overlock(res_scale):
    module = made("RepConvBlock", in_channels=4, layer_scale=1.0, res_scale=res_scale)
    x = image(2, 4, 8, 9)
    y = x + conv(module.position, x)
    n, reparam = layer_norm(module.norm, y), module.large.conv
    u = sum((unit(layer, n) for layer in reparam.dilated), unit(reparam.large, n))
    v = gelu(conv(module.fc1, squeezed(module.squeeze, norm(module.large.norm, u), gelu)))
    p = conv(module.fc2, responded(module.response, v + conv(module.dwconv, v)))
    factor, bias = module.scale.weight[:, 0], module.scale.bias[:, None, None]
    same(module(x), y * factor + bias + p if res_scale else y + p * factor + bias)


def test_overlocks_kernels_fit_into_the_large_one():
    for side, branches in BRANCHES.items():
        assert all(rate * (k - 1) + 1 <= side for k, rate in branches)


def test_overlock_deploys():
    module, expected, output = fused("RepConvBlock", in_channels=4, kernel_size=19)
    same(output, expected)
    assert isinstance(module.large.conv, nn.Conv2d)


def test_ms_block_passes_groups_on():
    module, x = made("MSBlock", in_channels=6, num_layers=2), image(2, 6, 5, 4)
    first, second, third = unit(module.enter, x, silu).split(6, 1)
    outputs = [first]
    for group, branch in ((second, module.branches[1]), (third, module.branches[2])):
        y = group + outputs[-1]
        for bottleneck in branch:
            for layer in bottleneck:
                y = unit(layer, y, silu)
        outputs.append(y)
    assert module.branches[1][0][1].conv.weight.shape == (12, 1, 3, 3)
    same(module(x), unit(module.leave, torch.cat(outputs, 1), silu))


@pytest.mark.parametrize(("parallel", "add"), [(True, True), (False, True), (False, False)])
def test_mscb(parallel, add):
    module = made("MSCB", in_channels=4, out_channels=6, parallel=parallel, add=add)
    x = image(2, 4, 5, 6)
    u = unit(module.enter, x, lambda t: t.clamp(0, 6))
    seen = []
    for layer in module.kernels:
        seen.append(unit(layer, u, lambda t: t.clamp(0, 6)))
        u = u if parallel else u + seen[-1]
    v = sum(seen) if add else torch.cat(seen, 1)
    groups = math.gcd(v.shape[1], 6)
    each = v.shape[1] // groups
    order = [group * each + place for place in range(each) for group in range(groups)]
    same(module(x), conv(module.shortcut, x) + unit(module.leave, v[:, order]))


def dilated(part, x):
    """The first half of DarkIR's blocks."""
    n, before, wide, after = part.enter
    u = layer_norm(n, x)
    u = u if isinstance(before, nn.Identity) else conv(before, u)
    u = conv(wide, u)
    u = u if isinstance(after, nn.Identity) else conv(after, u)
    u = sum(conv(branch, u) for branch in part.branches)
    half = u.shape[1] // 2
    z = u[:, :half] * u[:, half:]
    return conv(part.leave, z * conv(part.channel[1], z.mean((2, 3), keepdim=True)))


@pytest.mark.parametrize("extra", [False, True])
def test_darkir_encoder_keeps_phases(extra):
    module, x = made("EBlock", in_channels=4, extra=extra), image(1, 4, 6, 5)
    y = x + module.beta * dilated(module.place, x)
    first, _, second = module.frequency.layers
    spectrum = torch.fft.fft2(layer_norm(module.norm, y))  # whole: nothing of rfft's halves
    magnitude = conv(first, spectrum.abs())
    magnitude = conv(second, torch.where(magnitude > 0, magnitude, 0.1 * magnitude))
    w = torch.fft.ifft2(torch.polar(torch.ones_like(magnitude), spectrum.angle()) * magnitude).real
    same(module(x), y + module.gamma * y * w)


def test_darkir_encoder_learns_from_silence():
    module = MODULES.create("EBlock", in_channels=4)
    x = torch.zeros(1, 4, 6, 6, requires_grad=True)
    with torch.enable_grad():
        nn.init.ones_(module.gamma)
        module(x).sum().backward()
    assert x.grad.isfinite().all()


@pytest.mark.parametrize("extra", [False, True])
def test_darkir_decoder(extra):
    module, x = made("DBlock", in_channels=4, extra=extra), image(2, 4, 11, 10)
    assert [b.dilation[0] for b in module.place.branches] == [1, 4, 9]
    y = x + module.beta * dilated(module.place, x)
    u = conv(module.fc1, layer_norm(module.norm, y))
    same(module(x), y + module.gamma * conv(module.fc2, u[:, :4] * u[:, 4:]))


def test_untrained_darkir_changes_nothing():
    x = torch.randn(1, 4, 8, 8)
    for name in ("EBlock", "DBlock"):
        assert torch.equal(MODULES.create(name, in_channels=4)(x), x)


def test_fmb():
    module, x = made("FMB", in_channels=4), image(2, 4, 16, 19)
    part = module.mixer
    n = x / x.square().sum(1, True).sqrt()
    y, v = conv(part.enter, n).split(4, 1)
    coarse = torch.stack(
        [v[:, :, :8].unfold(3, 10, 9).amax((2, 4)), v[:, :, 8:].unfold(3, 10, 9).amax((2, 4))], 2
    )
    variance = v.var((2, 3), correction=1, keepdim=True)
    m = conv(part.structure, coarse) * part.alpha + variance * part.beta
    m = gelu(conv(part.modulate, m))
    rows = torch.arange(16) * 2 // 16
    columns = torch.arange(19) * 2 // 19
    double, wide, _, narrow = part.detail
    detail = conv(narrow, gelu(conv(wide, conv(double, y))))
    y = x + conv(part.leave, v * m[:, :, rows][..., columns] + detail)
    n = y / y.square().sum(1, True).sqrt()
    u = gelu(conv(module.mlp.fc1, n))
    u = torch.cat([gelu(conv(module.mlp.conv, u[:, :2])), u[:, 2:]], 1)
    same(module(x), y + conv(module.mlp.fc2, u))


def test_fmb_refuses_small_maps():
    with pytest.raises(ValueError, match="at least 8, got 9x7"):
        made("FMB", in_channels=4)(image(1, 4, 9, 7))


def test_shifted_channels():
    layer, x = moved(ShiftConv2d(6, 6)), image(1, 6, 4, 5)
    layer.shift.copy_(ShiftConv2d(6, 6).shift)
    layer.mix = nn.Identity()
    y = torch.zeros_like(x)
    y[:, 0, :, :-1] = x[:, 0, :, 1:]
    y[:, 1, :, 1:] = x[:, 1, :, :-1]
    y[:, 2, :-1] = x[:, 2, 1:]
    y[:, 3, 1:] = x[:, 3, :-1]
    y[:, 4:] = x[:, 4:]
    assert torch.equal(layer(x), y)


def test_lfe():
    module, x = made("LFE", in_channels=5), image(1, 5, 4, 5)
    hidden = relu(module.enter(x))
    same(module(x), module.leave(hidden))
    assert hidden.shape[1] == 20
