"""Spatial-Frequency Dual Domain Attention Network for Medical Image Segmentation (SF-UNet).
Zhou et al., BIBM 2024, arXiv:2406.07952.

y = ifft(filter(fft(x))) + x · sigmoid(conv7x7([mean_c(x), max_c(x)]))

The filter multiplies the 2r x 2r lowest frequencies by learnt complex numbers. The published code
shifts channels and images along with the frequencies and scales its inverse by 1 / sqrt(H·W);
both are corrected here. Only the window is stored, in place of a table as large as the map, so
that maps may have any size; smaller ones have a part of the window. Its few frequencies are
products with sines and cosines, which export.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from detrkit.ops.precision import precise
from detrkit.registry import MODULES, Traits


@MODULES.register(
    family="attention",
    paper="arXiv:2406.07952",
    venue="BIBM 2024",
    example={"in_channels": 8, "ratio": 4},
    traits=Traits(float32="the transform"),
)
class FSA(nn.Module):
    """A learnt filter of low frequencies beside spatial attention. (B, C, H, W) -> (B, C, H, W).

    Args:
        in_channels: C.
        ratio: r, half the side of the window of frequencies.

    Attributes:
        window: (C, 2r, 2r, 2), real and imaginary part; frequencies from -r to r - 1. Starts at 1.
    """

    def __init__(self, in_channels: int, ratio: int = 10) -> None:
        super().__init__()
        if ratio < 1:
            raise ValueError(f"ratio must be at least 1, got {ratio}")
        self.out_channels = in_channels
        self.window = nn.Parameter(torch.zeros(in_channels, 2 * ratio, 2 * ratio, 2))
        nn.init.ones_(self.window[..., 0])
        self.spatial = nn.Conv2d(2, 1, 7, padding=3, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        maps = torch.cat([x.mean(1, keepdim=True), x.amax(1, keepdim=True)], dim=1)
        return self.filtered(x) + x * self.spatial(maps).sigmoid()

    def filtered(self, x: Tensor) -> Tensor:
        """`x` with its low frequencies multiplied: those of the window only are computed."""
        half = self.window.shape[1] // 2
        with torch.autocast(x.device.type, enabled=False):
            maps = precise(x)
            rows, cos_y, sin_y = _waves(x.shape[2], half, maps)
            columns, cos_x, sin_x = _waves(x.shape[3], half, maps)
            # F = exp(-i y) x exp(-i x), of which `real` and `imag` are the parts
            real, imag = cos_y @ maps, -sin_y @ maps
            real, imag = real @ cos_x.T + imag @ sin_x.T, imag @ cos_x.T - real @ sin_x.T
            # (w - 1) F, what the filter adds
            factor, turn = precise(self.window[:, rows, columns]).unbind(-1)
            factor = factor - 1
            real, imag = factor * real - turn * imag, factor * imag + turn * real
            # Re(exp(i y) (w - 1) F exp(i x)) / (H W)
            real, imag = cos_y.T @ real - sin_y.T @ imag, cos_y.T @ imag + sin_y.T @ real
            change = (real @ cos_x - imag @ sin_x) / (x.shape[2] * x.shape[3])
            return (maps + change).to(x.dtype)


def _waves(length: int, half: int, like: Tensor) -> tuple[slice, Tensor, Tensor]:
    """Frequencies from -half to half - 1 that a side of `length` pixels has.

    Returns:
        their places in a window of 2 · half; cosines and sines (frequencies, length).
    """
    low, high = min(length // 2, half), min((length + 1) // 2, half)
    frequency = torch.arange(-low, high, device=like.device)
    turns = frequency[:, None] * torch.arange(length, device=like.device) % length
    angle = turns.to(like.dtype) * (2 * math.pi / length)
    return slice(half - low, half + high), angle.cos(), angle.sin()
