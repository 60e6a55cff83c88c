"""C2PSA: partial self-attention in a cross-stage shell, as in YOLO11.

Half of the channels pass through blocks of attention and a feed-forward part; the attention adds a
depthwise convolution of its values as position encoding (YOLOv10, Wang et al., NeurIPS 2024,
arXiv:2405.14458, section 3.2).

    a = softmax(qᵀk / √d) v + dw(v)
    x <- x + proj(a);  x <- x + ffn(x)
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from detrkit.layers.conv import ConvNormAct
from detrkit.registry import MODULES, Traits


class PositionalAttention(nn.Module):
    """Self-attention with keys half as wide as values. (B, C, H, W) -> (B, C, H, W)."""

    def __init__(self, channels: int, num_heads: int) -> None:
        super().__init__()
        if channels % num_heads or channels // num_heads < 2:
            raise ValueError(f"{channels} channels cannot be split among {num_heads} heads")
        self.num_heads = num_heads
        self.head_dim = channels // num_heads
        self.key_dim = self.head_dim // 2
        self.qkv = ConvNormAct(channels, channels + 2 * self.key_dim * num_heads, 1)
        self.position = ConvNormAct(channels, channels, 3, groups=channels)
        self.proj = ConvNormAct(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        qkv = self.qkv(x).flatten(2).unflatten(1, (self.num_heads, -1)).transpose(2, 3)
        q, k, v = qkv.split([self.key_dim, self.key_dim, self.head_dim], dim=-1)
        mixed = F.scaled_dot_product_attention(q, k, v).transpose(2, 3).reshape(x.shape)
        values = v.transpose(2, 3).reshape(x.shape)
        return self.proj(mixed + self.position(values))


class PSABlock(nn.Module):
    """Attention and a feed-forward part, each with a shortcut. (B, C, H, W) -> (B, C, H, W)."""

    def __init__(self, channels: int, num_heads: int) -> None:
        super().__init__()
        self.attention = PositionalAttention(channels, num_heads)
        self.mlp = nn.Sequential(
            ConvNormAct(channels, 2 * channels, 1, act="silu"),
            ConvNormAct(2 * channels, channels, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(x)
        return x + self.mlp(x)


@MODULES.register(
    family="graph",
    paper="arXiv:2405.14458",
    venue="NeurIPS 2024",
    example={"in_channels": 32, "num_heads": 2},
    traits=Traits(),
)
class C2PSA(nn.Module):
    """(B, C, H, W) -> (B, out_channels, H, W).

    Args:
        in_channels: C.
        out_channels: None keeps the width.
        expansion: width of the half with attention, relative to C.
        num_heads: None: one for every 64 channels of that half, at least one.
        num_blocks: blocks in a row.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int | None = None,
        expansion: float = 0.5,
        *,
        num_heads: int | None = None,
        num_blocks: int = 1,
    ) -> None:
        super().__init__()
        self.out_channels = in_channels if out_channels is None else out_channels
        hidden = int(in_channels * expansion)
        heads = num_heads or max(hidden // 64, 1)
        self.split = ConvNormAct(in_channels, 2 * hidden, 1, act="silu")
        self.blocks = nn.Sequential(*(PSABlock(hidden, heads) for _ in range(num_blocks)))
        self.fuse = ConvNormAct(2 * hidden, self.out_channels, 1, act="silu")

    def forward(self, x: Tensor) -> Tensor:
        kept, attended = self.split(x).chunk(2, dim=1)
        return self.fuse(torch.cat([kept, self.blocks(attended)], dim=1))
