"""MSLAU-Net: A Hybrid CNN-Transformer Network for Medical Image Segmentation. Lan et al., 2025,
arXiv:2505.18823.

t_i = relu(x_i + dw_k(x_i)),  k = 3, 5, 7, 9            quarters of the channels
a_i = w_i · W_o (softmax_N(q) (softmax_c(k)ᵀ v))        one attention for all quarters
y   = conv([a_1, …, a_4])

As in the authors' code, queries are normalised over pixels and keys over channels; the other way
round is usual. Their code views tokens as maps, and heads as tokens, without transposing them,
which scatters pixels; corrected here.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from detrkit.layers.channel_attention import check_heads
from detrkit.layers.depthwise import depthwise
from detrkit.layers.tokens import from_tokens, merge_heads, size_of, split_heads, tokens_of
from detrkit.registry import MODULES, Traits

_KERNELS = (3, 5, 7, 9)


@MODULES.register(
    family="transformer",
    paper="arXiv:2505.18823",
    venue="2025",
    example={"in_channels": 32, "num_heads": 2},
    traits=Traits(),
)
class MSLA(nn.Module):
    """Linear attention at four scales. (B, C, H, W) -> (B, C, H, W).

    Args:
        in_channels: C, a multiple of 4 · num_heads.
        num_heads: of the attention of a quarter.
    """

    def __init__(self, in_channels: int, num_heads: int = 4) -> None:
        super().__init__()
        check_heads(in_channels, 4 * num_heads)
        self.out_channels = in_channels
        width = in_channels // len(_KERNELS)
        self.convs = nn.ModuleList(depthwise(width, side) for side in _KERNELS)
        self.attention = _LinearAttention(width, num_heads)
        self.scale_weights = nn.Parameter(torch.ones(len(_KERNELS)))
        self.fuse = nn.Conv2d(in_channels, in_channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        parts = [
            weight * self.attention((part + conv(part)).relu())
            for part, conv, weight in zip(
                x.chunk(len(_KERNELS), dim=1), self.convs, self.scale_weights, strict=True
            )
        ]
        return self.fuse(torch.cat(parts, dim=1))


class _LinearAttention(nn.Module):
    """softmax_N(q) (softmax_c(k)ᵀ v) of each head. (B, C, H, W) -> (B, C, H, W)."""

    def __init__(self, channels: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(channels, 3 * channels, bias=False)
        self.proj = nn.Linear(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        qkv = self.qkv(tokens_of(x)).chunk(3, dim=-1)
        q, k, v = (split_heads(t, self.num_heads) for t in qkv)  # (B, M, N, c)
        out = q.softmax(-2) @ (k.softmax(-1).transpose(-2, -1) @ v)
        return from_tokens(self.proj(self.merge(out)), size_of(x))

    def merge(self, heads: Tensor) -> Tensor:
        """(B, M, N, c) -> (B, N, C)."""
        return merge_heads(heads)
