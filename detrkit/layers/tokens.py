"""Maps as sequences of pixels, row by row."""

from __future__ import annotations

from torch import Tensor


def tokens_of(x: Tensor) -> Tensor:
    """(B, C, H, W) -> (B, H·W, C)."""
    return x.flatten(2).transpose(1, 2)


def from_tokens(tokens: Tensor, size: tuple[int, int]) -> Tensor:
    """Inverse of `tokens_of` for a map of `size` (H, W)."""
    return tokens.transpose(1, 2).unflatten(2, size)


def size_of(x: Tensor) -> tuple[int, int]:
    """(H, W) of a map."""
    return x.shape[2], x.shape[3]


def split_heads(tokens: Tensor, num_heads: int) -> Tensor:
    """(…, N, M·c) -> (…, M, N, c)."""
    return tokens.unflatten(-1, (num_heads, -1)).transpose(-3, -2)


def merge_heads(x: Tensor) -> Tensor:
    """Inverse of `split_heads`."""
    return x.transpose(-3, -2).flatten(-2)
