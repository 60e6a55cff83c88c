"""Spatial-Frequency Dual Domain Attention Network for Medical Image Segmentation (SF-UNet).
Zhou et al., BIBM 2024, arXiv:2406.07952.

y = ifft(filter(fft(x))) + x · sigmoid(conv7x7([mean_c(x), max_c(x)]))      section II-C

The filter multiplies the 2r x 2r lowest frequencies by learnt complex numbers. The published code
shifts channels and images along with the frequencies and scales its inverse by 1 / sqrt(H·W);
both are corrected here. Only the window is stored, in place of a table as large as the map, so
that maps may have any size; smaller ones have a part of the window.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from detrkit.ops.precision import precise
from detrkit.registry import MODULES, Traits


@MODULES.register(
    family="attention",
    paper="arXiv:2406.07952",
    venue="BIBM 2024",
    example={"in_channels": 8, "ratio": 4},
    traits=Traits(onnx="a Fourier transform of the map", float32="the transform"),
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
        """`x` with its low frequencies multiplied."""
        with torch.autocast(x.device.type, enabled=False):
            spectrum = torch.fft.fftshift(torch.fft.fft2(precise(x)), dim=(2, 3))
            factor = torch.ones_like(spectrum[0])
            rows, columns = (_shared(n, self.window.shape[1]) for n in x.shape[2:])
            window = torch.view_as_complex(precise(self.window))
            factor[:, rows[0], columns[0]] = window[:, rows[1], columns[1]]
            spectrum = torch.fft.ifftshift(spectrum * factor, dim=(2, 3))
            return torch.fft.ifft2(spectrum).real.to(x.dtype)


def _shared(length: int, window: int) -> tuple[slice, slice]:
    """Where frequencies known to both lie in a centred spectrum and in the window."""
    low, high = min(length // 2, window // 2), min((length + 1) // 2, window // 2)
    return (
        slice(length // 2 - low, length // 2 + high),
        slice(window // 2 - low, window // 2 + high),
    )
