"""Emulating Self-attention with Convolution for Efficient Image Super-Resolution. Lee et al.,
ICCV 2025, arXiv:2503.06671.

t = F_2(LN(x)),   t <- t + A(LN(t))                 F: convolved feed-forward, A: windows
t <- t + ConvAttn(F_e(t))                            several times, one large kernel for all
y = x + conv3×3(LN(t))
F_e(x) = W (u + gelu(DW3×3(u))),   u = gelu(V x)

The authors' network has one large kernel for all blocks; here each block has its own, which
learns: a copy in circulation cuts its gradient.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from detrkit.errors import MapSizeError
from detrkit.layers.channel_attention import check_heads
from detrkit.layers.depthwise import depthwise
from detrkit.layers.norm import LayerNorm2d
from detrkit.layers.position_bias import offset_index
from detrkit.layers.tokens import merge_heads, size_of, split_heads
from detrkit.layers.windows import from_window_tokens, padded, window_tokens
from detrkit.modules.conv.conv_attn import ConvAttn
from detrkit.registry import MODULES, Traits


@MODULES.register(
    family="module",
    paper="arXiv:2503.06671",
    venue="ICCV 2025",
    example={
        "in_channels": 16, "kernel_size": 5, "window_size": 4, "num_heads": 2, "use_ln": True
    },
    traits=Traits(smallest=3),
)  # fmt: skip
class ESCBlock(nn.Module):
    """Attention in windows once, then convolutions in its place. (B, C, H, W) -> (B, C, H, W).

    Windows are filled up by reflection: sides of at most half a window are refused.

    Args:
        in_channels: C.
        partial_channels: channels of the large convolution; None: a quarter.
        conv_blocks: number of convolutional attentions.
        kernel_size: odd side of the large kernel.
        window_size: side of a window.
        num_heads: M of the window attention.
        expansion: width of their feed-forward parts, relative to C.
        use_ln: whether norms precede these; the smallest networks have none.

    Raises:
        ValueError: heads that do not share C evenly, an even kernel.
    """

    def __init__(
        self,
        in_channels: int,
        partial_channels: int | None = None,
        conv_blocks: int = 5,
        kernel_size: int = 13,
        window_size: int = 16,
        num_heads: int = 4,
        expansion: float = 1.25,
        use_ln: bool = False,
    ) -> None:
        super().__init__()
        self.out_channels = c = in_channels
        check_heads(c, num_heads)
        self.enter = nn.Sequential(LayerNorm2d(c), ConvFFN(c, 2 * c))
        self.windows = nn.Sequential(LayerNorm2d(c), WindowAttention(c, window_size, num_heads))
        convolutions = [ConvAttn(c, partial_channels, kernel_size) for _ in range(conv_blocks)]
        for convolution in convolutions[1:]:
            convolution.large = convolutions[0].large
        self.blocks = nn.ModuleList(
            nn.Sequential(
                LayerNorm2d(c) if use_ln else nn.Identity(),
                ConvFFN(c, int(c * expansion)),
                convolution,
            )
            for convolution in convolutions
        )
        self.leave = nn.Sequential(LayerNorm2d(c), nn.Conv2d(c, c, 3, padding=1))

    def forward(self, x: Tensor) -> Tensor:
        t = self.enter(x)
        t = t + self.windows(t)
        for block in self.blocks:
            t = t + block(t)
        return x + self.leave(t)


class ConvFFN(nn.Module):
    """F_e of the module's equations. (B, C, H, W) -> (B, C, H, W).

    Args:
        channels: C.
        hidden_channels: width of u.
    """

    def __init__(self, channels: int, hidden_channels: int) -> None:
        super().__init__()
        self.fc1 = nn.Sequential(nn.Conv2d(channels, hidden_channels, 1), nn.GELU())
        self.dwconv = nn.Sequential(depthwise(hidden_channels, 3), nn.GELU())
        self.fc2 = nn.Conv2d(hidden_channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        u = self.fc1(x)
        return self.fc2(u + self.dwconv(u))


class WindowAttention(nn.Module):
    """softmax(q kᵀ / √d + bias of the offset) v in windows. (B, C, H, W) -> (B, C, H, W).

    Args:
        channels: C.
        window_size: side of a window.
        num_heads: M.
    """

    def __init__(self, channels: int, window_size: int, num_heads: int) -> None:
        super().__init__()
        self.side, self.num_heads = window_size, num_heads
        self.qkv = nn.Conv2d(channels, 3 * channels, 1)
        self.table = nn.Parameter(torch.empty(num_heads, (2 * window_size - 1) ** 2))
        nn.init.trunc_normal_(self.table, std=0.02)
        self.leave = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        height, width = size_of(x)
        for length in (height, width):
            if -length % self.side >= length:
                raise MapSizeError(
                    f"sides must be more than half a window of {self.side}, got {height}x{width}"
                )
        whole = padded(self.qkv(x), self.side, mode="reflect")
        tokens = window_tokens(whole, self.side)
        q, k, v = (split_heads(t, self.num_heads) for t in tokens.chunk(3, dim=-1))
        bias = self.table[:, offset_index(self.side, self.side, x).T]  # offsets: key - query
        scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1) + bias
        out = merge_heads(scores.softmax(-1).to(v.dtype) @ v)
        out = from_window_tokens(out, self.side, size_of(whole))
        return self.leave(out[:, :, :height, :width])
