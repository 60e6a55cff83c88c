"""DSAN: Exploring the Relationship between Deformable Convolution and Spatial Attention. 2024,
doi:10.36227/techrxiv.171328860.02479778/v1.

t  = DW₅(u),  t' = strip_y(strip_x(W t; offsets of t); offsets of t)
y  = x + PW(u · PW(t')),  u = gelu(PW x)
strip(v)(p) = sum_k v(p + k - ⌊K/2⌋ + Δ_k(p)) along a row or a column

Pure PyTorch in place of the authors' CUDA kernel. Offsets start at zero, so that a strip starts
as the sum of K values.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from detrkit.layers.depthwise import depthwise
from detrkit.layers.norm import LayerNorm2d
from detrkit.ops.deform_conv import sample
from detrkit.registry import MODULES, Traits


class DeformableStrip(nn.Module):
    """Sums of K values along rows or columns, at places that a map tells.

    Args:
        channels: C.
        kernel_size: K.
        dw_kernel_size: length of the depthwise strip before the offsets, odd.
        dilation: pixels from one value to the next before they move.
        group: parts of the channels with offsets of their own.
        axis: "row" or "column".
    """

    def __init__(
        self,
        channels: int,
        kernel_size: int,
        dw_kernel_size: int,
        dilation: int,
        group: int,
        axis: Literal["row", "column"],
    ) -> None:
        super().__init__()
        self.kernel_size, self.dilation, self.group = kernel_size, dilation, group
        self.along_row = axis == "row"
        sides = (1, dw_kernel_size) if self.along_row else (dw_kernel_size, 1)
        self.spatial = depthwise(channels, sides)
        self.norm = LayerNorm2d(channels)
        self.offset = nn.Linear(channels, group * kernel_size)
        nn.init.zeros_(self.offset.weight)
        nn.init.zeros_(self.offset.bias)

    def forward(self, value: Tensor, guide: Tensor) -> Tensor:
        """Both (B, C, H, W); `guide` tells the places. Returns (B, C, H, W)."""
        height, width = value.shape[-2:]
        hidden = F.gelu(self.norm(self.spatial(guide))).permute(0, 2, 3, 1)
        offset = self.offset(hidden).permute(0, 3, 1, 2)
        offset = offset.unflatten(1, (self.group, -1)).flatten(0, 1)  # (B·G, K, H, W)
        index = torch.arange(self.kernel_size, device=value.device) - self.kernel_size // 2
        along = offset + self.dilation * index[:, None, None]
        rows = torch.arange(height, device=value.device)[:, None].expand_as(offset)
        columns = torch.arange(width, device=value.device).expand_as(offset)
        if self.along_row:
            columns = columns + along
        else:
            rows = rows + along
        maps = value.unflatten(1, (self.group, -1)).flatten(0, 1)
        return sample(maps, rows, columns).sum(2).unflatten(0, (-1, self.group)).flatten(1, 2)


@MODULES.register(
    family="conv",
    paper="doi:10.36227/techrxiv.171328860.02479778/v1",
    venue="TechRxiv 2024",
    example={"in_channels": 16, "group": 2},
    traits=Traits(float32="places of samples"),
)
class DSA(nn.Module):
    """A gate that looks along rows and columns that bend. (B, C, H, W) -> (B, C, H, W).

    Args:
        in_channels: C.
        kernel_size: K, values of each strip.
        dw_kernel_size: length of the depthwise strips before the offsets, odd.
        dilation: pixels from one value to the next before they move.
        group: parts of the channels with offsets of their own; divides C.

    Raises:
        ValueError: `group` does not divide C, or `dw_kernel_size` is even.
    """

    def __init__(
        self,
        in_channels: int,
        kernel_size: int = 7,
        dw_kernel_size: int = 5,
        *,
        dilation: int = 1,
        group: int = 1,
    ) -> None:
        super().__init__()
        if in_channels % group:
            raise ValueError(f"in_channels {in_channels} is no multiple of group {group}")
        if dw_kernel_size % 2 == 0:
            raise ValueError(f"dw_kernel_size must be odd, got {dw_kernel_size}")
        self.out_channels = c = in_channels
        self.first = nn.Conv2d(c, c, 1)
        self.spatial = depthwise(c, 5)  # the authors fix its side: only the strips have theirs
        self.value = nn.Linear(c, c)
        self.row, self.column = (
            DeformableStrip(c, kernel_size, dw_kernel_size, dilation, group, axis)
            for axis in ("row", "column")
        )
        self.gate = nn.Conv2d(c, c, 1)
        self.last = nn.Conv2d(c, c, 1)

    def forward(self, x: Tensor) -> Tensor:
        u = F.gelu(self.first(x))
        guide = self.spatial(u)
        value = self.value(guide.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        strips = self.column(self.row(value, guide), guide)
        return x + self.last(u * self.gate(strips))
