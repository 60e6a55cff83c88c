"""A Robust Feature Downsampling Module for Remote-Sensing Visual Tasks. Lu et al., IEEE TGRS 61
(2023), doi:10.1109/TGRS.2023.3282048.

u  = conv_7×7(image)
r  = PW([conv; cut](u))
y  = PW([conv; cut; max](r))

The branches are those of DRFD, in `detrkit.modules.downsample.rfd`, without activations.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from detrkit.layers.windows import check_multiple
from detrkit.modules.downsample.rfd import Cut, MaxDown, strided, widening
from detrkit.registry import MODULES, Traits


@MODULES.register(
    family="stem",
    paper="doi:10.1109/TGRS.2023.3282048",
    venue="IEEE TGRS 2023",
    example={"in_channels": 3, "out_channels": 16},
    traits=Traits(scale=0.25, multiple=4),
)
class SRFD(nn.Module):
    """An image to a quarter of its size. (B, in, H, W) -> (B, out, H/4, W/4).

    The first convolution sees the whole image: several times slower than two strided ones.

    Args:
        in_channels: of the image.
        out_channels: width of the result, a multiple of 4.

    Raises:
        ValueError: it is not.
    """

    def __init__(self, in_channels: int = 3, out_channels: int = 96) -> None:
        super().__init__()
        if out_channels % 4:
            raise ValueError(f"out_channels must be a multiple of 4, got {out_channels}")
        self.out_channels = out = out_channels
        quarter, half = out // 4, out // 2
        self.first = nn.Conv2d(in_channels, quarter, 7, padding=3)
        self.conv_2 = nn.Sequential(widening(quarter, half), *strided(half))
        self.cut_2 = Cut(quarter, half)
        self.fuse_2 = nn.Conv2d(2 * half, half, 1)
        self.widen = widening(half, out)
        self.conv_4 = strided(out)
        self.cut_4 = Cut(half, out)
        self.max_4 = MaxDown(out)
        self.fuse_4 = nn.Conv2d(3 * out, out, 1)

    def forward(self, x: Tensor) -> Tensor:
        check_multiple(x, 4)
        x = self.first(x)
        x = self.fuse_2(torch.cat([self.conv_2(x), self.cut_2(x)], dim=1))
        wide = self.widen(x)
        branches = [self.conv_4(wide), self.cut_4(x), self.max_4(wide)]
        return self.fuse_4(torch.cat(branches, dim=1))
