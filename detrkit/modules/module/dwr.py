"""DWRSeg: Rethinking Efficient Acquisition of Multi-scale Contextual Information for Real-time
Semantic Segmentation. Wei et al., 2022, arXiv:2212.01173.

r = relu(BN(conv3×3(x)))                        region residuals, half the channels
d_i = BN(DW3×3 of dilation i (r)), i = 1, 3, 5  semantic residuals, widths C, C/2, C/2
y = x + W [d1, d3, d5]                          section 3.1

There is no code of the authors. The copy in circulation convolves densely, with norm and SiLU
everywhere, and is several times as heavy: `dense=True`, for its weights.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from detrkit.layers.conv import ConvNormAct, matched
from detrkit.registry import MODULES, Traits


@MODULES.register(
    family="module",
    paper="arXiv:2212.01173",
    example={"in_channels": 16},
    traits=Traits(),
)
class DWR(nn.Module):
    """Three dilated views of what a region holds, one learned step. (B, C, H, W) -> (B, out, H, W).

    Args:
        in_channels: C.
        out_channels: even; None keeps C; another width is made first.
        dense: convolutions that mix channels, norm and SiLU in all places.

    Raises:
        ValueError: `out_channels` is odd.
    """

    def __init__(
        self, in_channels: int, out_channels: int | None = None, dense: bool = False
    ) -> None:
        super().__init__()
        self.out_channels = c = out_channels or in_channels
        if c % 2:
            raise ValueError(f"out_channels must be even, got {c}")
        half = c // 2
        act = "silu" if dense else None
        self.match = matched(in_channels, c)
        self.region = ConvNormAct(c, half, 3, act=act or "relu")
        self.semantic = nn.ModuleList(
            ConvNormAct(half, width, 3, groups=1 if dense else half, dilation=rate, act=act)
            for width, rate in ((c, 1), (half, 3), (half, 5))
        )
        self.fuse = ConvNormAct(2 * c, c, 1, act=act) if dense else nn.Conv2d(2 * c, c, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.match(x)
        region = self.region(x)
        return x + self.fuse(torch.cat([branch(region) for branch in self.semantic], dim=1))
