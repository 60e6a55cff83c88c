"""A Robust Feature Downsampling Module for Remote-Sensing Visual Tasks. Lu et al., IEEE TGRS 61
(2023), doi:10.1109/TGRS.2023.3282048.

cut   BN(PW(the four pixels of each cell))
conv  BN(gelu(DW_3×3/2(u)))
max   BN(max_2×2(u)),  u = a grouped 3×3 of x
y   = PW([cut; conv; max])

The stem, for images, halves twice: SRFD in `detrkit.modules.stem.srfd`.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from detrkit.layers.conv import ConvNormAct
from detrkit.layers.depthwise import depthwise
from detrkit.layers.windows import check_multiple, space_to_depth
from detrkit.registry import MODULES, Traits


class Cut(nn.Module):
    """The four pixels of each cell, mixed. (B, in, H, W) -> (B, out, H/2, W/2)."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.mix = ConvNormAct(4 * in_channels, out_channels, 1, bias=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.mix(space_to_depth(x))


class MaxDown(nn.Module):
    """The largest of each cell, and a norm. (B, C, H, W) -> (B, C, H/2, W/2)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(F.max_pool2d(x, 2))


def widening(in_channels: int, out_channels: int) -> nn.Conv2d:
    """3×3, every input channel for itself."""
    return nn.Conv2d(in_channels, out_channels, 3, padding=1, groups=in_channels)


def strided(channels: int, act: nn.Module | None = None) -> nn.Sequential:
    """Depthwise 3×3 of stride 2, activation, norm."""
    conv = depthwise(channels, 3, stride=2)
    return nn.Sequential(conv, *([act] if act else []), nn.BatchNorm2d(channels))


@MODULES.register(
    family="downsample",
    paper="doi:10.1109/TGRS.2023.3282048",
    venue="IEEE TGRS 2023",
    example={"in_channels": 8, "out_channels": 16},
    traits=Traits(scale=0.5, multiple=2),
)
class DRFD(nn.Module):
    """Cut, convolved and pooled, fused. (B, in, H, W) -> (B, out, H/2, W/2).

    Without an activation at the end.

    Args:
        in_channels: C.
        out_channels: width of the result, a multiple of C; None doubles C.

    Raises:
        ValueError: it is not.
    """

    def __init__(self, in_channels: int, out_channels: int | None = None) -> None:
        super().__init__()
        self.out_channels = out = out_channels or 2 * in_channels
        if out % in_channels:
            raise ValueError(f"out_channels must be a multiple of {in_channels}, got {out}")
        self.cut = Cut(in_channels, out)
        self.widen = widening(in_channels, out)
        self.strided = strided(out, nn.GELU())
        self.max = MaxDown(out)
        self.fuse = nn.Conv2d(3 * out, out, 1)

    def forward(self, x: Tensor) -> Tensor:
        check_multiple(x, 2)
        wide = self.widen(x)
        return self.fuse(torch.cat([self.cut(x), self.strided(wide), self.max(wide)], dim=1))
