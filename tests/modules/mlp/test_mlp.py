"""Feed-forward nets against naive transcriptions of their equations."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from detrkit.layers.tile_filter import filter_tiles
from detrkit.registry import MODULES
from tests.modules.naive import image, made, per_pixel, same, sigmoid


@pytest.fixture(autouse=True)
def _no_grad():
    with torch.no_grad():
        yield


def depthwise(layer, x):
    """Of (C, H, W), tap by tap."""
    _, height, width = x.shape
    side = layer.kernel_size[0]
    wide = F.pad(x, [side // 2] * 4)
    out = sum(
        layer.weight[:, 0, i, j, None, None] * wide[:, i : i + height, j : j + width]
        for i in range(side)
        for j in range(side)
    )
    return out if layer.bias is None else out + layer.bias[:, None, None]


def layer_norm(norm, x):
    """Over the channels of each pixel of (C, H, W)."""
    centred = x - x.mean(0)
    unit = centred / (x.var(0, unbiased=False) + norm.eps).sqrt()
    return unit * norm.weight[:, None, None] + norm.bias[:, None, None]


def gelu(x):
    return x * (1 + torch.erf(x / 2**0.5)) / 2


def test_convolutional_glu():
    module, x = made("ConvolutionalGLU", in_channels=4, hidden_channels=7), image(1, 4, 5, 3)
    hidden = per_pixel(module.fc1, x[0])
    assert hidden.shape[0] == 2 * 4  # int(2/3 · 7)
    y = gelu(depthwise(module.dwconv, hidden[:4])) * hidden[4:]
    same(module(x)[0], per_pixel(module.fc2, y))


def test_dffn():
    module, x = made("DFFN", in_channels=4, hidden_channels=6), image(1, 4, 5, 3)
    t = gelu(per_pixel(module.fc1, x[0]))
    pointwise, around = module.detail
    y = t[:3] * depthwise(around, per_pixel(pointwise, layer_norm(module.norm, t[3:])))
    same(module(x)[0], per_pixel(module.fc2, y))


def test_frfn():
    module, x = made("FRFN", in_channels=8, hidden_channels=3), image(1, 8, 5, 3)
    refined = F.conv2d(x[:, :2], module.partial.weight, padding=1)[0]
    t = gelu(per_pixel(module.fc1, torch.cat([refined, x[0, 2:]])))
    same(module(x)[0], per_pixel(module.fc2, gelu(depthwise(module.dwconv, t[:3])) * t[3:]))


@pytest.mark.parametrize("side", [2, 4, 8])
def test_tiles_are_filtered_as_by_a_transform(side):
    x = image(2, 3, 2 * side, 3 * side)
    real, imaginary = image(2, 3, side, side // 2 + 1, seed=2)
    weight = torch.complex(real, imaginary)
    out = torch.empty_like(x)
    for i in range(0, 2 * side, side):
        for j in range(0, 3 * side, side):
            tile = torch.fft.rfft2(x[:, :, i : i + side, j : j + side])
            out[:, :, i : i + side, j : j + side] = torch.fft.irfft2(tile * weight)
    same(filter_tiles(x, side, real, imaginary), out)


def test_fmffn_filters_what_the_net_answers():
    module, x = made("FMFFN", in_channels=4, hidden_channels=6), image(1, 4, 4, 4)
    t = per_pixel(module.fc2, gelu(per_pixel(module.fc1, x[0])))
    weight = torch.view_as_complex(module.weight)  # (row, column, channel)
    spectrum = torch.fft.rfft2(t, norm="ortho") * weight.permute(2, 0, 1)
    same(module(x)[0], torch.fft.irfft2(spectrum, norm="ortho"))


def test_edffn_reflects_and_screens():
    module, x = made("EDFFN", in_channels=4, hidden_channels=3), image(1, 4, 7, 6)
    pointwise, around = module.project_in
    t = depthwise(around, per_pixel(pointwise, x[0]))
    t = per_pixel(module.project_out, gelu(t[:3]) * t[3:])
    tile = torch.cat([t, t[:, [-2]]], dim=1)  # 8 rows
    tile = torch.cat([tile, tile[:, :, [-2, -3]]], dim=2)  # 8 columns
    out = torch.fft.irfft2(torch.fft.rfft2(tile) * module.screen[:, 0, 0])
    same(module(x)[0], out[:, :7, :6])


@pytest.mark.parametrize("name", ["FMFFN", "EDFFN"])
def test_filters_start_by_passing_everything(name):
    module = MODULES.create(name, in_channels=4).double()
    x = image(1, 4, 9, 7)
    start = module.fc2(F.gelu(module.fc1(x))) if name == "FMFFN" else None
    if start is None:
        gate, value = module.project_in(x).chunk(2, dim=1)
        start = module.project_out(F.gelu(gate) * value)
    same(module(x), start)


def test_edffn_names_a_map_too_small_to_reflect():
    with pytest.raises(ValueError, match="at least 5 pixels a side, got 4x9"):
        made("EDFFN", in_channels=4)(image(1, 4, 4, 9))


def test_effn_entangles_magnitudes_and_pixels():
    module, x = made("EFFN", in_channels=16), image(1, 16, 4, 3)

    def gate(layer, spectrum):
        encode, conv, _ = layer.layers
        t = per_pixel(encode.conv, spectrum.real)
        norm = encode.norm
        shape = (-1, 1, 1)
        t = (t - norm.running_mean.view(shape)) / (norm.running_var.view(shape) + 1e-5).sqrt()
        t = (t * norm.weight.view(shape) + norm.bias.view(shape)).clamp(min=0)
        return sigmoid(per_pixel(conv, t)) * spectrum

    f = gate(module.gate, torch.fft.fft2(x[0])).abs()
    s = depthwise(module.spatial, x[0])
    both = torch.cat([gelu(f) * f, gelu(s) * s])
    frequency = torch.fft.ifft2(gate(module.gate_both, torch.fft.fft2(both))).abs()
    pairs = [
        F.conv2d(
            both[None, 2 * i : 2 * i + 2], module.spatial_both.weight[2 * i : 2 * i + 2], padding=1
        )
        for i in range(16)
    ]
    spatial = torch.cat(pairs, dim=1)[0]
    same(module(x)[0], per_pixel(module.project, torch.cat([frequency, spatial])), 1e-8)


@pytest.mark.parametrize("size", [(4, 6), (5, 3)])
def test_sefn_is_gated_by_the_blocks_input(size):
    module = made("SEFN", in_channels=[4, 4], hidden_channels=3)
    x, spatial = image(1, 4, *size), image(1, 4, *size, seed=2)
    height, width = size
    pointwise, around = module.project_in
    t = depthwise(around, per_pixel(pointwise, x[0]))
    half = [n // 2 * 2 for n in size]
    y = spatial[0, :, : half[0], : half[1]]
    y = (y[:, ::2, ::2] + y[:, 1::2, ::2] + y[:, ::2, 1::2] + y[:, 1::2, 1::2]) / 4
    _, conv1, norm1, _, conv2, norm2, _ = module.spatial
    for conv, norm in ((conv1, norm1), (conv2, norm2)):
        y = layer_norm(norm, conv(y[None])[0]).clamp(min=0)
    rows = [i * (height // 2) // height for i in range(height)]
    columns = [j * (width // 2) // width for j in range(width)]
    y = y[:, rows][:, :, columns]  # even sides: every pixel twice
    pointwise, around = module.fuse
    gate = depthwise(around, per_pixel(pointwise, torch.cat([t[:3], y])))
    same(module([x, spatial])[0], per_pixel(module.project_out, gelu(gate) * t[3:]))


@pytest.mark.parametrize("denominator", ["paper", "kernel"])
def test_kan_by_its_polynomials(denominator):
    module = made("KAN", in_channels=4, hidden_channels=6, num_groups=2, denominator=denominator)
    x = image(2, 4, 3, 2)

    def rational(layer, t):
        a, b = layer.numerator_weights[0], layer.denominator_weights
        out = torch.empty_like(t)
        for channel in range(t.shape[1]):
            v, weights = t[:, channel], b[channel * 2 // t.shape[1]]
            top = sum(a[k] * v**k for k in range(6))
            if denominator == "paper":
                below = 1 + sum(weights[k - 1] * v**k for k in range(1, 5)).abs()
            else:
                below = 1 + sum((weights[k - 1] * v**k).abs() for k in range(1, 5))
            out[:, channel] = top / below
        return out

    hidden = module.fc1(rational(module.act1, x))
    same(module(x), module.fc2(rational(module.act2, hidden)))


def test_kan_starts_as_identity_and_gelu():
    module = MODULES.create("KAN", in_channels=8)
    x = torch.linspace(-3, 3, 8 * 50).reshape(1, 8, 10, 5)
    same(module.act1(x), x, 1e-6)
    assert (module.act2(x) - F.gelu(x)).abs().max() < 0.004
    swish = MODULES.create("KAN", in_channels=8, act="swish").act2
    assert (swish(x) - F.silu(x)).abs().max() < 2e-4


def test_kan_learns_denominators_that_start_at_zero():
    with torch.enable_grad():
        module = MODULES.create("KAN", in_channels=8)
        module(torch.randn(1, 8, 4, 4)).square().sum().backward()
        assert module.act1.denominator_weights.grad.abs().min() > 0


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("DFFN", {"in_channels": 8, "hidden_channels": 9}, "even, got 9"),
        ("FMFFN", {"in_channels": 8, "window_size": 5}, "even, got 5"),
        ("FRFN", {"in_channels": 3}, "at least 4 channels, got 3"),
        ("EFFN", {"in_channels": 24}, "multiple of 16 channels, got 24"),
        ("SEFN", {"in_channels": [8, 4]}, r"same width, got \[8, 4\]"),
        ("KAN", {"in_channels": 12}, "must divide 12 channels, got 8"),
        ("KAN", {"in_channels": 8, "act": "relu"}, "got 'relu'"),
        ("KAN", {"in_channels": 8, "denominator": "x"}, "got 'x'"),
    ],
)
def test_wrong_arguments_are_named(name, arguments, message):
    with pytest.raises(ValueError, match=message):
        MODULES.create(name, **arguments)
