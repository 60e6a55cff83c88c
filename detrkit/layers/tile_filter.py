"""Learnt filters of the spectrum of small square tiles."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from detrkit.layers.windows import from_window_tokens, window_tokens
from detrkit.ops.precision import precise


def filter_tiles(x: Tensor, side: int, real: Tensor, imaginary: Tensor | None = None) -> Tensor:
    """irfft2(weight · rfft2(tile)) of every tile and channel of a map.

    That is a circular convolution with irfft2(weight), and runs as one matrix product per channel
    in at least float32: exports know no complex numbers, and for sides up to 8 it is cheap.

    Args:
        x: (B, C, H, W), H and W multiples of s.
        side: s, even.
        real, imaginary: (C, s, s // 2 + 1) of the weight.

    Returns:
        (B, C, H, W) in the precision of `x`.

    Raises:
        ValueError: H or W is not a multiple of s.
    """
    with torch.autocast(x.device.type, enabled=False):
        kernel = _kernel(side, precise(real), imaginary)
        matrix = kernel.flatten(1)[:, _circulant_index(side, x)]  # (C, s², s²)
        tiles = window_tokens(x.to(kernel.dtype), side)  # (B, n, s², C)
        out = (tiles.permute(3, 0, 1, 2).flatten(1, 2) @ matrix.transpose(1, 2)).permute(1, 2, 0)
        out = out.unflatten(0, (x.shape[0], -1))
        return from_window_tokens(out, side, (x.shape[2], x.shape[3])).to(x.dtype)


def _kernel(side: int, real: Tensor, imaginary: Tensor | None) -> Tensor:
    """irfft2 of (C, s, s // 2 + 1) as sums of cosines and sines: (C, s, s)."""
    place = torch.arange(side, device=real.device)
    column = place[: side // 2 + 1]
    # both halves of the spectrum: all but the first and the last column stand for two
    twice = 2 - (column % (side // 2) == 0).to(real.dtype)
    turns = place[:, None, None, None] * place[:, None] + place[:, None, None] * column
    angle = (turns % side).to(real.dtype) * (2 * math.pi / side)  # (y, x, u, v)
    waves = [angle.cos(), -angle.sin()]
    parts = [real] if imaginary is None else [real, imaginary.to(real.dtype)]
    kernel = sum(
        (part * twice).flatten(1) @ wave.flatten(0, 1).flatten(1).T
        for part, wave in zip(parts, waves, strict=False)
    )
    return (kernel / side**2).unflatten(1, (side, side))  # type: ignore[union-attr]


def _circulant_index(side: int, like: Tensor) -> Tensor:
    """(s², s²): which element of a kernel (s, s) takes the column's pixel to the row's."""
    rows = torch.arange(side, device=like.device).repeat_interleave(side)
    columns = torch.arange(side, device=like.device).repeat(side)
    dy = (rows[:, None] - rows) % side
    dx = (columns[:, None] - columns) % side
    return dy * side + dx
