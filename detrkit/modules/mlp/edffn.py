"""Efficient Visual State Space Model for Image Deblurring (EVSSM). Kong et al., CVPR 2025,
arXiv:2405.14343.

[a, b] = dw3x3(W x);   t = P (gelu(a) · b)
y = irfft2(w · rfft2(t)) in tiles of 8 x 8, w learnt and real

Maps are padded to whole tiles by reflection.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from detrkit.errors import MapSizeError
from detrkit.layers.depthwise import depthwise
from detrkit.layers.tile_filter import filter_tiles
from detrkit.layers.windows import padded
from detrkit.registry import MODULES, Traits

#: Side of the tiles.
_TILE = 8
#: Least side of a map: reflection needs more pixels than it adds.
_SMALLEST = 5


@MODULES.register(
    family="mlp",
    paper="arXiv:2405.14343",
    venue="CVPR 2025",
    example={"in_channels": 16, "hidden_channels": 32},
    traits=Traits(smallest=_SMALLEST, float32="the transform of the tiles"),
)
class EDFFN(nn.Module):
    """A gated feed-forward net, then a screen of frequencies. (B, C, H, W) -> (B, out, H, W).

    Args:
        in_channels: C.
        hidden_channels: of gate and value; None: 3 · C.
        out_channels: None: C.
        bias: of the convolutions.

    Attributes:
        screen: (out, 1, 1, 8, 5), a factor for each frequency; starts at 1.
    """

    def __init__(
        self,
        in_channels: int,
        hidden_channels: int | None = None,
        out_channels: int | None = None,
        bias: bool = False,
    ) -> None:
        super().__init__()
        self.out_channels = out_channels or in_channels
        hidden = hidden_channels or 3 * in_channels
        self.project_in = nn.Sequential(
            nn.Conv2d(in_channels, 2 * hidden, 1, bias=bias), depthwise(2 * hidden, 3, bias=bias)
        )
        self.project_out = nn.Conv2d(hidden, self.out_channels, 1, bias=bias)
        self.screen = nn.Parameter(torch.ones(self.out_channels, 1, 1, _TILE, _TILE // 2 + 1))

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[-2:]
        if min(height, width) < _SMALLEST:
            raise MapSizeError(
                f"EDFFN needs a map of at least {_SMALLEST} pixels a side, got {height}x{width}"
            )
        gate, value = self.project_in(x).chunk(2, dim=1)
        x = padded(self.project_out(F.gelu(gate) * value), _TILE, "reflect")
        return filter_tiles(x, _TILE, self.screen[:, 0, 0])[:, :, :height, :width]
