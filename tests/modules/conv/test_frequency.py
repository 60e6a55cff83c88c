"""Wavelets, spectra and filters in convolutions, against their equations."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from detrkit.modules.conv.converse2d import converse
from detrkit.modules.conv.fadc import FrequencySelection
from detrkit.modules.conv.fdconv import BandModulation
from detrkit.modules.conv.sfs_conv import fractional_fourier, gabor
from detrkit.registry import MODULES
from tests.modules.naive import image, made, moved, same


def test_untrained_wavelet_levels_are_a_scaled_map() -> None:
    """Identity kernels: each level gives back what it was given, times its scale."""
    module = made("WTConv2d", in_channels=2, kernel_size=3, wt_levels=1)
    with torch.no_grad():
        module.base.conv.weight.zero_()
        module.base.conv.bias.zero_()
        level = module.levels[0]
        level.conv.weight.zero_()
        level.conv.weight[:, :, 1, 1] = 1
        level.scale.fill_(0.5)
    for size in ((6, 8), (5, 7)):
        x = image(1, 2, *size)
        same(module(x), x / 2)


def test_two_wavelet_levels_by_hand() -> None:
    module, x = made("WTConv2d", in_channels=1, kernel_size=3, wt_levels=2), image(1, 1, 8, 4)

    def haar(m: Tensor) -> Tensor:
        a, b, c, d = (m[..., i::2, j::2] for i in (0, 1) for j in (0, 1))
        return torch.cat([a + b + c + d, a + b - c - d, a - b + c - d, a - b - c + d], 1) / 2

    def back(bands: Tensor) -> Tensor:
        l, v, h, d = bands.split(1, 1)  # noqa: E741
        out = bands.new_zeros(1, 1, 2 * bands.shape[2], 2 * bands.shape[3])
        out[..., ::2, ::2], out[..., ::2, 1::2] = l + v + h + d, l + v - h - d
        out[..., 1::2, ::2], out[..., 1::2, 1::2] = l - v + h - d, l - v - h + d
        return out / 2

    first = haar(x)
    second = haar(first[:, :1])
    deep = back(module.levels[1](second))
    filtered = module.levels[0](first)
    expected = back(torch.cat([filtered[:, :1] + deep, filtered[:, 1:]], 1))
    same(module(x), module.base(x) + expected)


def centred_bands(x: Tensor, factors: tuple[int, ...]) -> list[Tensor]:
    """FADC's bands as its code has them: windows of the centred spectrum."""
    height, width = x.shape[-2:]
    spectrum = torch.fft.fftshift(torch.fft.fft2(x, norm="ortho"), dim=(-2, -1))
    bands, rest = [], x
    for f in factors:
        rows = slice(round(height / 2 - height / (2 * f)), round(height / 2 + height / (2 * f)))
        columns = slice(round(width / 2 - width / (2 * f)), round(width / 2 + width / (2 * f)))
        mask = torch.zeros(height, width)
        mask[rows, columns] = 1
        inverse = torch.fft.ifftshift(spectrum * mask, dim=(-2, -1))
        low = torch.fft.ifft2(inverse, norm="ortho").real
        bands.append(rest - low)
        rest = low
    return [*bands, rest]


@pytest.mark.parametrize("size", [(20, 12), (13, 17), (7, 8)])
def test_selected_frequencies_are_windows_of_the_spectrum(size: tuple[int, int]) -> None:
    module, x = moved(FrequencySelection(3)), image(2, 3, *size)
    bands = centred_bands(x, (2, 4, 8))
    for got, expected in zip(module.bands(x), bands, strict=True):
        same(got, expected)
    total = bands[-1]
    for gate, band in zip(module.gates, bands[:-1], strict=True):
        total = total + 2 * gate(x).sigmoid() * band
    same(module(x), total)


def test_an_untrained_adaptive_convolution_is_dilated() -> None:
    """Zero weights of rate and mask, factors of 1, halves of bands and masks: a plain one."""
    module = MODULES.create("AdaptiveDilatedConv", in_channels=4, dilation=3, epsilon=0.0)
    for factors in (module.low_factors, module.high_factors):
        for head in (factors.to_in, factors.to_out):
            torch.nn.init.zeros_(head.weight)
            torch.nn.init.zeros_(head.bias)
    x = torch.randn(1, 4, 12, 12)
    got = module.eval()(x)
    plain = F.conv2d(x, module.weight, dilation=3) / 2  # masks of 1/2
    same(got[..., 3:-3, 3:-3], plain, 1e-5)


def test_adaptive_kernels_by_hand() -> None:
    module, x = made("AdaptiveDilatedConv", in_channels=4, out_channels=6), image(2, 4, 5, 5)
    mean = module.weight.mean((2, 3), keepdim=True)
    for b in range(2):
        factors = []
        for part in (module.low_factors, module.high_factors):
            hidden = part.squeeze(x[b : b + 1].mean((2, 3), keepdim=True))
            down, along = (
                2 * head(hidden).sigmoid().flatten() for head in (part.to_out, part.to_in)
            )
            factors.append(down[:, None, None, None] * along[None, :, None, None])
        expected = mean * factors[0] + (module.weight - mean) * factors[1]
        same(module.kernels(x)[b], expected)


def frequency_kernels(module: Any) -> Tensor:
    """FDConv's kernels of each run, by the sheet: (kernel_num, out, in, k, k)."""
    rows, columns = module.picture
    radius = [
        (math.hypot(min(r, rows - r) / rows, c / columns), r * (columns // 2 + 1) + c)
        for r in range(rows)
        for c in range(columns // 2 + 1)
    ]
    order = [index for _, index in sorted((round(d, 6), i) for d, i in radius)]
    run = len(order) // module.kernel_num
    weight = torch.view_as_complex(module.dft_weight[0].contiguous())
    side, kernels = module.kernel_size, []
    for g in range(module.kernel_num):
        kept = torch.zeros(weight.numel(), dtype=weight.dtype)
        for index in order[g * run : (g + 1) * run]:
            kept[index] = weight.flatten()[index]
        picture = torch.fft.irfft2(kept.view_as(weight), module.picture)
        picture = picture * module.unit * module.kernel_num
        kernel = picture.view(rows // side, side, columns // side, side).permute(0, 2, 1, 3)
        kernels.append(kernel)
    return torch.stack(kernels)


@pytest.mark.parametrize("side", [1, 3])
def test_kernels_of_frequencies_by_hand(side: int) -> None:
    module = made("FDConv", in_channels=17, out_channels=20, kernel_size=side, kernel_num=2)
    kernels = frequency_kernels(module)
    same(module.kernels(), kernels, 1e-6)
    x = image(2, 17, 5, 6)
    with torch.no_grad():
        mean = x.mean((2, 3), keepdim=True)
        part = module.modulation
        hidden = part.squeeze(mean)
        to_in, to_out = (2 * h(hidden).sigmoid().flatten(1) for h in (part.to_in, part.to_out))
        shares = 2 * part.kernels(hidden).sigmoid().flatten(1) / 2
        local = module.local.conv(module.local.norm(mean.flatten(1)[:, None]))
        for b in range(2):
            weight = sum(shares[b, g] * kernels[g] for g in range(2))
            o, c, i, j = torch.meshgrid(*map(torch.arange, (20, 17, side, side)), indexing="ij")
            factor = to_out[b, o] * to_in[b, c]
            if side > 1:
                places = part.places(hidden)[b].flatten()
                factor = factor * 2 * places[i * side + j].sigmoid()
            weight = weight * factor * 2 * local[b, (o * side + i) * side + j, c].sigmoid()
            modulated = module.bands(x)[b : b + 1]
            expected = F.conv2d(modulated, weight, module.bias, padding=side // 2)
            same(module(x)[b : b + 1], expected, 1e-6)


@pytest.mark.parametrize("size", [(20, 12), (13, 17), (16, 32)])
@pytest.mark.parametrize("grid", [None, 64])
def test_bands_are_masks_of_a_half_spectrum(size: tuple[int, int], grid: int | None) -> None:
    module, x = moved(BandModulation(3, grid)), image(1, 3, *size)
    height, width = size
    spectrum = torch.fft.rfft2(x, norm="ortho")
    total, rest = torch.zeros_like(x), x
    for gate, f in zip(module.gates, (2, 4, 8), strict=True):
        n, m = (grid, grid) if grid else size
        rows, columns = torch.fft.fftfreq(n).abs(), torch.fft.rfftfreq(m)
        radius = torch.maximum(rows[:, None], columns)
        mask = ((radius <= 0.5 / f) if f > 2 else (radius < 0.25)).float()  # margin 1e-8, float32
        if grid:
            mask = F.interpolate(mask[None, None], (height, width // 2 + 1), mode="nearest")[0, 0]
        low = torch.fft.irfft2(spectrum * mask, s=size, norm="ortho")
        total = total + 2 * gate(x).sigmoid() * (rest - low)
        rest = low
    same(module(x), total + rest)


def test_a_narrow_frequency_convolution_is_plain() -> None:
    module = MODULES.create("FDConv", in_channels=16, out_channels=32)
    assert sum(p.numel() for p in module.parameters()) == 16 * 32 * 9 + 32


def test_the_spectrum_starts_as_a_convolution() -> None:
    torch.manual_seed(3)
    module = MODULES.create("FDConv", in_channels=20)
    torch.manual_seed(3)
    weight = torch.nn.Conv2d(20, 20, 3).weight
    same(module.kernels().sum(0) / module.kernel_num, weight, 1e-5)


def test_spectral_convolution_is_circular() -> None:
    module, x = made("DeepSparse", in_channels=2, size=(4, 5)), image(1, 2, 4, 5)
    kernel = torch.fft.irfft2(torch.complex(module.real, module.imag), s=(4, 5))[0]
    expected = torch.zeros_like(x)
    for r, c, i, j in itertools.product(range(4), range(5), range(4), range(5)):
        expected[0, :, r, c] += kernel[:, i, j] * x[0, :, (r - i) % 4, (c - j) % 5]
    same(module(x), expected)


def test_a_small_kernel_is_the_same_at_other_sizes() -> None:
    module = made("DeepSparse", in_channels=1, size=(8, 10))
    kernel = torch.zeros(8, 10).double()
    kernel[:2, :2] = image(2, 2)
    kernel[-1, -1] = 2.0
    spectrum = torch.fft.rfft2(kernel)
    with torch.no_grad():
        module.real.copy_(spectrum.real)
        module.imag.copy_(spectrum.imag)
    for size in ((8, 10), (12, 6), (7, 9)):
        x = image(1, 1, *size)
        expected = 2.0 * torch.roll(x, (-1, -1), (2, 3))
        for i, j in itertools.product(range(2), range(2)):
            expected = expected + kernel[i, j] * torch.roll(x, (i, j), (2, 3))
        same(module(x), expected)


def test_reverse_convolution_minimises() -> None:
    """The gradient of |y - (K * X)↓s|² + λ |X - X_0|² is zero at the result."""
    y, kernel, lam = image(1, 2, 4, 5), image(1, 2, 3, 3).softmax(-1), torch.tensor(0.3).double()
    lam = lam.view(1, 1, 1, 1)
    for scale in (1, 2, 3):
        start = y.repeat_interleave(scale, 2).repeat_interleave(scale, 3)
        x = converse(y, kernel, lam, scale).requires_grad_()
        padded = F.pad(x, (1, 1, 1, 1), mode="circular")
        turned = kernel.flip(2, 3).transpose(0, 1)  # a convolution, and not a correlation
        blurred = F.conv2d(padded, turned, groups=2)[..., ::scale, ::scale]
        ((y - blurred).square().sum() + (lam * (x - start).square()).sum()).backward()
        assert x.grad is not None
        assert x.grad.abs().max() < 1e-9


def test_reverse_convolution_of_a_point_is_the_map() -> None:
    module, x = made("Converse2D", in_channels=2), image(1, 2, 5, 6)
    with torch.no_grad():
        module.weight.zero_()
        module.weight[..., 1, 1] = 1
    same(module(x), x, 1e-6)
    up = made("Converse2D_Up", in_channels=2)
    with torch.no_grad():
        up.weight.copy_(module.weight)
    same(up(x)[..., ::2, ::2], x, 1e-6)
    same(up(x)[..., 1::2, 1::2], x, 1e-6)  # elsewhere the nearest


@pytest.mark.parametrize("name", ["Converse2D", "Converse2D_Up"])
def test_a_map_below_the_border_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="2x9"):
        MODULES.create(name, in_channels=2)(torch.randn(1, 2, 2, 9))


def test_filters_by_hand() -> None:
    got = gabor(math.radians(90), 2, 0.25)
    x, y = 1.0, -1.0  # the upper right corner
    along, across = y, -x
    envelope = math.exp(-((along**2 + (across / 2) ** 2) ** 0.25))
    assert float(got[0, 2]) == pytest.approx(envelope * math.cos(2 * math.pi * along / 2), abs=1e-5)
    f, p = 0.75, 0.25
    line = [math.cos(-f * t / math.sin(p) + (f**2 + t**2) / (2 * math.tan(p))) for t in (1, 2, 3)]
    expected = torch.outer(torch.tensor(line), torch.tensor(line))
    same(fractional_fourier(f, p), expected, 1e-5)


@pytest.mark.parametrize("kind", ["FrGT", "FrFT"])
def test_space_and_frequency_by_hand(kind: str) -> None:
    module, x = made("SFS_Conv", in_channels=16, out_channels=8, filter=kind), image(1, 16, 5, 6)
    unit = module.frequency
    to_space, to_frequency = module.to_spatial(x), module.to_frequency(x)
    groups = []
    for i, part in enumerate(to_frequency.split(2, 1)):
        conv = unit.convs[0 if kind == "FrGT" else i]
        fixed = torch.stack(list(conv.filters)).sum(0) if kind == "FrGT" else conv.filter
        y = F.conv2d(part, fixed * conv.weight, padding=1).relu()
        y = F.pad(y, (1, 0, 1, 0))
        groups.append(F.max_pool2d(y, 2, 1))
    frequency = to_frequency + unit.mix(torch.cat(groups, 1))  # 8 channels in and out
    first, second = to_space.chunk(2, 1)
    first = module.spatial.small(first)
    second = module.spatial.large(second + first)
    space = to_space + module.spatial.mix(torch.cat([first, second], 1))
    weights = torch.cat([space, frequency], 1).mean((2, 3), keepdim=True).softmax(1)
    same(module(x), module.mix(weights[:, :8] * space + weights[:, 8:] * frequency))


def test_space_and_frequency_do_not_drop_in_evaluation() -> None:
    module, x = made("SFS_Conv", in_channels=16), image(1, 16, 5, 6)
    assert torch.equal(module(x), module(x))
    module.train()
    assert not torch.equal(module(x), module(x))


@pytest.mark.parametrize(
    ("name", "arguments", "said"),
    [
        ("WTConv2d", {"kernel_size": 4}, "4"),
        ("WTConv2d", {"wt_type": "coif"}, "coif"),
        ("FDConv", {"kernel_size": 5}, "5"),
        ("FDConv", {"kernel_num": 7}, "divisor"),
        ("SFS_Conv", {"out_channels": 6}, "6"),
        ("SFS_Conv", {"filter": "FFT"}, "FFT"),
    ],
)
def test_wrong_arguments_are_named(name: str, arguments: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        MODULES.create(name, in_channels=24, **arguments)
