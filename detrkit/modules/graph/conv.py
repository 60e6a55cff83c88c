"""Convolutions as lists of layers name them."""

from __future__ import annotations

from math import gcd

from detrkit.layers.conv import ConvNormAct
from detrkit.registry import MODULES, Traits


@MODULES.register(
    family="graph",
    paper="arXiv:1502.03167",
    example={"in_channels": 8, "out_channels": 16, "kernel_size": 3},
    traits=Traits(),
)
class Conv(ConvNormAct):
    """Convolution, batch norm, SiLU. (B, C, H, W) -> (B, out_channels, H / stride, W / stride).

    Args:
        in_channels: C.
        out_channels: None keeps the width.
        kernel_size, stride, groups, dilation: of the convolution.
        padding: on each side; None keeps the size at stride 1.
        act: activation's name, or None.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int | None = None,
        kernel_size: int = 1,
        stride: int = 1,
        padding: int | None = None,
        groups: int = 1,
        dilation: int = 1,
        act: str | None = "silu",
    ) -> None:
        self.out_channels = in_channels if out_channels is None else out_channels
        super().__init__(
            in_channels, self.out_channels, kernel_size, stride, groups, padding,
            act=act, dilation=dilation,
        )  # fmt: skip


@MODULES.register(
    family="graph",
    paper="arXiv:1704.04861",
    example={"in_channels": 8, "out_channels": 16, "kernel_size": 3},
    traits=Traits(),
)
class DWConv(Conv):
    """`Conv` with as many groups as both widths allow.

    (B, C, H, W) -> (B, out_channels, H / stride, W / stride).

    Args:
        in_channels: C.
        out_channels: None keeps the width.
        kernel_size, stride, act: see `Conv`.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int | None = None,
        kernel_size: int = 1,
        stride: int = 1,
        act: str | None = "silu",
    ) -> None:
        out = in_channels if out_channels is None else out_channels
        super().__init__(
            in_channels, out, kernel_size, stride, groups=gcd(in_channels, out), act=act
        )
