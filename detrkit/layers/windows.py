"""Maps cut into windows, and put together again."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from detrkit.errors import MapSizeError

#: Side of square windows, or (h, w).
Side = int | tuple[int, int]


def sides_of(side: Side) -> tuple[int, int]:
    """(h, w) of a window."""
    return (side, side) if isinstance(side, int) else side


def windows_of(x: Tensor, side: Side) -> Tensor:
    """(B, C, H, W) -> (B, H/h, W/w, C, h, w).

    Raises:
        ValueError: H or W is not a multiple of the window's.
    """
    h, w = sides_of(side)
    check_multiple(x, side)
    return x.unflatten(3, (-1, w)).unflatten(2, (-1, h)).permute(0, 2, 4, 1, 3, 5)


def from_windows(windows: Tensor) -> Tensor:
    """Inverse of `windows_of`: (B, n, m, C, h, w) -> (B, C, n * h, m * w)."""
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


def window_tokens(x: Tensor, side: Side) -> Tensor:
    """The pixels of each window, row by row. (B, C, H, W) -> (B, H/h · W/w, h·w, C)."""
    return windows_of(x, side).flatten(4).transpose(3, 4).flatten(1, 2)


def from_window_tokens(tokens: Tensor, side: Side, size: tuple[int, int]) -> Tensor:
    """Inverse of `window_tokens` for a map of `size` (H, W): (B, n, h·w, C) -> (B, C, H, W)."""
    h, w = sides_of(side)
    windows = tokens.transpose(2, 3).unflatten(3, (h, w))
    return from_windows(windows.unflatten(1, (size[0] // h, size[1] // w)))


def padded(x: Tensor, multiple: Side, mode: str = "constant") -> Tensor:
    """`x` (…, H, W) with rows below and columns to the right, up to multiples; zeros, or `mode`."""
    h, w = sides_of(multiple)
    below, right = -x.shape[-2] % h, -x.shape[-1] % w
    return F.pad(x, [0, right, 0, below], mode=mode) if below or right else x


def neighbours_in_windows(
    size: tuple[int, int], side: Side, shift: Side, like: Tensor, padding: bool = False
) -> Tensor:
    """Which tokens of a window lay side by side before the map was rolled by (-shift, -shift).

    Swin Transformer, Liu et al., ICCV 2021, arXiv:2103.14030, figure 4.

    Args:
        size: (H, W) of the map before it was padded.
        side, shift: of the windows.
        like: gives the device.
        padding: whether padded pixels are kept apart from the map's.

    Returns:
        (windows, h·w, h·w) bool, for the map padded to multiples.
    """
    labels = []
    for length, step, by in zip(size, sides_of(side), sides_of(shift), strict=True):
        whole = length + -length % step
        place = torch.arange(whole, device=like.device)
        label = (place >= whole - by).long()
        if padding:
            label = label.masked_fill((place + by) % whole >= length, 2)
        labels.append(label)
    label = window_tokens((3 * labels[0][:, None] + labels[1])[None, None], side)[0, ..., 0]
    return label[:, :, None] == label[:, None]


def check_multiple(x: Tensor, multiple: Side) -> None:
    """Whether the sides of a map (B, C, H, W) are multiples.

    Raises:
        ValueError: they are not; names the size.
    """
    height, width = x.shape[-2:]
    h, w = sides_of(multiple)
    if height % h or width % w:
        named = f"{h}" if h == w else f"{h}x{w}"
        raise MapSizeError(f"height and width must be multiples of {named}, got {height}x{width}")


def check_smallest(x: Tensor, side: int) -> None:
    """Whether the sides of a map (B, C, H, W) are long enough.

    Raises:
        ValueError: they are not; names the size.
    """
    height, width = x.shape[-2:]
    if height < side or width < side:
        raise MapSizeError(f"height and width must be at least {side}, got {height}x{width}")
