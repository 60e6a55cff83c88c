"""Frequency-Aware Transformer for Learned Image Compression. Li et al., ICLR 2024,
arXiv:2310.16387.

t <- t + proj [attention of four groups of channels, each in windows of its own shape]
t <- t + FM(FFN(LN t))                                 filtered spectra of tiles, see `FMFFN`
y = x + pw(T(pw x))

Windows of 2w × 2w and w/2 × w/2 see low and high frequencies, those of w/2 × 2w and 2w × w/2
directions. Rolled blocks have no mask, as published.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from detrkit.layers.norm import LayerNorm2d
from detrkit.layers.position_bias import RelativePositionBias
from detrkit.layers.tokens import from_tokens, merge_heads, size_of, split_heads, tokens_of
from detrkit.layers.windows import check_multiple, from_window_tokens, window_tokens
from detrkit.modules.mlp.fmffn import FMFFN
from detrkit.registry import MODULES, Traits


class DecomposedWindowAttention(nn.Module):
    """Four groups of channels attend in windows of four shapes. (B, C, H, W) -> (B, C, H, W).

    Args:
        channels: C, divisible by four.
        num_heads: divisible by four.
        window_size: w, divisible by four.
        shifted: whether windows are rolled by half their side.
    """

    def __init__(self, channels: int, num_heads: int, window_size: int, shifted: bool) -> None:
        super().__init__()
        if num_heads % 4 or channels % num_heads:
            raise ValueError(
                f"num_heads must be a multiple of 4 that divides {channels}, got {num_heads}"
            )
        if window_size % 4:
            raise ValueError(f"window_size must be a multiple of 4, got {window_size}")
        large, small = 2 * window_size, window_size // 2
        self.windows = ((large, large), (small, small), (small, large), (large, small))
        self.shifted = shifted
        self.qkv = nn.Linear(channels, 3 * channels, bias=False)
        self.biases = nn.ModuleList(
            RelativePositionBias(window, num_heads // 4) for window in self.windows
        )
        for table in self.biases.parameters():
            nn.init.zeros_(table)
        self.heads = num_heads // 4
        self.proj = nn.Linear(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        size = size_of(x)
        qkv = from_tokens(self.qkv(tokens_of(x)), size).unflatten(1, (3, 4, -1))
        found = [
            self._attend(qkv[:, :, group].flatten(1, 2), window, bias())
            for group, (window, bias) in enumerate(zip(self.windows, self.biases, strict=True))
        ]
        return from_tokens(self.proj(tokens_of(torch.cat(found, dim=1))), size)

    def _attend(self, qkv: Tensor, window: tuple[int, int], bias: Tensor) -> Tensor:
        """One group: (B, 3c, H, W) -> (B, c, H, W)."""
        shift = (window[0] // 2, window[1] // 2)
        if self.shifted:
            qkv = qkv.roll((-shift[0], -shift[1]), (2, 3))
        q, k, v = (
            split_heads(part, self.heads) for part in window_tokens(qkv, window).chunk(3, dim=-1)
        )
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=bias.to(q.dtype))
        found = from_window_tokens(merge_heads(out), window, size_of(qkv))
        return found.roll(shift, (2, 3)) if self.shifted else found


@MODULES.register(
    "FATBlock",
    "FAT_Block",
    family="module",
    paper="arXiv:2310.16387",
    venue="ICLR 2024",
    example={"in_channels": 16, "num_heads": 4, "window_size": 4, "tile_size": 4},
    traits=Traits(multiple=8, float32="the transform of the tiles"),
)
class FATBlock(nn.Module):
    """(B, C, H, W) -> (B, C, H, W), H and W multiples of 2 · window_size and of tile_size.

    Args:
        in_channels: C, divisible by four.
        num_heads: divisible by four.
        window_size: w, divisible by four.
        tile_size: side of the tiles whose spectra are filtered; even.
        shifted: whether windows are rolled by half their side.
    """

    def __init__(
        self,
        in_channels: int,
        num_heads: int = 8,
        window_size: int = 4,
        tile_size: int = 8,
        shifted: bool = False,
    ) -> None:
        super().__init__()
        self.out_channels = in_channels
        self.multiple = math.lcm(2 * window_size, tile_size)
        self.enter = nn.Conv2d(in_channels, in_channels, 1)
        self.norm1 = LayerNorm2d(in_channels, eps=1e-5)
        self.attention = DecomposedWindowAttention(in_channels, num_heads, window_size, shifted)
        self.norm2 = LayerNorm2d(in_channels, eps=1e-5)
        self.mlp = FMFFN(in_channels, window_size=tile_size)
        self.leave = nn.Conv2d(in_channels, in_channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        check_multiple(x, self.multiple)
        t = self.enter(x)
        t = t + self.attention(self.norm1(t))
        t = t + self.mlp(self.norm2(t))
        return x + self.leave(t)
