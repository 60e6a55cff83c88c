"""What attention adds to its scores for the distance of two pixels."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from detrkit.layers.windows import Side, sides_of


def offset_index(h: int, w: int, like: Tensor) -> Tensor:
    """(N, N), N = h·w: number of the offset of row's pixel from the column's.

    Offsets (dy, dx) from (1 - h, 1 - w) to (h - 1, w - 1) are numbered row by row.
    """
    rows = torch.arange(h, device=like.device).repeat_interleave(w)
    columns = torch.arange(w, device=like.device).repeat(h)
    place = rows * (2 * w - 1) + columns
    return place[:, None] - place + (h - 1) * (2 * w - 1) + w - 1


class RelativePositionBias(nn.Module):
    """A learnt number per offset and head. Swin Transformer, arXiv:2103.14030, eq. 4.

    Args:
        side: of the square window, or (h, w).
        num_heads: M.
    """

    def __init__(self, side: Side, num_heads: int) -> None:
        super().__init__()
        self.sides = h, w = sides_of(side)
        self.table = nn.Parameter(torch.empty((2 * h - 1) * (2 * w - 1), num_heads))
        nn.init.trunc_normal_(self.table, std=0.02)

    def forward(self) -> Tensor:
        """(M, N, N), N = h·w."""
        return self.table.T[:, offset_index(*self.sides, self.table)]


class DynamicPositionBias(nn.Module):
    """A small perceptron of the offset, so that windows may have any size.

    CrossFormer, Wang et al., ICLR 2022, arXiv:2108.00154.

    Args:
        hidden_channels: width of the perceptron.
        num_heads: M.
    """

    def __init__(self, hidden_channels: int, num_heads: int) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Linear(2, hidden_channels)]
        for width in (hidden_channels, hidden_channels, num_heads):
            layers += [nn.LayerNorm(hidden_channels), nn.ReLU(), nn.Linear(hidden_channels, width)]
        self.layers = nn.Sequential(*layers)

    def forward(self, h: int, w: int) -> Tensor:
        """(M, N, N), N = h·w: bias of the row's pixel for the column's."""
        weight = next(self.parameters())
        dy = torch.arange(1 - h, h, device=weight.device).repeat_interleave(2 * w - 1)
        dx = torch.arange(1 - w, w, device=weight.device).repeat(2 * h - 1)
        table = self.layers(torch.stack([dy, dx], dim=1).to(weight.dtype))  # (offsets, M)
        return table.T.contiguous()[:, offset_index(h, w, weight)]
