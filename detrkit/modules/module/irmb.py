"""Rethinking Mobile Block for Efficient Attention-based Models (EMO). Zhang et al., ICCV 2023,
arXiv:2301.01146.

n = norm(x),   A = softmax(q kᵀ / √d),   [q, k] = W n         in windows of every n-th pixel
v = A act(V n)            or, for `attn_pre`, act(V (A n))
v <- v + silu(BN(DW_k×k(v)))
y = x + W v                                                    section 3.2, figure 3

A window holds pixels that lie n apart, n the number of windows along the map: it sees all of it.
"""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn

from detrkit.layers.activations import get_activation
from detrkit.layers.channel_attention import check_heads
from detrkit.layers.conv import ConvNormAct
from detrkit.layers.drop_path import DropPath
from detrkit.layers.norm import LayerNorm2d
from detrkit.layers.tokens import merge_heads, size_of, split_heads
from detrkit.layers.windows import padded
from detrkit.registry import MODULES, Traits


@MODULES.register(
    family="module",
    paper="arXiv:2301.01146",
    venue="ICCV 2023",
    example={"in_channels": 16, "dim_head": 8},
    traits=Traits(),
)
class iRMB(nn.Module):
    """An inverted bottleneck that attends where it is wide. (B, C, H, W) -> (B, out, H/s, W/s).

    Args:
        in_channels: C.
        out_channels: None: C.
        expansion: width inside, relative to C.
        kernel_size: odd, of the depthwise convolution.
        stride: of it, 1 or 2; odd sides are rounded up.
        norm: "batch", "layer" (over the channels of a pixel), or None, before everything.
        act: of the values.
        attn: whether it attends; without it is a convolutional block.
        attn_pre: attends before the values are made, with the narrow map.
        dim_head: channels of a head.
        window_size: side of a window; 0 or less: the whole map.
        qkv_bias: whether queries, keys and values have one.
        shortcut: adds the input where size and width allow it.
        drop_path: rate at which training leaves the branch out.

    Raises:
        ValueError: `dim_head` does not divide C, another stride or norm.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int | None = None,
        expansion: float = 1.0,
        kernel_size: int = 3,
        stride: int = 1,
        *,
        norm: Literal["batch", "layer"] | None = "batch",
        act: str = "relu",
        attn: bool = True,
        attn_pre: bool = False,
        dim_head: int = 64,
        window_size: int = 7,
        qkv_bias: bool = False,
        shortcut: bool = True,
        drop_path: float = 0.0,
    ) -> None:
        super().__init__()
        c = in_channels
        self.out_channels = out_channels or c
        if stride not in (1, 2):
            raise ValueError(f"stride must be 1 or 2, got {stride}")
        if norm not in ("batch", "layer", None):
            raise ValueError(f"norm must be batch, layer or None, got {norm!r}")
        if attn and c % dim_head:
            raise ValueError(f"dim_head must divide {c} channels, got {dim_head}")
        hidden = int(c * expansion)
        self.num_heads, self.window_size, self.attn_pre = c // dim_head, window_size, attn_pre
        if attn:
            check_heads(hidden, self.num_heads)
        self.norm: nn.Module = nn.Identity()
        if norm is not None:
            self.norm = nn.BatchNorm2d(c, eps=1e-6) if norm == "batch" else LayerNorm2d(c)
        self.qk = nn.Conv2d(c, 2 * c, 1, bias=qkv_bias) if attn else None
        self.v = nn.Sequential(nn.Conv2d(c, hidden, 1, bias=qkv_bias), get_activation(act))
        self.local = ConvNormAct(hidden, hidden, kernel_size, stride, groups=hidden, act="silu")
        self.local.norm.eps = 1e-6
        self.leave = nn.Conv2d(hidden, self.out_channels, 1, bias=False)
        self.shortcut = shortcut and stride == 1 and c == self.out_channels
        self.drop = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        n = self.norm(x)
        v = self.v(n) if self.qk is None else self.attended(n)
        if not self.shortcut:
            return self.drop(self.leave(self.local(v)))
        return x + self.drop(self.leave(v + self.local(v)))

    def attended(self, n: Tensor) -> Tensor:
        """The values that local convolutions see, (B, C, H, W) -> (B, hidden, H, W)."""
        assert self.qk is not None
        size = size_of(n)
        side = (self.window_size, self.window_size) if self.window_size > 0 else size
        n = padded(n, side)
        scale = (n.shape[1] // self.num_heads) ** -0.5
        whole = size_of(n)
        q, k, v = (
            split_heads(_spread_windows(t, side), self.num_heads)
            for t in (*self.qk(n).chunk(2, dim=1), n if self.attn_pre else self.v(n))
        )
        out = merge_heads(((q * scale) @ k.transpose(-2, -1)).softmax(-1).to(v.dtype) @ v)
        y = _from_spread_windows(out, side, whole)
        if self.attn_pre:
            y = self.v(y)
        return y[:, :, : size[0], : size[1]]


def _spread_windows(x: Tensor, side: tuple[int, int]) -> Tensor:
    """Windows of h · w pixels as far apart as possible. (B, C, n·h, m·w) -> (B, n·m, h·w, C)."""
    h, w = side
    spread = x.unflatten(3, (w, -1)).unflatten(2, (h, -1))  # (B, C, h, n, w, m)
    return spread.permute(0, 3, 5, 2, 4, 1).flatten(3, 4).flatten(1, 2)


def _from_spread_windows(tokens: Tensor, side: tuple[int, int], size: tuple[int, int]) -> Tensor:
    """Inverse of `_spread_windows` for a map of `size` (H, W)."""
    h, w = side
    windows = tokens.unflatten(2, (h, w)).unflatten(1, (size[0] // h, size[1] // w))
    return windows.permute(0, 5, 3, 1, 4, 2).flatten(4, 5).flatten(2, 3)
