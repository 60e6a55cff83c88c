"""Frequency-Spatial Entanglement Learning for Camouflaged Object Detection (FSEL). Sun et al.,
ECCV 2024, arXiv:2409.01686.

f = relu(BN(W x))
s_d = relu(BN(conv3×3 of dilation d (BN(W (f + y of the dilation before)))))      d = 3, 5, 7, 9
y_d = s_d + relu(BN(|IFFT(gate(FFT(s_d)))|)),   one gate for all d
y = f + relu(BN(W [y_3, y_5, y_7, y_9, f]))

The joint domain perception module without its head of one channel.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from detrkit.layers.conv import ConvNormAct
from detrkit.layers.spectral_gate import SpectralGate
from detrkit.ops.spectrum import fft2_parts, ifft2_magnitude
from detrkit.registry import MODULES, Traits

_DILATIONS = (3, 5, 7, 9)


@MODULES.register(
    family="module",
    paper="arXiv:2409.01686",
    venue="ECCV 2024",
    example={"in_channels": 16},
    traits=Traits(float32="the transform"),
)
class JDPM(nn.Module):
    """Dilated convolutions in a chain, each with its gated spectrum. (B, C, H, W) -> (B, out, …).

    Args:
        in_channels: C.
        out_channels: of all layers inside too, at least 16; None: C.

    Raises:
        ValueError: fewer than 16 channels.
    """

    def __init__(self, in_channels: int, out_channels: int | None = None) -> None:
        super().__init__()
        self.out_channels = c = out_channels or in_channels
        if c < 16:
            raise ValueError(f"JDPM needs at least 16 channels, got {c}")
        self.enter = ConvNormAct(in_channels, c, 1, bias=True, act="relu")
        self.dilated = nn.ModuleList(
            nn.Sequential(
                ConvNormAct(c, c, 1, bias=True),
                ConvNormAct(c, c, 3, dilation=rate, bias=True, act="relu"),
            )
            for rate in _DILATIONS
        )
        self.gate = SpectralGate(c, c // 16)
        self.norms = nn.ModuleList(nn.Sequential(nn.BatchNorm2d(c), nn.ReLU()) for _ in _DILATIONS)
        self.leave = ConvNormAct(5 * c, c, 1, bias=True, act="relu")

    def forward(self, x: Tensor) -> Tensor:
        f = self.enter(x)
        seen: list[Tensor] = []
        for layers, norm in zip(self.dilated, self.norms, strict=True):
            s = layers(f + seen[-1] if seen else f)
            seen.append(s + norm(self.filtered(s)))
        return self.leave(torch.cat([*seen, f], dim=1)) + f

    def filtered(self, x: Tensor) -> Tensor:
        """|IFFT(gate(FFT(x)))|, (B, C, H, W) -> (B, C, H, W)."""
        with torch.autocast(x.device.type, enabled=False):
            real, imaginary = fft2_parts(x)
            gate = self.gate(real)
            return ifft2_magnitude(gate * real, gate * imaginary).to(x.dtype)
