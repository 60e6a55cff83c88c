"""Coordinate Attention for Efficient Mobile Network Design. Hou et al., CVPR 2021,
arXiv:2103.02907.

z_h = mean_w(x), z_w = mean_h(x)                              eq. 4, 5
f   = hswish(bn(conv([z_h, z_w])))                            eq. 6
y   = x · sigmoid(conv_h(f_h)) · sigmoid(conv_w(f_w))         eq. 7–9
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from detrkit.layers.conv import ConvNormAct
from detrkit.registry import MODULES, Traits


@MODULES.register(
    family="attention",
    paper="arXiv:2103.02907",
    venue="CVPR 2021",
    example={"in_channels": 16},
    traits=Traits(),
)
class CoordAtt(nn.Module):
    """A gate for every row and one for every column. (B, C, H, W) -> (B, C, H, W).

    Args:
        in_channels: C.
        reduction: the encoding has max(8, C // reduction) channels.
    """

    def __init__(self, in_channels: int, reduction: int = 32) -> None:
        super().__init__()
        self.out_channels = in_channels
        hidden = max(8, in_channels // reduction)
        self.encode = ConvNormAct(in_channels, hidden, 1, bias=True, act="hardswish")
        self.rows = nn.Conv2d(hidden, in_channels, 1)
        self.columns = nn.Conv2d(hidden, in_channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        of_rows = x.mean(3, keepdim=True)  # (B, C, H, 1)
        of_columns = x.mean(2, keepdim=True).transpose(2, 3)  # (B, C, W, 1)
        code = self.encode(torch.cat([of_rows, of_columns], dim=2))
        of_rows, of_columns = code.split([x.shape[2], x.shape[3]], dim=2)
        return x * self.rows(of_rows).sigmoid() * self.columns(of_columns.transpose(2, 3)).sigmoid()
