"""Pinwheel-shaped Convolution and Scale-based Dynamic Loss for Infrared Small Target Detection.
Yang et al., AAAI 2025, arXiv:2412.16986.

y = CBS_2×2([h(P_1 x); h(P_2 x); v(P_3 x); v(P_4 x)])

P are four zero paddings, each to another side, h is a 1×k and v a k×1 layer.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from detrkit.layers.conv import ConvNormAct
from detrkit.registry import MODULES, Traits


@MODULES.register(
    family="conv",
    paper="arXiv:2412.16986",
    venue="AAAI 2025",
    example={"in_channels": 16, "out_channels": 24},
    traits=Traits(),
)
class PSConv(nn.Module):
    """Vanes to four sides, as a Gaussian target has. (B, in, H, W) -> (B, out, H/s, W/s).

    Odd sides are rounded down at stride 2, unlike those of a plain convolution.

    Args:
        in_channels: C.
        out_channels: width of the result, a multiple of 4; None keeps C.
        kernel_size: k, length of a vane.
        stride: s.
        act: activation of all parts.

    Raises:
        ValueError: `out_channels` is no multiple of 4.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int | None = None,
        kernel_size: int = 3,
        stride: int = 1,
        *,
        act: str | nn.Module | None = "silu",
    ) -> None:
        super().__init__()
        self.out_channels = out = out_channels or in_channels
        if out % 4:
            raise ValueError(f"out_channels must be a multiple of 4, got {out}")
        k = kernel_size
        self.across = ConvNormAct(in_channels, out // 4, (1, k), stride, padding=0, act=act)
        self.down = ConvNormAct(in_channels, out // 4, (k, 1), stride, padding=0, act=act)
        self.merge = ConvNormAct(out, out, 2, padding=0, act=act)
        # left, right, top, bottom
        self.paddings = ((k, 0, 1, 0), (0, k, 0, 1), (0, 1, k, 0), (1, 0, 0, k))

    def forward(self, x: Tensor) -> Tensor:
        layers = (self.across, self.across, self.down, self.down)
        vanes = [
            layer(F.pad(x, padding)) for layer, padding in zip(layers, self.paddings, strict=True)
        ]
        return self.merge(torch.cat(vanes, dim=1))
