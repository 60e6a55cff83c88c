"""PolaFormer: Polarity-aware Linear Attention for Vision Transformers. Meng et al., ICLR 2025,
arXiv:2501.15061.

q⁺ = relu(q)^p, q⁻ = relu(-q)^p,  k alike;  p = 1 + α sigmoid(w) per channel
Q1 = [q⁺, q⁻],  Q2 = [q⁻, q⁺],  K = [k⁺, k⁻],  v = [v1, v2]
o_i = Q_i (Kᵀ v_i) / (Q_i · Σ K)
y = W ((o + dwconv(v)) · g)

As in the authors' code, reduced values are stretched along the row of tokens, not in two
dimensions, before the convolution. Positions of other map sizes are interpolated.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from detrkit.layers.channel_attention import check_heads
from detrkit.layers.depthwise import depthwise
from detrkit.layers.norm import LayerNorm2d
from detrkit.layers.tokens import from_tokens, merge_heads, size_of, split_heads, tokens_of
from detrkit.registry import MODULES, Traits


@MODULES.register(
    family="transformer",
    paper="arXiv:2501.15061",
    venue="ICLR 2025",
    example={"in_channels": 16, "num_heads": 4, "size": 8},
    traits=Traits(float32="powers and the normaliser"),
)
class PolaLinearAttention(nn.Module):
    """Linear attention that keeps signs apart. (B, C, H, W) -> (B, C, H, W).

    Args:
        in_channels: C.
        num_heads: divides C; heads have an even number of channels.
        size: of the map that the learnt positions are for, one side or (H, W).
        sr_ratio: keys and values are reduced so many times along each side.
        kernel_size: of the convolution of the values; odd.
        alpha: α, above which no power rises by more.
        qkv_bias: whether queries, keys, values and gate have a bias.
    """

    def __init__(
        self,
        in_channels: int,
        num_heads: int = 8,
        *,
        size: int | tuple[int, int] = 20,
        sr_ratio: int = 1,
        kernel_size: int = 5,
        alpha: float = 4.0,
        qkv_bias: bool = False,
    ) -> None:
        super().__init__()
        check_heads(in_channels, 2 * num_heads)
        self.out_channels = in_channels
        self.num_heads = num_heads
        self.alpha = alpha
        head_dim = in_channels // num_heads
        height, width = (size, size) if isinstance(size, int) else size
        self.grid = height // sr_ratio, width // sr_ratio
        self.qg = nn.Linear(in_channels, 2 * in_channels, bias=qkv_bias)
        self.kv = nn.Linear(in_channels, 2 * in_channels, bias=qkv_bias)
        self.reduce = (
            nn.Sequential(
                nn.Conv2d(in_channels, in_channels, sr_ratio, sr_ratio),
                LayerNorm2d(in_channels, eps=1e-5),
            )
            if sr_ratio > 1
            else nn.Identity()
        )
        self.position = nn.Parameter(torch.zeros(1, self.grid[0] * self.grid[1], in_channels))
        self.scale = nn.Parameter(torch.zeros(1, 1, in_channels))
        self.power = nn.Parameter(torch.zeros(1, num_heads, 1, head_dim))
        self.dwc = depthwise(head_dim, kernel_size)
        self.proj = nn.Linear(in_channels, in_channels)

    def forward(self, x: Tensor) -> Tensor:
        reduced = self.reduce(x)
        q, gate = self.qg(tokens_of(x)).chunk(2, dim=-1)
        k, v = self.kv(tokens_of(reduced)).chunk(2, dim=-1)
        k = k + self._positions(size_of(reduced))
        with torch.autocast(x.device.type, enabled=False):
            out = self._attend(*(t.to(self.scale.dtype) for t in (q, k, v)))
        v = v.transpose(1, 2)
        if not isinstance(self.reduce, nn.Identity):
            v = F.interpolate(v, size=q.shape[1], mode="linear")
        heads = v.unflatten(1, (self.num_heads, -1)).flatten(0, 1).unflatten(2, size_of(x))
        local = self.dwc(heads).unflatten(0, (-1, self.num_heads)).flatten(1, 2)
        return from_tokens(self.proj((out + tokens_of(local)) * gate), size_of(x))

    def _attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """(B, N, C), (B, n, C), (B, n, C) -> (B, N, C)."""
        scale = F.softplus(self.scale)
        power = 1 + self.alpha * self.power.sigmoid()
        q, k, v = (split_heads(t, self.num_heads) for t in (q / scale, k / scale, v))
        q_plus, q_minus = q.relu() ** power, (-q).relu() ** power
        keys = torch.cat([k.relu() ** power, (-k).relu() ** power], dim=-1)  # (B, M, n, 2c)
        mean = keys.mean(-2, keepdim=True).transpose(-2, -1)
        parts = []
        for first, second, values in zip(
            (q_plus, q_minus), (q_minus, q_plus), v.chunk(2, dim=-1), strict=True
        ):
            queries = torch.cat([first, second], dim=-1)
            memory = keys.transpose(-2, -1) @ (values / keys.shape[-2])  # (B, M, 2c, c / 2)
            parts.append(queries @ memory / (queries @ mean + 1e-6))
        return merge_heads(torch.cat(parts, dim=-1))

    def _positions(self, size: tuple[int, int]) -> Tensor:
        if size == self.grid:
            return self.position
        table = from_tokens(self.position, self.grid)
        return tokens_of(F.interpolate(table, size=size, mode="bilinear", align_corners=False))
