"""Deformable ConvNets v2: More Deformable, Better Results. Zhu et al., CVPR 2019,
arXiv:1811.11168.

y(p) = sum_k w_k · m_k · x(p + p_k + Δp_k)

Offsets and masks come from one convolution that starts at zero: half of a plain convolution. It
is not dilated. Its channels are three parts; the first two together are pairs (dy, dx), and not
all dy and all dx, as in all circulating code.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from detrkit.layers.conv import fused_convolution, norm_act
from detrkit.ops.deform_conv import deform_conv2d
from detrkit.registry import MODULES, Traits


@MODULES.register(
    family="conv",
    paper="arXiv:1811.11168",
    venue="CVPR 2019",
    example={"in_channels": 8, "out_channels": 12, "deformable_groups": 2},
    traits=Traits(float32="places of samples"),
)
class DCNv2(nn.Module):
    """A convolution whose points move. (B, in, H, W) -> (B, out, H/s, W/s).

    Args:
        in_channels: C.
        out_channels: width of the result; None keeps C.
        kernel_size: k, odd.
        stride: s.
        dilation, groups: of the convolution.
        deformable_groups: parts of the channels with offsets of their own.
        act: activation behind a batch norm; None: neither.

    Raises:
        ValueError: k is even, or C no multiple of `deformable_groups`.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int | None = None,
        kernel_size: int = 3,
        stride: int = 1,
        *,
        dilation: int = 1,
        groups: int = 1,
        deformable_groups: int = 1,
        act: str | nn.Module | None = "silu",
    ) -> None:
        super().__init__()
        if kernel_size % 2 == 0:
            raise ValueError(f"kernel_size must be odd, got {kernel_size}")
        if in_channels % deformable_groups:
            raise ValueError(
                f"in_channels {in_channels} is no multiple of deformable_groups {deformable_groups}"
            )
        self.out_channels = out = out_channels or in_channels
        self.conv = nn.Conv2d(
            in_channels,
            out,
            kernel_size,
            stride,
            dilation * (kernel_size // 2),
            dilation,
            groups,
        )
        self.places = nn.Conv2d(
            in_channels,
            3 * deformable_groups * kernel_size**2,
            kernel_size,
            stride,
            kernel_size // 2,
        )
        nn.init.zeros_(self.places.weight)
        nn.init.zeros_(self.places.bias)  # type: ignore[arg-type]
        self.last = norm_act(out, act)

    def convert_to_deploy(self) -> None:
        """Folds the norm into the kernel: the result is linear in it, wherever its points are."""
        if len(self.last) and isinstance(self.last[0], nn.BatchNorm2d):
            self.conv = fused_convolution(self.conv, self.last[0])
            self.last[0] = nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        first, second, mask = self.places(x).chunk(3, dim=1)
        conv = self.conv
        out = deform_conv2d(
            x,
            torch.cat([first, second], dim=1),
            mask.sigmoid(),
            conv.weight,
            conv.bias,
            conv.stride[0],
            conv.padding[0],  # type: ignore[arg-type]
            conv.dilation[0],
            conv.groups,
        )
        return self.last(out)
