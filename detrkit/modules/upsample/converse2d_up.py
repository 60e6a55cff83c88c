"""Reverse Convolution and Its Applications to Image Restoration. Huang et al., ICCV 2025,
arXiv:2508.09824.

The reverse of a convolution with a stride; see `detrkit.modules.conv.converse2d`.
"""

from __future__ import annotations

from torch import nn

from detrkit.modules.conv.converse2d import Converse2D
from detrkit.registry import MODULES, Traits


@MODULES.register(
    family="upsample",
    paper="arXiv:2508.09824",
    venue="ICCV 2025",
    example={"in_channels": 8},
    traits=Traits(
        scale=2.0,
        smallest=3,
        onnx="ONNX has no complex numbers",
        float32="division by λ, about 1e-4",
    ),
)
class Converse2D_Up(Converse2D):
    """Upsampling that a depthwise convolution with a stride undoes. (B, C, H, W) -> (B, C, sH, sW).

    Args:
        in_channels: C.
        kernel_size: k of that convolution.
        scale: s, its stride.
        padding: pixels around the map; None: k - 1. Sides must be larger.
        padding_mode: "circular", "reflect", "replicate" or "constant".
        eps: least λ.
        act: activation of the result.
    """

    def __init__(
        self,
        in_channels: int,
        kernel_size: int = 3,
        scale: int = 2,
        *,
        padding: int | None = None,
        padding_mode: str = "circular",
        eps: float = 1e-5,
        act: str | nn.Module | None = None,
    ) -> None:
        super().__init__(
            in_channels,
            kernel_size,
            scale,
            padding=padding,
            padding_mode=padding_mode,
            eps=eps,
            act=act,
        )
