"""Large Selective Kernel Network for Remote Sensing Object Detection. Li et al., ICCV 2023,
arXiv:2303.09030.

u1 = dw5x5(x),  u2 = dw7x7,d3(u1),  a1 = conv(u1),  a2 = conv(u2)
[s1, s2] = sigmoid(conv7x7([mean_c([a1, a2]), max_c([a1, a2])]))
y = x · conv(a1 · s1 + a2 · s2)
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from detrkit.layers.depthwise import depthwise
from detrkit.layers.van import ProjectedAttention
from detrkit.registry import MODULES, Traits


@MODULES.register(
    family="attention",
    paper="arXiv:2303.09030",
    venue="ICCV 2023",
    example={"in_channels": 16},
    traits=Traits(),
)
class LSKUnit(nn.Module):
    """Each place chooses between two receptive fields, 5 and 23 wide. (B, C, H, W) -> (B, C, H, W).

    Args:
        in_channels: C, even.
    """

    def __init__(self, in_channels: int) -> None:
        super().__init__()
        if in_channels % 2:
            raise ValueError(f"LSKUnit needs an even number of channels, got {in_channels}")
        self.out_channels = in_channels
        half = in_channels // 2
        self.near = depthwise(in_channels, 5)
        self.far = depthwise(in_channels, 7, dilation=3)
        self.narrow_near = nn.Conv2d(in_channels, half, 1)
        self.narrow_far = nn.Conv2d(in_channels, half, 1)
        self.select = nn.Conv2d(2, 2, 7, padding=3)
        self.widen = nn.Conv2d(half, in_channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        near = self.near(x)
        far = self.narrow_far(self.far(near))
        near = self.narrow_near(near)
        both = torch.cat([near, far], dim=1)
        maps = torch.cat([both.mean(1, keepdim=True), both.amax(1, keepdim=True)], dim=1)
        of_near, of_far = self.select(maps).sigmoid().split(1, dim=1)  # (B, 1, H, W) each
        return x * self.widen(near * of_near + far * of_far)


@MODULES.register(
    family="attention",
    paper="arXiv:2303.09030",
    venue="ICCV 2023",
    example={"in_channels": 16},
    traits=Traits(),
)
class LSKBlock(ProjectedAttention):
    """`LSKUnit` between two projections, with a shortcut. (B, C, H, W) -> (B, C, H, W).

    Args:
        in_channels: C, even.
    """

    def __init__(self, in_channels: int) -> None:
        super().__init__(in_channels, LSKUnit(in_channels))
