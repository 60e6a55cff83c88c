"""Fourier Convolution Block with global receptive field for MRI reconstruction. Sun et al.,
Medical Image Analysis 99 (2025) 103349, doi:10.1016/j.media.2024.103349.

y = IDFT(W · DFT(x))        depthwise, a kernel as large as the map, around its borders

The authors' weights fit one size. Here a map of another size sees the same kernel, cut or with
zeros around, so that training at several sizes works.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from detrkit.layers.conv import ConvNormAct
from detrkit.ops.spectrum import irfft2, rfft2
from detrkit.registry import MODULES, Traits


@MODULES.register(
    family="conv",
    paper="doi:10.1016/j.media.2024.103349",
    venue="Medical Image Analysis 2025",
    example={"in_channels": 8, "size": (16, 12)},
    traits=Traits(onnx="ONNX has no complex numbers", float32="transforms of maps"),
)
class DeepSparse(nn.Module):
    """A depthwise convolution as large as the map. (B, C, H, W) -> (B, C, H/s, W/s).

    Args:
        in_channels: C.
        size: (H, W) of the maps whose spectrum is learnt.
        stride: s; every s-th pixel of the result.
    """

    def __init__(self, in_channels: int, size: Sequence[int] = (20, 20), stride: int = 1) -> None:
        super().__init__()
        self.out_channels = in_channels
        self.size, self.stride = tuple(size), stride
        shape = (1, in_channels, self.size[0], self.size[1] // 2 + 1)
        length = torch.empty(shape).exponential_().mul(2).sqrt() / (4 * math.sqrt(in_channels))
        turn = torch.empty(shape).uniform_(-math.pi, math.pi)
        self.real = nn.Parameter(length * turn.cos())
        self.imag = nn.Parameter(length * turn.sin())

    def forward(self, x: Tensor) -> Tensor:
        size = tuple(x.shape[-2:])
        weight = torch.complex(self.real, self.imag)
        if size != self.size:
            weight = rfft2(_centred(irfft2(weight, self.size), size))
        out = irfft2(rfft2(x) * weight, size).to(x.dtype)
        return out[..., :: self.stride, :: self.stride] if self.stride > 1 else out


def _centred(kernel: Tensor, size: Sequence[int]) -> Tensor:
    """A kernel around (0, 0), (…, h, w), cut or with zeros around: (…, *size)."""
    pads: list[int] = []
    for target, side in zip(reversed(size), reversed(kernel.shape[-2:]), strict=True):
        before = target // 2 - side // 2
        pads += [before, target - side - before]
    middle = torch.fft.fftshift(kernel, dim=(-2, -1))
    return torch.fft.ifftshift(F.pad(middle, pads), dim=(-2, -1))


@MODULES.register(
    family="conv",
    paper="doi:10.1016/j.media.2024.103349",
    venue="Medical Image Analysis 2025",
    example={"in_channels": 8, "out_channels": 12, "size": (16, 12)},
    traits=Traits(onnx="ONNX has no complex numbers", float32="transforms of maps"),
)
class FourierConv(nn.Module):
    """A kernel as large as the map, then a convolution. (B, in, H, W) -> (B, out, H/s, W/s).

    Args:
        in_channels: C.
        out_channels: width of the result; None keeps C.
        size: (H, W) of the maps whose spectrum is learnt.
        stride: s; the last convolution is 1×1 at stride 1 and 3×3 otherwise.
        act: activation behind its batch norm.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int | None = None,
        size: Sequence[int] = (20, 20),
        stride: int = 1,
        *,
        act: str | nn.Module | None = "silu",
    ) -> None:
        super().__init__()
        self.out_channels = out_channels or in_channels
        self.spectral = DeepSparse(in_channels, size)
        side = 1 if stride == 1 else 3
        self.mix = ConvNormAct(in_channels, self.out_channels, side, stride, act=act)

    def forward(self, x: Tensor) -> Tensor:
        return self.mix(self.spectral(x))
