"""Maps as sequences in several orders, and back.

VMamba, Liu et al., NeurIPS 2024, arXiv:2401.10166: the cross-scan reads a map row by row, column
by column, and both backwards; the cross-merge adds the four results at each pixel.
"""

from __future__ import annotations

import torch
from torch import Tensor


def both_ways(x: Tensor) -> Tensor:
    """(B, K, D, L) -> (B, 2K, D, L): the sequences, then each of them backwards."""
    return torch.cat([x, x.flip(-1)], 1)


def merged_ways(y: Tensor) -> Tensor:
    """Adds what runs backwards to what runs forwards. (B, 2K, D, L) -> (B, K, D, L)."""
    forwards, backwards = y.chunk(2, 1)
    return forwards + backwards.flip(-1)


def cross_scan(x: Tensor) -> Tensor:
    """(B, D, H, W) -> (B, 4, D, H·W): by rows, by columns, and both backwards."""
    return both_ways(torch.stack([x.flatten(2), x.transpose(2, 3).flatten(2)], 1))


def cross_merge(y: Tensor, size: tuple[int, int]) -> Tensor:
    """The sum at each pixel. (B, 4, D, H·W) -> (B, D, H, W) for a map of `size` (H, W)."""
    rows, columns = merged_ways(y).unbind(1)
    return rows.unflatten(2, size) + columns.unflatten(2, size[::-1]).transpose(2, 3)


def along(x: Tensor, orders: Tensor) -> Tensor:
    """The pixels of a map in given orders. (B, D, H, W) -> (B, K, D, H·W).

    Args:
        x: the map.
        orders: (K, H·W); step t of sequence k is the pixel orders[k, t], counted row by row.
    """
    return x.flatten(2)[:, :, orders].transpose(1, 2)


def placed(y: Tensor, places: Tensor) -> Tensor:
    """Step places[k, p] of sequence k for each pixel p. (B, K, D, L) -> (B, K, D, L).

    Args:
        y: the sequences.
        places: (K, L); `orders.argsort(-1)` undoes `along`.
    """
    return y.gather(3, places[None, :, None].expand_as(y))
