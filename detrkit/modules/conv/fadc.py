"""Frequency-Adaptive Dilated Convolution for Semantic Segmentation. Chen et al., CVPR 2024,
arXiv:2403.05369.

x'  = low + sum_b A_b(x) · band_b(x)                           frequency selection
W'  = λ_l · mean(W) + λ_h · (W - mean(W))                      adaptive kernel
y   = sum_k W'_k · m_k · x'(p + p_k · (1 + D(p)))              adaptive dilation

D is the rate of dilation that each pixel predicts, and starts at dilation - 1. The low-pass
filters of the bands are windows of the spectrum as in the authors' code, one row or column wider
on the side of negative frequencies where sizes are even.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from detrkit.ops.deform_conv import deform_taps
from detrkit.ops.spectrum import split_bands
from detrkit.registry import MODULES, Traits


class FrequencySelection(nn.Module):
    """Weighs the bands of a map at each pixel. (B, C, H, W) -> (B, C, H, W).

    Args:
        channels: C.
        factors: the lowest 1 / f of the frequencies stay below each band, f ascending.
    """

    def __init__(self, channels: int, factors: Sequence[int] = (2, 4, 8)) -> None:
        super().__init__()
        self.factors = tuple(factors)
        self.gates = nn.ModuleList(nn.Conv2d(channels, 1, 3, padding=1) for _ in self.factors)
        for gate in self.gates:
            nn.init.zeros_(gate.weight)  # type: ignore[arg-type]
            nn.init.zeros_(gate.bias)  # type: ignore[arg-type]

    def bands(self, x: Tensor) -> list[Tensor]:
        """Bands that add up to `x`, the lowest last."""
        return split_bands(
            x,
            [tuple(_window(n, f, x) for n in map(int, x.shape[-2:])) for f in self.factors],  # type: ignore[misc]
        )

    def forward(self, x: Tensor) -> Tensor:
        *bands, total = self.bands(x)
        for gate, band in zip(self.gates, bands, strict=True):
            total = total + 2 * gate(x).sigmoid() * band
        return total.to(x.dtype)


def _window(length: int, factor: int, like: Tensor) -> Tensor:
    """(length,) mask of the frequencies within 1 / factor, in the order of the transform."""
    start, stop = (round(length / 2 + sign * length / (2 * factor)) for sign in (-1, 1))
    place = (torch.arange(length, device=like.device) + length // 2) % length
    return ((place >= start) & (place < stop)).float()


class KernelFactors(nn.Module):
    """Factors of the input's and the output's channels of a kernel, 0–2, for every image."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        hidden = max(in_channels // 16, 16)
        self.squeeze = nn.Sequential(
            nn.Conv2d(in_channels, hidden, 1, bias=False), nn.BatchNorm2d(hidden), nn.ReLU()
        )
        self.to_in = nn.Conv2d(hidden, in_channels, 1)
        self.to_out = nn.Conv2d(hidden, out_channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, in, H, W) -> (B, out, in, 1, 1)."""
        hidden = self.squeeze(x.mean((2, 3), keepdim=True))
        along, down = (2 * head(hidden).sigmoid().flatten(1) for head in (self.to_in, self.to_out))
        return (down[:, :, None] * along[:, None])[..., None, None]


@MODULES.register(
    family="conv",
    paper="arXiv:2403.05369",
    venue="CVPR 2024",
    example={"in_channels": 8, "out_channels": 12, "dilation": 2},
    traits=Traits(float32="bands of frequencies and places of samples"),
)
class AdaptiveDilatedConv(nn.Module):
    """3×3 with a dilation of each pixel's own. (B, in, H, W) -> (B, out, H/s, W/s).

    Training needs batches of two images or more: a norm sees one value of each.

    Args:
        in_channels: C.
        out_channels: width of the result; None keeps C.
        stride: s.
        dilation: rate at the start.
        bias: whether the convolution has one.
        k_list: the lowest 1 / k of the frequencies stay below each band, ascending.
        epsilon: the rate starts this far above, so that it learns at dilation 1 too.
    """

    directions: Tensor

    def __init__(
        self,
        in_channels: int,
        out_channels: int | None = None,
        stride: int = 1,
        *,
        dilation: int = 1,
        bias: bool = True,
        k_list: Sequence[int] = (2, 4, 8),
        epsilon: float = 1e-4,
    ) -> None:
        super().__init__()
        self.out_channels = out = out_channels or in_channels
        self.stride, self.dilation = stride, dilation
        self.border = "replicate"
        self.select = FrequencySelection(in_channels, k_list)
        self.low_factors = KernelFactors(in_channels, out)
        self.high_factors = KernelFactors(in_channels, out)
        self.rate = nn.Conv2d(in_channels, 1, 3, stride)
        nn.init.zeros_(self.rate.weight)
        nn.init.constant_(self.rate.bias, (dilation - 1) / dilation + epsilon)  # type: ignore[arg-type]
        self.mask = nn.Conv2d(in_channels, 9, 3, stride)
        nn.init.zeros_(self.mask.weight)
        nn.init.zeros_(self.mask.bias)  # type: ignore[arg-type]
        self.weight = nn.Parameter(torch.empty(out, in_channels, 3, 3))
        nn.init.kaiming_uniform_(self.weight, a=math.sqrt(5))
        self.bias = nn.Parameter(torch.zeros(out)) if bias else None
        steps = torch.tensor([-1.0, 0.0, 1.0])
        directions = torch.cartesian_prod(steps, steps).reshape(1, 18, 1, 1)  # dy and dx
        self.register_buffer("directions", directions, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        x = self.select(x)
        kernel = self.kernels(x)
        x = F.pad(x, (1, 1, 1, 1), mode=self.border)
        offset = self.rates(x) * self.directions
        taps = deform_taps(x, offset, self.mask(x).sigmoid(), 3, self.stride)
        out = kernel.flatten(2) @ taps.flatten(1, 2).flatten(2)
        out = out.unflatten(2, taps.shape[-2:])
        return out if self.bias is None else out + self.bias[:, None, None]

    def kernels(self, x: Tensor) -> Tensor:
        """One for every image: (B, out, in, 3, 3)."""
        low = self.weight.mean((2, 3), keepdim=True)
        return low * self.low_factors(x) + (self.weight - low) * self.high_factors(x)

    def rates(self, padded: Tensor) -> Tensor:
        """By how much the dilation exceeds 1: (B, 1, H', W')."""
        return self.rate(padded).abs() * self.dilation
