"""Frequency-Spatial Entanglement Learning for Camouflaged Object Detection (FSEL). Sun et al.,
ECCV 2024, arXiv:2409.01686.

f = |g(Re F) · F|,  F = fft2(x);   s = dw3x3(x);   f, s = gelu(f) · f, gelu(s) · s
c = [f, s];   f' = |ifft2(g(Re Fc) · Fc)|,  Fc = fft2(c);   s' = conv3x3(c), two channels a group
y = P [f', s']
g: `SpectralGate`

As in the authors' code f is a magnitude of frequencies, beside pixels, and transforms are not
normalised: values grow with the size of the map and are squared.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from detrkit.layers.depthwise import depthwise
from detrkit.layers.spectral_gate import SpectralGate
from detrkit.ops.precision import precise
from detrkit.ops.spectrum import fft2_parts, ifft2_magnitude, magnitude
from detrkit.registry import MODULES, Traits


@MODULES.register(
    family="mlp",
    paper="arXiv:2409.01686",
    venue="ECCV 2024",
    example={"in_channels": 32},
    traits=Traits(float32="all: squares of unnormalised spectra"),
)
class EFFN(nn.Module):
    """Magnitudes of frequencies and pixels, entangled twice. (B, C, H, W) -> (B, out, H, W).

    Args:
        in_channels: C, a multiple of 16.
        out_channels: None: C.
        bias: of the spatial convolutions and the last one.
    """

    def __init__(
        self, in_channels: int, out_channels: int | None = None, bias: bool = False
    ) -> None:
        super().__init__()
        if in_channels % 16:
            raise ValueError(f"EFFN needs a multiple of 16 channels, got {in_channels}")
        self.out_channels = out_channels or in_channels
        both = 2 * in_channels
        self.gate = SpectralGate(in_channels, in_channels // 16)
        self.spatial = depthwise(in_channels, 3, bias=bias)
        self.gate_both = SpectralGate(both, in_channels // 16)
        self.spatial_both = nn.Conv2d(both, both, 3, padding=1, groups=in_channels, bias=bias)
        self.project = nn.Conv2d(2 * both, self.out_channels, 1, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):
            pixels = precise(x)
            real, imaginary = fft2_parts(pixels)
            parts = [self.gate(real) * magnitude(real, imaginary), self.spatial(pixels)]
            both = torch.cat([F.gelu(part) * part for part in parts], dim=1)
            real, imaginary = fft2_parts(both)
            gate = self.gate_both(real)
            frequency = ifft2_magnitude(gate * real, gate * imaginary)
            out = self.project(torch.cat([frequency, self.spatial_both(both)], dim=1))
        return out.to(x.dtype)
