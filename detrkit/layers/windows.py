"""Maps cut into square windows, and put together again."""

from __future__ import annotations

import torch
from torch import Tensor


def windows_of(x: Tensor, side: int) -> Tensor:
    """(B, C, H, W) -> (B, H/side, W/side, C, side, side).

    Raises:
        ValueError: H or W is not a multiple of `side`.
    """
    check_multiple(x, side)
    return x.unflatten(3, (-1, side)).unflatten(2, (-1, side)).permute(0, 2, 4, 1, 3, 5)


def from_windows(windows: Tensor) -> Tensor:
    """Inverse of `windows_of`: (B, n, m, C, side, side) -> (B, C, n * side, m * side)."""
    return windows.permute(0, 3, 1, 4, 2, 5).flatten(4, 5).flatten(2, 3)


def space_to_depth(x: Tensor) -> Tensor:
    """The four pixels of each 2 × 2 cell as channels: (B, C, H, W) -> (B, 4C, H/2, W/2).

    One pixel of all channels after another, column by column; `pixel_unshuffle` goes channel by
    channel.

    Raises:
        ValueError: H or W is odd.
    """
    check_multiple(x, 2)
    cells = [x[..., row::2, column::2] for column in (0, 1) for row in (0, 1)]
    return torch.cat(cells, dim=1)


def check_multiple(x: Tensor, multiple: int) -> None:
    """Whether the sides of a map (B, C, H, W) are multiples.

    Raises:
        ValueError: they are not; names the size.
    """
    height, width = x.shape[-2:]
    if height % multiple or width % multiple:
        raise ValueError(f"height and width must be multiples of {multiple}, got {height}x{width}")


def check_smallest(x: Tensor, side: int) -> None:
    """Whether the sides of a map (B, C, H, W) are long enough.

    Raises:
        ValueError: they are not; names the size.
    """
    height, width = x.shape[-2:]
    if height < side or width < side:
        raise ValueError(f"height and width must be at least {side}, got {height}x{width}")
