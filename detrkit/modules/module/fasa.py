"""Lightweight Vision Transformer with Bidirectional Interaction (FAT). Fan et al., NeurIPS 2023,
arXiv:2306.00396.

x <- x + DW_k×k(x)
q = W n,   g = softmax(q Kᵀ / √d) V,   [K, V] = W pool(n),   n = norm(x)
l = silu(DW_k×k(q)),   x <- x + W (l · sigmoid(g) · g)           FASA, eq. 5–7
h = gelu(W norm(x)),   x <- x + W BN(h + DW(h))

The pooling is a chain of strided convolutions. Only the form that keeps size and width.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from detrkit.layers.attention import attend
from detrkit.layers.channel_attention import check_heads
from detrkit.layers.conv import ConvNormAct
from detrkit.layers.depthwise import depthwise
from detrkit.layers.drop_path import DropPath
from detrkit.layers.tokens import from_tokens, merge_heads, size_of, split_heads, tokens_of
from detrkit.registry import MODULES, Traits


@MODULES.register(
    family="module",
    paper="arXiv:2306.00396",
    venue="NeurIPS 2023",
    example={"in_channels": 16},
    traits=Traits(),
)
class FATBlock_FASA(nn.Module):
    """Fully adaptive self-attention, then feed-forward. (B, C, H, W) -> (B, C, H, W).

    Args:
        in_channels: C.
        num_heads: M.
        kernel_size: odd, of the position and the local convolutions.
        window_size: keys and values are pooled to 1 / window_size: 1, 2, 4 or 8.
        mlp_kernel_size: odd, of the convolution in the feed-forward part.
        mlp_ratio: its width, relative to C.
        drop_path: rate at which training leaves a branch out.

    Raises:
        ValueError: another window size, or heads that do not share C evenly.
    """

    def __init__(
        self,
        in_channels: int,
        num_heads: int = 4,
        kernel_size: int = 7,
        window_size: int = 4,
        mlp_kernel_size: int = 5,
        mlp_ratio: float = 4.0,
        drop_path: float = 0.0,
    ) -> None:
        super().__init__()
        self.out_channels = c = in_channels
        hidden = int(c * mlp_ratio)
        self.position = depthwise(c, kernel_size)
        self.norm1, self.norm2 = nn.GroupNorm(1, c), nn.GroupNorm(1, c)
        self.attention = FASA(c, num_heads, kernel_size, window_size)
        self.fc1 = nn.Conv2d(c, hidden, 1)
        self.dwconv = depthwise(hidden, mlp_kernel_size)
        self.norm = nn.BatchNorm2d(hidden)
        self.fc2 = nn.Conv2d(hidden, c, 1)
        self.drop = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.position(x)
        x = x + self.drop(self.attention(self.norm1(x)))
        h = F.gelu(self.fc1(self.norm2(x)))
        return x + self.drop(self.fc2(self.norm(h + self.dwconv(h))))


class FASA(nn.Module):
    """Fully adaptive self-attention. (B, C, H, W) -> (B, C, H, W).

    Args:
        channels: C.
        num_heads, kernel_size, window_size: see `FATBlock_FASA`.
    """

    def __init__(self, channels: int, num_heads: int, kernel_size: int, window_size: int) -> None:
        super().__init__()
        if window_size not in (1, 2, 4, 8):
            raise ValueError(f"window_size must be 1, 2, 4 or 8, got {window_size}")
        check_heads(channels, num_heads)
        c = channels
        self.num_heads = num_heads
        self.q = nn.Conv2d(c, c, 1)
        layers: list[nn.Module] = []
        for halving in range(window_size.bit_length() - 1):
            if halving:
                layers.append(nn.Conv2d(c, c, 1))
            layers.append(ConvNormAct(c, c, 5, stride=2, groups=c, bias=True))
        self.pool = nn.Sequential(*layers)
        self.kv = nn.Conv2d(c, 2 * c, 1)
        self.local = depthwise(c, kernel_size)
        self.leave = nn.Conv2d(c, c, 1)

    def forward(self, x: Tensor) -> Tensor:
        query = self.q(x)
        k, v = self.kv(self.pool(x)).chunk(2, dim=1)
        q, k, v = (split_heads(tokens_of(t), self.num_heads) for t in (query, k, v))
        whole = from_tokens(merge_heads(attend(q, k, v)), size_of(x))
        local = F.silu(self.local(query)) * whole.sigmoid()
        return self.leave(local * whole)
