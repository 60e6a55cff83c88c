"""Rethinking Transformer-Based Blind-Spot Network for Self-Supervised Image Denoising (TBSN).
Li et al., AAAI 2025, arXiv:2404.07846.

G-CSA: softmax(t · cos(q, k)) v among channels,  q, k, v = dilated dw3x3(conv(x))
M-WSA: softmax(q kᵀ / sqrt(d) + rel + mask) v,  windows of queries, larger ones of keys

The mask lets a pixel see those at even distances along both axes, itself included. The published
one does so only where the keys' window exceeds the queries' by a multiple of 4; elsewhere, with
windows of 4, it shows the odd distances and hides the pixel itself. Copies for detectors have the
two names the other way round.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from detrkit.layers.channel_attention import ChannelAttention, ConvQKV, check_heads
from detrkit.layers.tokens import merge_heads, size_of, split_heads
from detrkit.layers.windows import from_window_tokens, padded, window_tokens
from detrkit.registry import MODULES, Traits


@MODULES.register(
    family="transformer",
    paper="arXiv:2404.07846",
    venue="AAAI 2025",
    example={"in_channels": 16, "num_heads": 4},
    traits=Traits(),
)
class DilatedGCSA(nn.Module):
    """Channel attention with a dilated neighbourhood. (B, C, H, W) -> (B, C, H, W).

    Args:
        in_channels: C.
        num_heads: divides C.
        bias: of the convolutions.
    """

    def __init__(self, in_channels: int, num_heads: int = 8, bias: bool = False) -> None:
        super().__init__()
        check_heads(in_channels, num_heads)
        self.out_channels = in_channels
        self.qkv = ConvQKV(in_channels, bias, dilation=2)
        self.attention = ChannelAttention(num_heads)
        self.project_out = nn.Conv2d(in_channels, in_channels, 1, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.project_out(self.attention(*self.qkv(x).chunk(3, dim=1)))


@MODULES.register(
    family="transformer",
    paper="arXiv:2404.07846",
    venue="AAAI 2025",
    example={"in_channels": 16, "num_heads": 4, "dim_head": 4, "window_size": 4},
    traits=Traits(),
)
class DilatedMWSA(nn.Module):
    """Attention to every other pixel around a window. (B, C, H, W) -> (B, C, H, W).

    Maps are padded with zeros to whole windows; outside, keys are zeros and take part.

    Args:
        in_channels: C.
        num_heads, dim_head: heads and their width; their product need not be C.
        window_size: w, side of the windows of queries.
        overlap_ratio: windows of keys are o = w + int(w · overlap_ratio) wide; o - w even.
        bias: of the convolutions.

    Attributes:
        allowed: (w², o²), whether a query sees a key.
    """

    allowed: Tensor

    def __init__(
        self,
        in_channels: int,
        num_heads: int = 8,
        dim_head: int = 16,
        window_size: int = 8,
        overlap_ratio: float = 0.5,
        bias: bool = False,
    ) -> None:
        super().__init__()
        overlap = int(window_size * overlap_ratio)
        if overlap % 2:
            raise ValueError(
                f"window_size {window_size} and overlap_ratio {overlap_ratio} give an odd overlap "
                f"of {overlap} pixels; it must be even"
            )
        self.out_channels = in_channels
        self.num_heads = num_heads
        self.dim_head = dim_head
        self.window_size = window_size
        self.overlap_size = window_size + overlap
        inner = num_heads * dim_head
        self.qkv = nn.Conv2d(in_channels, 3 * inner, 1, bias=bias)
        self.rel_height = nn.Parameter(torch.empty(2 * self.overlap_size - 1, dim_head))
        self.rel_width = nn.Parameter(torch.empty(2 * self.overlap_size - 1, dim_head))
        for table in (self.rel_height, self.rel_width):
            nn.init.normal_(table, std=dim_head**-0.5)
        self.project_out = nn.Conv2d(inner, in_channels, 1, bias=bias)
        even = (self._distance() + overlap // 2) % 2 == 0  # (w, o)
        allowed = even[:, None, :, None] & even[None, :, None, :]
        self.register_buffer("allowed", allowed.flatten(2).flatten(0, 1), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        height, width = size_of(x)
        w, o = self.window_size, self.overlap_size
        inner = self.num_heads * self.dim_head
        maps = padded(self.qkv(x), w)
        q = split_heads(window_tokens(maps[:, :inner], w), self.num_heads)  # (B, n, M, w², d)
        q = q * self.dim_head**-0.5
        keys = F.unfold(maps[:, inner:], o, padding=(o - w) // 2, stride=w)
        keys = keys.unflatten(1, (2, self.num_heads, self.dim_head, -1))  # (B, 2, M, d, o², n)
        k, v = keys.permute(1, 0, 5, 2, 4, 3).unbind(0)  # (B, n, M, o², d) each
        scores = q @ k.transpose(-2, -1) + self._relative(q)
        out = scores.masked_fill(~self.allowed, -torch.inf).softmax(-1) @ v
        out = from_window_tokens(merge_heads(out), w, size_of(maps))
        return self.project_out(out[:, :, :height, :width])

    def _distance(self) -> Tensor:
        """(w, o): place of the key minus place of the query, along one axis, each in its window."""
        device = self.rel_height.device
        query = torch.arange(self.window_size, device=device)
        return torch.arange(self.overlap_size, device=device) - query[:, None]

    def _relative(self, q: Tensor) -> Tensor:
        """(B, n, M, w², o²): scores of the distances, a table for each axis."""
        index = self._distance() + self.overlap_size - 1
        q = q.unflatten(3, (self.window_size, self.window_size))  # (B, n, M, y, x, d)
        down = q @ self.rel_height[index].transpose(1, 2)  # (…, y, x, o)
        along = q.transpose(3, 4) @ self.rel_width[index].transpose(1, 2)  # (…, x, y, o)
        along = along.transpose(3, 4)
        return (down[..., None] + along[..., None, :]).flatten(5).flatten(3, 4)
