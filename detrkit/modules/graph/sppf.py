"""SPPF: spatial pyramid pooling in three equal steps, as in YOLOv5 and its successors.

    y = conv [x, p(x), p(p(x)), p(p(p(x)))]        p: maximum over 5×5

Pooling in a row sees 5, 9 and 13 pixels as the parallel pools of SPP (He et al., ECCV 2014,
arXiv:1406.4729) do, at a third of the cost.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from detrkit.layers.conv import ConvNormAct
from detrkit.registry import MODULES, Traits


@MODULES.register(
    family="graph",
    paper="arXiv:1406.4729",
    venue="ECCV 2014",
    example={"in_channels": 16, "out_channels": 24},
    traits=Traits(),
)
class SPPF(nn.Module):
    """(B, C, H, W) -> (B, out_channels, H, W).

    Args:
        in_channels: C.
        out_channels: None keeps the width.
        kernel_size: side of the pools; odd.
    """

    def __init__(
        self, in_channels: int, out_channels: int | None = None, kernel_size: int = 5
    ) -> None:
        super().__init__()
        if kernel_size % 2 == 0:
            raise ValueError(f"kernel_size must be odd, got {kernel_size}")
        self.out_channels = in_channels if out_channels is None else out_channels
        hidden = in_channels // 2
        self.reduce = ConvNormAct(in_channels, hidden, 1, act="silu")
        self.pool = nn.MaxPool2d(kernel_size, stride=1, padding=kernel_size // 2)
        self.fuse = ConvNormAct(4 * hidden, self.out_channels, 1, act="silu")

    def forward(self, x: Tensor) -> Tensor:
        maps = [self.reduce(x)]
        for _ in range(3):
            maps.append(self.pool(maps[-1]))
        return self.fuse(torch.cat(maps, dim=1))
