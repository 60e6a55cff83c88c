"""How a map of a neighbouring scale comes to the size of another, and how two become one."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from detrkit.modules.part import Part, build_part


class Concatenated(nn.Module):
    """Two maps on top of each other. [(B, C, h, w), (B, C, h, w)] -> (B, 2C, h, w)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.out_channels = 2 * channels

    def forward(self, maps: list[Tensor]) -> Tensor:
        return torch.cat(maps, dim=1)


class Added(nn.Module):
    """The sum of two maps. [(B, C, h, w), (B, C, h, w)] -> (B, C, h, w)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.out_channels = channels

    def forward(self, maps: list[Tensor]) -> Tensor:
        return maps[0] + maps[1]


def join_of(fuse_op: str, channels: int) -> nn.Module:
    """The plain ways: "cat" or "sum"."""
    return (Concatenated if fuse_op == "cat" else Added)(channels)


class Enlarge(nn.Module):
    """A coarse map at the size of a finer one, by a module or by repeating pixels.

    Args:
        channels: C.
        part: module that doubles the sides; None: nearest neighbour.
        where: the argument that names it.
    """

    def __init__(self, channels: int, part: Part | None = None, where: str = "upsample") -> None:
        super().__init__()
        self.module = None if part is None else build_part(part, where, channels, channels, scale=2)

    def forward(self, coarse: Tensor, fine: Tensor) -> Tensor:
        """(B, C, h, w) -> (B, C, H, W), the size of `fine`."""
        return enlarge(coarse, fine) if self.module is None else fitted(self.module(coarse), fine)


def enlarge(coarse: Tensor, fine: Tensor) -> Tensor:
    """Nearest-neighbour enlargement to the size of `fine`: double, one less where that is odd."""
    h, w = coarse.shape[-2:]
    if fine.shape[-2:] == (2 * h, 2 * w):
        return F.interpolate(coarse, scale_factor=2.0, mode="nearest")
    return fitted(coarse, fine)


def fitted(x: Tensor, like: Tensor) -> Tensor:
    """A map at the size of another, where modules round the sides in another way."""
    if x.shape[-2:] == like.shape[-2:]:
        return x
    return F.interpolate(x, size=like.shape[-2:], mode="nearest")
