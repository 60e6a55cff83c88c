"""FreqFormer: Frequency-aware Transformer for Lightweight Image Super-resolution. Dai et al.,
IJCAI 2024, doi:10.24963/ijcai.2024/81.

CTA: a = channel attention of q, k, v;  c = dw3x3(conv(v))
     m = CP(a),  a += m,  s = SP(c);   y = W (a · σ(s) + c · σ(mean(m)))
SFA: h = FP(W_h x);  a = attention in windows h x w and w x h;  c = dw3x3(conv(v))
     m = CP(c),  c += m,  h += m,  s = SP(a),  h += a
     y = W (a · σ(mean(m)) · σ(mean(h)) + c · σ(s) · σ(h) + h)
CP, SP: channel and spatial projection; FP: high-frequency branch; σ: sigmoid

Padded pixels take part in the attention of SFA.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from detrkit.layers.channel_attention import ChannelAttention, check_heads
from detrkit.layers.depthwise import depthwise
from detrkit.layers.position_bias import DynamicPositionBias
from detrkit.layers.tokens import (
    from_tokens,
    merge_heads,
    size_of,
    split_heads,
    tokens_of,
)
from detrkit.layers.windows import (
    from_window_tokens,
    neighbours_in_windows,
    padded,
    window_tokens,
)
from detrkit.registry import MODULES, Traits


@MODULES.register(
    family="transformer",
    paper="doi:10.24963/ijcai.2024/81",
    venue="IJCAI 2024",
    example={"in_channels": 32, "num_heads": 4},
    traits=Traits(),
)
class CTA(nn.Module):
    """Channel attention and a convolution that gate each other. (B, C, H, W) -> (B, C, H, W).

    Args:
        in_channels: C, at least 12.
        num_heads: divides C.
        qkv_bias: whether queries, keys and values have a bias.
        spatial_reduction: SP is about C / spatial_reduction wide.
    """

    def __init__(
        self,
        in_channels: int,
        num_heads: int = 8,
        qkv_bias: bool = False,
        spatial_reduction: int = 6,
    ) -> None:
        super().__init__()
        check_heads(in_channels, num_heads)
        self.out_channels = in_channels
        self.qkv = nn.Linear(in_channels, 3 * in_channels, bias=qkv_bias)
        self.attention = ChannelAttention(num_heads)
        self.local = _local(in_channels)
        self.channel_projection = _ChannelProjection(in_channels)
        self.spatial_projection = _SpatialProjection(in_channels, spatial_reduction)
        self.proj = nn.Linear(in_channels, in_channels)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = from_tokens(self.qkv(tokens_of(x)), size_of(x)).chunk(3, dim=1)
        attended, local = self.attention(q, k, v), self.local(v)
        channel = self.channel_projection(attended)
        attended = attended + channel
        attended = attended * self.spatial_projection(local).sigmoid()
        local = local * channel.mean((2, 3), keepdim=True).sigmoid()
        return from_tokens(self.proj(tokens_of(attended + local)), size_of(x))


@MODULES.register(
    family="transformer",
    paper="doi:10.24963/ijcai.2024/81",
    venue="IJCAI 2024",
    example={"in_channels": 128, "num_heads": 4, "split_size": [2, 4], "shift_size": [1, 2]},
    traits=Traits(),
)
class SFA(nn.Module):
    """Attention in upright and lying windows beside high frequencies. (B, C, H, W) -> (B, C, H, W).

    Maps are padded with zeros to multiples of the longer side of the windows.

    Args:
        in_channels: C, at least 32; below 128 the bias's perceptron is degenerate.
        num_heads: even, divides C; one half for each shape of windows.
        split_size: (h, w) of the windows of the first half; of the second (w, h).
        shift_size: (dy, dx) by which those of the first half are moved, the second's by (dx, dy);
            None: not.
        qkv_bias: whether queries, keys and values have a bias.
        spatial_reduction: SP is about C / spatial_reduction wide.
    """

    def __init__(
        self,
        in_channels: int,
        num_heads: int = 8,
        split_size: tuple[int, int] = (8, 8),
        shift_size: tuple[int, int] | None = None,
        qkv_bias: bool = False,
        spatial_reduction: int = 6,
    ) -> None:
        super().__init__()
        check_heads(in_channels, num_heads)
        if num_heads % 2:
            raise ValueError(f"num_heads must be even, got {num_heads}")
        if in_channels < 32:
            raise ValueError(f"SFA needs at least 32 channels, got {in_channels}")
        dy, dx = shift_size or (0, 0)
        if not (0 <= dy < split_size[0] and 0 <= dx < split_size[1]):
            raise ValueError(f"shift_size {dy, dx} must be below split_size {tuple(split_size)}")
        self.out_channels = in_channels
        self.multiple = max(split_size)
        self.high = nn.Linear(in_channels, in_channels, bias=False)
        self.frequency_projection = _FrequencyProjection(in_channels)
        self.qkv = nn.Linear(in_channels, 3 * in_channels, bias=qkv_bias)
        half = in_channels // 2
        h, w = split_size
        self.attention = nn.ModuleList(
            _WindowAttention(half, num_heads // 2, side, shift)
            for side, shift in (((h, w), (dy, dx)), ((w, h), (dx, dy)))
        )
        self.local = _local(in_channels)
        self.channel_projection = _ChannelProjection(in_channels)
        self.spatial_projection = _SpatialProjection(in_channels, spatial_reduction)
        self.proj = nn.Linear(in_channels, in_channels)

    def forward(self, x: Tensor) -> Tensor:
        size = size_of(x)
        tokens = tokens_of(x)
        high = self.frequency_projection(from_tokens(self.high(tokens), size))
        qkv = from_tokens(self.qkv(tokens), size)
        attended, local = self._attend(qkv), self.local(qkv.chunk(3, dim=1)[2])
        channel = self.channel_projection(local)
        local = local + channel
        spatial = self.spatial_projection(attended)
        high = high + channel + attended
        of_channel, of_high = (t.mean((2, 3), keepdim=True).sigmoid() for t in (channel, high))
        attended = attended * of_channel * of_high
        local = local * spatial.sigmoid() * high.sigmoid()
        return from_tokens(self.proj(tokens_of(attended + local + high)), size)

    def _attend(self, qkv: Tensor) -> Tensor:
        """(B, 3C, H, W) -> (B, C, H, W)."""
        height, width = size_of(qkv)
        parts = padded(qkv, self.multiple).unflatten(1, (3, 2, -1)).unbind(2)  # (B, 3, C/2, …)
        out = [attend(part) for attend, part in zip(self.attention, parts, strict=True)]
        return torch.cat(out, dim=1)[:, :, :height, :width]


class _WindowAttention(nn.Module):
    """Attention in (shifted) windows with a dynamic position bias. (B, 3, C, H, W) -> (B, C, …)."""

    def __init__(
        self, channels: int, num_heads: int, side: tuple[int, int], shift: tuple[int, int]
    ) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.side = side
        self.shift = shift
        self.bias = DynamicPositionBias(channels // 4 // 4, num_heads)

    def forward(self, qkv: Tensor) -> Tensor:
        size = qkv.shape[3], qkv.shape[4]
        dy, dx = self.shift
        maps = qkv.roll((-dy, -dx), (3, 4)).unbind(1)
        q, k, v = (split_heads(window_tokens(t, self.side), self.num_heads) for t in maps)
        bias = self.bias(*self.side).to(q.dtype)  # (M, t, t)
        if dy or dx:
            allowed = neighbours_in_windows(size, self.side, self.shift, qkv)
            bias = bias.masked_fill(~allowed[:, None], -torch.inf)  # (n, M, t, t)
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=bias[None])
        return from_window_tokens(merge_heads(out), self.side, size).roll((dy, dx), (2, 3))


class _ChannelProjection(nn.Module):
    """CP: a map times its mean and its large neighbourhood, C // 6 channels wide."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        hidden = channels // 6
        self.narrow = nn.Conv2d(channels, hidden, 1)
        self.of_mean = nn.Conv2d(hidden, hidden, 1)
        self.around = nn.Sequential(
            depthwise(hidden, 3), depthwise(hidden, 7, dilation=3), nn.Conv2d(hidden, hidden, 1)
        )
        self.widen = nn.Conv2d(hidden, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.narrow(x)
        return self.widen(x * self.of_mean(x.mean((2, 3), keepdim=True)) * self.around(x))


class _SpatialProjection(nn.Module):
    """SP: gelu(t1) · t2 of the halves of dw3x3(conv(x))."""

    def __init__(self, channels: int, reduction: int) -> None:
        super().__init__()
        half = channels // (2 * reduction)
        if half < 1:
            raise ValueError(f"needs at least {2 * reduction} channels, got {channels}")
        self.narrow = nn.Sequential(nn.Conv2d(channels, 2 * half, 1), depthwise(2 * half, 3))
        self.widen = nn.Conv2d(half, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        gate, value = self.narrow(x).chunk(2, dim=1)
        return self.widen(F.gelu(gate) * value)


class _FrequencyProjection(nn.Module):
    """FP: x + conv([gelu(u1), gelu(conv(maxpool3x3(u2)))]) of the halves of conv(x)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        half = channels // 2
        self.narrow = nn.Conv2d(channels, half, 1)
        self.peak = nn.Sequential(
            nn.MaxPool2d(3, 1, 1), nn.Conv2d(half // 2, half // 2, 1), nn.GELU()
        )
        self.widen = nn.Conv2d(half, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        first, second = self.narrow(x).chunk(2, dim=1)
        return x + self.widen(torch.cat([F.gelu(first), self.peak(second)], dim=1))


def _local(channels: int) -> nn.Sequential:
    """The convolution branch of the values."""
    return nn.Sequential(nn.Conv2d(channels, channels, 1), depthwise(channels, 3))
