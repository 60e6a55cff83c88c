"""Frequency Dynamic Convolution for Dense Image Prediction. Chen et al., CVPR 2025,
arXiv:2503.18783.

W_b = sum_g a_bg · IDFT(M_g · Θ)                     kernels of disjoint frequencies
W_b ← W_b · (place · in · out · local factors)       kernel spatial modulation
x'  = low + sum_f A_f(x) · band_f(x)                 frequency band modulation
y_b = W_b * x'_b

Θ is the spectrum of all kernels laid out as one picture of out·k × in·k; its frequencies, sorted
by radius, are cut into runs M_g of equal length, ties by position. The inverse transforms of the
runs are mixed, and not the spectra: fewer transforms for a batch, and the same sum.
"""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from detrkit.layers.activations import StarReLU
from detrkit.modules.conv.fadc import FrequencySelection
from detrkit.ops.per_image import conv2d_per_image
from detrkit.ops.spectrum import frequencies, irfft2, split_bands
from detrkit.registry import MODULES, Traits

#: The authors' margin of a band: in float32 it lets 1/8 and 1/16 in, and 1/4 not.
_MARGIN = 1e-8


class GlobalModulation(nn.Module):
    """Factors of input and output channels, places and kernels, from the mean of a map.

    Args:
        in_channels, out_channels, kernel_size: of the convolution.
        kernels: number of runs of frequencies.
        reduction: the hidden width is this share of the input, at least 16.
    """

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: int, kernels: int, reduction: float
    ) -> None:
        super().__init__()
        hidden = max(int(in_channels * reduction), 16)
        self.kernel_size, self.count = kernel_size, kernels
        self.squeeze = nn.Sequential(
            nn.Conv2d(in_channels, hidden, 1, bias=False), nn.BatchNorm2d(hidden), StarReLU()
        )
        self.to_in = nn.Conv2d(hidden, in_channels, 1)
        self.to_out = nn.Conv2d(hidden, out_channels, 1)
        self.places = nn.Conv2d(hidden, kernel_size**2, 1) if kernel_size > 1 else None
        self.kernels = nn.Conv2d(hidden, kernels, 1)
        for head in (self.to_in, self.to_out, self.places, self.kernels):
            if head is not None:
                nn.init.normal_(head.weight, std=1e-6)
                nn.init.zeros_(head.bias)  # type: ignore[arg-type]

    def forward(self, mean: Tensor) -> tuple[Tensor, Tensor]:
        """(B, in, 1, 1) -> factors (B, out, in, k or 1, k or 1) and shares (B, kernels)."""
        hidden = self.squeeze(mean)
        along, down = (2 * head(hidden).sigmoid().flatten(1) for head in (self.to_in, self.to_out))
        factors = (down[:, :, None] * along[:, None])[..., None, None]
        if self.places is not None:
            places = 2 * self.places(hidden).sigmoid().flatten(1)
            side = self.kernel_size
            factors = factors * places.unflatten(1, (1, 1, side, side))
        return factors, 2 * self.kernels(hidden).sigmoid().flatten(1) / self.count


class LocalModulation(nn.Module):
    """A factor for every weight, from a convolution along the channels' means.

    (B, in, 1, 1) -> (B, out, in, k, k).
    """

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int) -> None:
        super().__init__()
        self.shape = (out_channels, kernel_size, kernel_size)
        side = round(math.log2(in_channels) / 2 + 0.5) // 2 * 2 + 1
        self.norm = nn.LayerNorm(in_channels)
        self.conv = nn.Conv1d(1, math.prod(self.shape), side, padding=side // 2, bias=False)
        nn.init.constant_(self.conv.weight, 1e-6)

    def forward(self, mean: Tensor) -> Tensor:
        along = self.conv(self.norm(mean.flatten(1)[:, None]))  # (B, out·k·k, in)
        return 2 * along.unflatten(1, self.shape).permute(0, 1, 4, 2, 3).sigmoid()


class BandModulation(FrequencySelection):
    """Weighs the bands above 1/2, 1/4 and 1/8 of the frequencies. (B, C, H, W) -> the same.

    Args:
        channels: C.
        grid: side of the map for which the authors made their masks, which they stretch to other
            sizes; None: masks of the map's own size.
    """

    def __init__(self, channels: int, grid: int | None) -> None:
        super().__init__(channels)
        self.grid = grid

    def bands(self, x: Tensor) -> list[Tensor]:
        """Bands that add up to `x`, the lowest last."""
        height, width = x.shape[-2:]
        masks = [(self._rows(height, f, x), self._columns(width, f, x)) for f in self.factors]
        return split_bands(x, masks)

    def _rows(self, length: int, factor: int, like: Tensor) -> Tensor:
        frequency = frequencies(self.grid or length, like)
        if self.grid:
            frequency = frequency[_nearest(self.grid, length, like)]
        return (frequency.abs() < 0.5 / factor + _MARGIN).float()

    def _columns(self, length: int, factor: int, like: Tensor) -> Tensor:
        """Of a spectrum that has one of each pair of frequencies: twice that, but at both ends."""
        half = torch.arange(length // 2 + 1, device=like.device)
        frequency = half / length
        if self.grid:
            frequency = _nearest(self.grid // 2 + 1, length // 2 + 1, like) / self.grid
        pairs = torch.where((half > 0) & (2 * half < length), 2.0, 1.0)
        kept = (frequency < 0.5 / factor + _MARGIN) * pairs
        return F.pad(kept, (0, length - kept.shape[0]))


def _nearest(source: int, target: int, like: Tensor) -> Tensor:
    """Indices (target,) into `source` values when these are stretched to `target`."""
    return torch.arange(target, device=like.device) * source // target


@MODULES.register(
    family="conv",
    paper="arXiv:2503.18783",
    venue="CVPR 2025",
    example={"in_channels": 24, "out_channels": 20},
    traits=Traits(float32="transforms of maps"),
)
class FDConv(nn.Module):
    """A convolution whose kernel is mixed by frequency. (B, in, H, W) -> (B, out, H/s, W/s).

    Up to 16 channels it is a plain convolution, as in the paper: too little to modulate. Training
    needs batches of two images or more: a norm sees one value of each.

    Args:
        in_channels: C.
        out_channels: width of the result; None keeps C.
        kernel_size: k, 1 or 3; bands of the input are weighed at 3.
        stride: s.
        bias: whether the convolution has one.
        kernel_num: runs of frequencies; divides out·k·(in·k // 2 + 1).
        reduction: hidden width of the modulation, as a share of C; at least 16.
        mask_grid: 64 for the authors' weights, whose masks of bands were made for maps of 64 × 64
            and stretched; None: masks of the map's own size.

    Raises:
        ValueError: k is neither 1 nor 3, or `kernel_num` does not divide the frequencies.
    """

    order: Tensor

    def __init__(
        self,
        in_channels: int,
        out_channels: int | None = None,
        kernel_size: int = 3,
        stride: int = 1,
        *,
        bias: bool = True,
        kernel_num: int = 4,
        reduction: float = 0.0625,
        mask_grid: int | None = None,
    ) -> None:
        super().__init__()
        self.out_channels = out = out_channels or in_channels
        if kernel_size not in (1, 3):
            raise ValueError(f"kernel_size must be 1 or 3, got {kernel_size}")
        self.kernel_size, self.stride, self.kernel_num = kernel_size, stride, kernel_num
        conv = nn.Conv2d(in_channels, out, kernel_size, stride, kernel_size // 2, bias=bias)
        self.plain = conv if min(in_channels, out) <= 16 else None
        if self.plain is not None:
            return
        self.bias = conv.bias
        self.picture = (out * kernel_size, in_channels * kernel_size)
        self.unit = min(in_channels, out) // 2
        spectrum = torch.fft.rfft2(conv.weight.detach().transpose(1, 2).reshape(self.picture))
        if spectrum.numel() % kernel_num:
            raise ValueError(
                f"kernel_num {kernel_num} does not divide {spectrum.numel()} frequencies of the "
                f"kernels; choose a divisor"
            )
        self.dft_weight = nn.Parameter(torch.view_as_real(spectrum)[None] / self.unit)
        radius = torch.stack(
            torch.meshgrid(
                torch.fft.fftfreq(self.picture[0]),
                torch.fft.rfftfreq(self.picture[1]),
                indexing="ij",
            ),
            dim=-1,
        ).norm(dim=-1)
        order = radius.flatten().argsort(stable=True)
        self.register_buffer("order", order.view(kernel_num, -1), persistent=False)
        self.modulation = GlobalModulation(in_channels, out, kernel_size, kernel_num, reduction)
        self.local = LocalModulation(in_channels, out, kernel_size)
        self.bands = BandModulation(in_channels, mask_grid) if kernel_size > 1 else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        if self.plain is not None:
            return self.plain(x)
        mean = x.mean((2, 3), keepdim=True)
        factors, shares = self.modulation(mean)
        mixed = torch.einsum("bg,gocij->bocij", shares, self.kernels().to(shares.dtype))
        kernels = mixed * factors * self.local(mean)
        x = self.bands(x)
        return conv2d_per_image(x, kernels, self.bias, self.stride, self.kernel_size // 2)

    def kernels(self) -> Tensor:
        """Of each run of frequencies: (kernel_num, out, in, k, k)."""
        if torch.onnx.is_in_onnx_export():  # no transforms there, but constants
            spectra = torch.view_as_complex(self._spectra().detach()).numpy()
            kernels = torch.from_numpy(np.fft.irfft2(spectra, self.picture).astype(np.float32))
        else:
            kernels = irfft2(torch.view_as_complex(self._spectra()), self.picture)
        side = self.kernel_size
        return kernels.unflatten(1, (-1, side)).unflatten(3, (-1, side)).transpose(2, 3)

    def _spectra(self) -> Tensor:
        """The weights, each run alone: (kernel_num, out·k, in·k // 2 + 1, 2)."""
        weight = self.dft_weight[0].flatten(0, 1) * (self.unit * self.kernel_num)
        runs = torch.zeros(self.kernel_num, *weight.shape, dtype=weight.dtype, device=weight.device)
        index = self.order[..., None].expand(-1, -1, 2)
        runs = runs.scatter(1, index, weight[self.order])
        return runs.unflatten(1, self.dft_weight.shape[1:3])
