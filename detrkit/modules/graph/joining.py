"""Several maps as one."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from detrkit.registry import MODULES, Traits


@MODULES.register(family="graph", paper="plain", example={"in_channels": [4, 8]}, traits=Traits())
class Concat(nn.Module):
    """Maps on top of each other. [(B, C_i, H, W)] -> (B, sum of C_i, H, W).

    Args:
        in_channels: widths of the maps.
        dimension: accepted where lists of layers write `[1]`; must be 1, that of the channels.
    """

    def __init__(self, in_channels: Sequence[int], dimension: int = 1) -> None:
        super().__init__()
        if dimension != 1:
            raise ValueError(f"maps are joined by their channels, dimension 1, got {dimension}")
        self.out_channels = sum(in_channels)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        return torch.cat(list(maps), dim=1)


@MODULES.register(family="graph", paper="plain", example={"in_channels": [8, 8]}, traits=Traits())
class Sum(nn.Module):
    """The sum of maps of one width. [(B, C, H, W)] -> (B, C, H, W).

    Args:
        in_channels: widths of the maps, all the same.
    """

    def __init__(self, in_channels: Sequence[int]) -> None:
        super().__init__()
        if len(set(in_channels)) != 1:
            raise ValueError(f"maps of widths {list(in_channels)} cannot be added")
        self.out_channels = in_channels[0]

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        total = maps[0]
        for x in maps[1:]:
            total = total + x
        return total
