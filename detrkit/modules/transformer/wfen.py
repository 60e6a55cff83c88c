"""Efficient Face Super-Resolution via Wavelet-based Feature Enhancement Network (WFEN). Li et al.,
ACM MM 2024, arXiv:2407.19768.

q, k, v = dw3x3(conv(x))
GSA: A = relu(t · cos(q, k)) of a head's channels, y = W shuffle(A v)
RSA: A = relu(t · qᵀ k) of all channels within a window, pixels of unit length, y = W (v A)
No softmax. t is one learnt number.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from detrkit.layers.channel_attention import (
    ConvQKV,
    channel_similarity,
    check_heads,
    heads_of,
    unit_length,
)
from detrkit.layers.tokens import size_of
from detrkit.layers.windows import from_window_tokens, padded, window_tokens
from detrkit.registry import MODULES, Traits


@MODULES.register(
    family="transformer",
    paper="arXiv:2407.19768",
    venue="ACM MM 2024",
    example={"in_channels": 16, "num_heads": 4},
    traits=Traits(),
)
class GSA(nn.Module):
    """Attention among the channels of a head over the whole map. (B, C, H, W) -> (B, C, H, W).

    Args:
        in_channels: C.
        num_heads: divides C.
    """

    def __init__(self, in_channels: int, num_heads: int = 8) -> None:
        super().__init__()
        check_heads(in_channels, num_heads)
        self.out_channels = in_channels
        self.num_heads = num_heads
        self.temperature = nn.Parameter(torch.ones(1, 1, 1))
        self.qkv = ConvQKV(in_channels)
        self.project_out = nn.Conv2d(in_channels, in_channels, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (heads_of(t, self.num_heads) for t in self.qkv(x).chunk(3, dim=1))
        out = (channel_similarity(q, k) * self.temperature).relu() @ v  # (B, M, c, N)
        shuffled = out.transpose(1, 2).flatten(1, 2).unflatten(2, size_of(x))
        return self.project_out(shuffled)


@MODULES.register(
    family="transformer",
    paper="arXiv:2407.19768",
    venue="ACM MM 2024",
    example={"in_channels": 16},
    traits=Traits(),
)
class RSA(nn.Module):
    """Attention among all channels within each window. (B, C, H, W) -> (B, C, H, W).

    Windows wrap around the border when shifted. Maps are padded with zeros to whole windows.

    Args:
        in_channels: C.
        window_size: side of the windows.
        shift: whether they are moved by half a window.
    """

    def __init__(self, in_channels: int, window_size: int = 4, shift: bool = True) -> None:
        super().__init__()
        self.out_channels = in_channels
        self.window_size = window_size
        self.shift = window_size // 2 if shift else 0
        self.temperature = nn.Parameter(torch.ones(1, 1, 1))
        self.qkv = ConvQKV(in_channels)
        self.project_out = nn.Conv2d(in_channels, in_channels, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        height, width = size_of(x)
        x = padded(x, self.window_size)
        size = size_of(x)
        x = self.qkv(x.roll((-self.shift, -self.shift), (2, 3)))
        q, k, v = (window_tokens(t, self.window_size) for t in x.chunk(3, dim=1))  # (B, n, t, C)
        weights = unit_length(q).transpose(2, 3) @ unit_length(k)  # (B, n, C, C)
        out = v @ (weights * self.temperature).relu()
        out = from_window_tokens(out, self.window_size, size)
        out = out.roll((self.shift, self.shift), (2, 3))[:, :, :height, :width]
        return self.project_out(out)
