"""Depth Information Assisted Collaborative Mutual Promotion Network for Single Image Dehazing
(DCMPNet). Zhang et al., CVPR 2024, arXiv:2403.01105.

n = γ (x - μ) / σ + β,   s = W σ,   t = V μ          μ, σ of all values of an image
x <- x + s · Att(n) + t
x <- x + W relu(W x)
Att(n) = W (softmax(q kᵀ / √d + b(offset)) v + DW5×5(v)), in windows

Windows are filled up by reflection; shifted ones begin outside of the map.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from detrkit.errors import MapSizeError
from detrkit.layers.channel_attention import check_heads
from detrkit.layers.mlp import MLP
from detrkit.layers.position_bias import offset_index
from detrkit.layers.tokens import merge_heads, split_heads
from detrkit.layers.windows import from_window_tokens, window_tokens
from detrkit.ops.precision import precise
from detrkit.registry import MODULES, Traits

Convolution = Literal["DWConv", "Conv"]


@MODULES.register(
    family="module",
    paper="arXiv:2403.01105",
    venue="CVPR 2024",
    example={"in_channels": 16, "depth": 2, "window_size": 4, "conv_type": "DWConv"},
    traits=Traits(smallest=4, float32="statistics of whole images"),
)
class LEGM(nn.Module):
    """Window attention with convolved values, block by block. (B, C, H, W) -> (B, C, H, W).

    Every second block shifts its windows by half. Sides below the window's are refused.

    Args:
        in_channels: C.
        depth: number of blocks.
        num_heads: M.
        mlp_ratio: width of the feed-forward parts, relative to C.
        window_size: side of a window.
        attn_ratio: share of the blocks that attend, the last ones; the others convolve.
        conv_type: convolution of the values, "DWConv" (5×5, depthwise), "Conv" (two 3×3), or None.

    Raises:
        ValueError: heads that do not share C evenly, another `conv_type`, or none in a block
            that does not attend.
    """

    def __init__(
        self,
        in_channels: int,
        depth: int = 1,
        num_heads: int = 8,
        mlp_ratio: float = 4.0,
        window_size: int = 8,
        attn_ratio: float = 1.0,
        conv_type: Convolution | None = None,
    ) -> None:
        super().__init__()
        self.out_channels = in_channels
        first = depth - int(attn_ratio * depth)
        self.blocks = nn.Sequential(
            *(
                LEGMBlock(
                    in_channels,
                    num_heads,
                    mlp_ratio,
                    window_size,
                    shift_size=window_size // 2 if index % 2 else 0,
                    use_attn=index >= first,
                    conv_type=conv_type,
                )
                for index in range(depth)
            )
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.blocks(x)


class LEGMBlock(nn.Module):
    """One block. (B, C, H, W) -> (B, C, H, W).

    Args:
        channels: C.
        num_heads, mlp_ratio, window_size, conv_type: see `LEGM`.
        shift_size: pixels by which windows begin outside of the map.
        use_attn: whether it attends; without, norm and rescaling are missing too.
    """

    def __init__(
        self,
        channels: int,
        num_heads: int,
        mlp_ratio: float,
        window_size: int,
        shift_size: int = 0,
        use_attn: bool = True,
        conv_type: Convolution | None = None,
    ) -> None:
        super().__init__()
        hidden = int(channels * mlp_ratio)
        self.norm = ImageNorm(channels) if use_attn else None
        self.mixer = (
            WindowMixer(channels, num_heads, window_size, shift_size, conv_type)
            if use_attn
            else _convolving(channels, conv_type)
        )
        self.mlp = nn.Sequential(
            nn.Conv2d(channels, hidden, 1), nn.ReLU(), nn.Conv2d(hidden, channels, 1)
        )

    def forward(self, x: Tensor) -> Tensor:
        if self.norm is None:
            x = x + self.mixer(x)
        else:
            n, scale, shift = self.norm(x)
            x = x + self.mixer(n) * scale + shift
        return x + self.mlp(x)


class ImageNorm(nn.Module):
    """Norm of all values of an image, and its statistics mapped to factor and summand per channel.

    (B, C, H, W) -> (B, C, H, W), (B, C, 1, 1), (B, C, 1, 1).

    Args:
        channels: C.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1, channels, 1, 1))
        self.bias = nn.Parameter(torch.zeros(1, channels, 1, 1))
        self.scale = nn.Conv2d(1, channels, 1)
        self.shift = nn.Conv2d(1, channels, 1)
        nn.init.ones_(self.scale.bias)  # type: ignore[arg-type]
        nn.init.zeros_(self.shift.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        wide = precise(x)
        mean = wide.mean((1, 2, 3), keepdim=True)
        std = ((wide - mean).square().mean((1, 2, 3), keepdim=True) + 1e-5).sqrt()
        n = ((wide - mean) / std).to(x.dtype) * self.weight + self.bias
        return n, self.scale(std.to(x.dtype)), self.shift(mean.to(x.dtype))


class WindowMixer(nn.Module):
    """Attention in windows plus a convolution of the values. (B, C, H, W) -> (B, C, H, W).

    Args:
        channels, num_heads, window_size, shift_size, conv_type: see `LEGMBlock`.
    """

    def __init__(
        self,
        channels: int,
        num_heads: int,
        window_size: int,
        shift_size: int,
        conv_type: Convolution | None,
    ) -> None:
        super().__init__()
        check_heads(channels, num_heads)
        self.num_heads, self.side, self.shift = num_heads, window_size, shift_size
        self.v = nn.Conv2d(channels, channels, 1)
        self.qk = nn.Conv2d(channels, 2 * channels, 1)
        self.conv = None if conv_type is None else _convolution(channels, conv_type)
        self.bias = LogOffsetBias(num_heads)
        self.proj = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[2], x.shape[3]
        if min(height, width) < self.side:
            raise MapSizeError(
                f"sides must be at least the window's {self.side}, got {height}x{width}"
            )
        v = self.v(x)
        before = self.shift
        below, right = (-(before + length) % self.side for length in (height, width))
        qkv = torch.cat([self.qk(x), v], dim=1)
        qkv = F.pad(qkv, [before, right, before, below], mode="reflect")
        size = (qkv.shape[2], qkv.shape[3])
        tokens = window_tokens(qkv, self.side)
        q, k, values = (split_heads(t, self.num_heads) for t in tokens.chunk(3, dim=-1))
        scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1) + self.bias(self.side)
        out = merge_heads(scores.softmax(-1).to(values.dtype) @ values)
        out = from_window_tokens(out, self.side, size)
        out = out[:, :, before : before + height, before : before + width]
        return self.proj(out if self.conv is None else out + self.conv(v))


class LogOffsetBias(nn.Module):
    """A perceptron of sign(Δ) log(1 + |Δ|) of an offset.

    Args:
        num_heads: M.
    """

    def __init__(self, num_heads: int) -> None:
        super().__init__()
        self.mlp = MLP(2, 256, num_heads, num_layers=2)

    def forward(self, side: int) -> Tensor:
        """(M, N, N), N = side²: bias of the row's pixel for the column's."""
        weight = next(self.parameters())
        line = torch.arange(1 - side, side, device=weight.device, dtype=weight.dtype)
        line = line.sign() * (1 + line.abs()).log()
        count = 2 * side - 1
        offsets = torch.stack([line.repeat_interleave(count), line.repeat(count)], dim=1)
        return self.mlp(offsets)[offset_index(side, side, weight)].permute(2, 0, 1)


def _convolution(channels: int, kind: str) -> nn.Module:
    if kind == "DWConv":
        return nn.Conv2d(channels, channels, 5, padding=2, groups=channels, padding_mode="reflect")
    if kind == "Conv":
        first, second = (
            nn.Conv2d(channels, channels, 3, padding=1, padding_mode="reflect") for _ in range(2)
        )
        return nn.Sequential(first, nn.ReLU(), second)
    raise ValueError(f"conv_type must be DWConv, Conv or None, got {kind!r}")


def _convolving(channels: int, kind: str | None) -> nn.Module:
    """What stands for attention in a block without: "DWConv" keeps its 1×1 layers."""
    if kind is None:
        raise ValueError("a block without attention needs a conv_type: DWConv or Conv")
    conv = _convolution(channels, kind)
    if kind == "Conv":
        return conv
    return nn.Sequential(nn.Conv2d(channels, channels, 1), conv, nn.Conv2d(channels, channels, 1))
