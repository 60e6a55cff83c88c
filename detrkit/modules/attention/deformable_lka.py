"""Beyond Self-Attention: Deformable Large Kernel Attention for Medical Image Segmentation.
Azad et al., WACV 2024, arXiv:2309.00121.

a = conv1x1(deform_dw7x7,d3(deform_dw5x5(x)))
y = x · a

Offsets come from a dense convolution of the same size and dilation; it starts at zero, so that
training starts from a plain large kernel.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from detrkit.layers.conv import same_padding
from detrkit.layers.van import ProjectedAttention
from detrkit.ops.deform_conv import deform_conv2d
from detrkit.registry import MODULES, Traits


@MODULES.register(
    family="attention",
    paper="arXiv:2309.00121",
    venue="WACV 2024",
    example={"in_channels": 8},
    traits=Traits(float32="places of the samples"),
)
class DeformableLKA(nn.Module):
    """A large kernel whose points move, as a gate. (B, C, H, W) -> (B, C, H, W).

    About 6,000 · C parameters, nearly all of the offsets.

    Args:
        in_channels: C.
    """

    def __init__(self, in_channels: int) -> None:
        super().__init__()
        self.out_channels = in_channels
        self.near = _DeformableDepthwise(in_channels, 5)
        self.far = _DeformableDepthwise(in_channels, 7, dilation=3)
        self.mix = nn.Conv2d(in_channels, in_channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.mix(self.far(self.near(x)))


@MODULES.register(
    family="attention",
    paper="arXiv:2309.00121",
    venue="WACV 2024",
    example={"in_channels": 8},
    traits=Traits(float32="places of the samples"),
)
class DeformableLKAAttention(ProjectedAttention):
    """`DeformableLKA` between two projections, with a shortcut. (B, C, H, W) -> (B, C, H, W).

    Args:
        in_channels: C.
    """

    def __init__(self, in_channels: int) -> None:
        super().__init__(in_channels, DeformableLKA(in_channels))


class _DeformableDepthwise(nn.Module):
    """Depthwise convolution with one learnt offset per point of its kernel; no bias."""

    def __init__(self, channels: int, kernel_size: int, dilation: int = 1) -> None:
        super().__init__()
        self.dilation = dilation
        self.padding = dilation * (kernel_size // 2)
        points = kernel_size**2
        self.offset = nn.Conv2d(
            channels,
            2 * points,
            kernel_size,
            padding=same_padding(kernel_size, dilation),
            dilation=dilation,
        )
        nn.init.zeros_(self.offset.weight)
        nn.init.zeros_(self.offset.bias)  # type: ignore[arg-type]
        self.weight = nn.Parameter(torch.empty(channels, 1, kernel_size, kernel_size))
        nn.init.kaiming_uniform_(self.weight, a=5**0.5)

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):
            offset = self.offset(x.to(self.weight.dtype))
        everywhere = offset.new_ones(()).expand(
            offset.shape[0], offset.shape[1] // 2, *offset.shape[2:]
        )
        return deform_conv2d(
            x,
            offset,
            everywhere,
            self.weight,
            padding=self.padding,
            dilation=self.dilation,
            groups=x.shape[1],
        )
