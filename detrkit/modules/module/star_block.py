"""Rewrite the Stars (StarNet). Ma et al., CVPR 2024, arXiv:2403.19967.

u = BN(DW7×7(x));   y = x + DW7×7(BN(W (relu6(A u) · B u)))        figure 3, block I
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from detrkit.layers.conv import ConvNormAct
from detrkit.layers.depthwise import depthwise
from detrkit.layers.drop_path import DropPath
from detrkit.registry import MODULES, Traits


@MODULES.register(
    "StarBlock",
    "Star_Block",
    family="module",
    paper="arXiv:2403.19967",
    venue="CVPR 2024",
    example={"in_channels": 16},
    traits=Traits(),
)
class StarBlock(nn.Module):
    """Multiplies two projections of each pixel. (B, C, H, W) -> (B, C, H, W).

    Convolutions have biases, before a norm too.

    Args:
        in_channels: C.
        mlp_ratio: width of the projections, relative to C; the published StarNets have 4.
        drop_path: rate at which training leaves the branch out.
    """

    def __init__(self, in_channels: int, mlp_ratio: float = 3.0, drop_path: float = 0.0) -> None:
        super().__init__()
        self.out_channels = c = in_channels
        hidden = int(c * mlp_ratio)
        self.dwconv = ConvNormAct(c, c, 7, groups=c, bias=True)
        self.f1, self.f2 = (nn.Conv2d(c, hidden, 1) for _ in range(2))
        self.g = ConvNormAct(hidden, c, 1, bias=True)
        self.dwconv2 = depthwise(c, 7)
        self.drop = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        u = self.dwconv(x)
        star = F.relu6(self.f1(u)) * self.f2(u)
        return x + self.drop(self.dwconv2(self.g(star)))
