"""Vision Transformer with Deformable Attention (DAT). Xia et al., CVPR 2022, arXiv:2201.00520.

Δp = s · tanh(θ_offset(q));   x~ = sample(x, p + Δp)
y  = W (softmax(q k(x~)ᵀ / sqrt(d) + bias) v(x~))

As in the authors' code the centres of the cells are divided by H - 1, so that those of the last
row and column lie outside, where zeros are sampled.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from detrkit.errors import MapSizeError
from detrkit.layers.channel_attention import check_heads, from_heads
from detrkit.layers.depthwise import depthwise
from detrkit.layers.norm import LayerNorm2d
from detrkit.layers.tokens import size_of, split_heads, tokens_of
from detrkit.ops.precision import precise
from detrkit.registry import MODULES, Traits

Position = Literal["dwc", "table", "log_cpb", "none"]


@MODULES.register(
    family="transformer",
    paper="arXiv:2201.00520",
    venue="CVPR 2022",
    example={"in_channels": 16, "num_heads": 4, "num_groups": 2, "position": "table", "size": 8},
    traits=Traits(smallest=2, float32="places of the samples"),
)
class DAttention(nn.Module):
    """Attends to samples at learnt places, shared by all queries. (B, C, H, W) -> (B, C, H, W).

    Cost grows with H·W times the number of samples, H·W / stride².

    Args:
        in_channels: C.
        num_heads: divides C.
        num_groups: of channels with their own places; divides `num_heads`.
        stride: of the grid of samples.
        offset_range_factor: how many cells a sample may move; negative: any way within the map.
        kernel_size: of the convolution that sees the offsets.
        position: "dwc", a convolution of the queries; "table", learnt numbers between which the
            bias is interpolated; "log_cpb", a perceptron of the distance; "none".
        size: one side or (H, W) of the map that the table is for; others share it, stretched.
    """

    def __init__(
        self,
        in_channels: int,
        num_heads: int = 8,
        num_groups: int = 4,
        stride: int = 1,
        offset_range_factor: float = 4.0,
        kernel_size: int = 3,
        position: Position = "dwc",
        size: int | tuple[int, int] = 20,
    ) -> None:
        super().__init__()
        check_heads(in_channels, num_heads)
        if num_heads % num_groups:
            raise ValueError(f"num_groups must divide {num_heads} heads, got {num_groups}")
        if position not in ("dwc", "table", "log_cpb", "none"):
            raise ValueError(f"position must be dwc, table, log_cpb or none, got {position!r}")
        self.out_channels = in_channels
        self.num_heads = num_heads
        self.num_groups = num_groups
        self.offset_range_factor = offset_range_factor
        self.position = position
        width = in_channels // num_groups
        padding = 0 if kernel_size == stride else kernel_size // 2
        self.offset = nn.Sequential(
            nn.Conv2d(width, width, kernel_size, stride, padding, groups=width),
            LayerNorm2d(width, eps=1e-5),
            nn.GELU(),
            nn.Conv2d(width, 2, 1, bias=False),
        )
        self.proj_q = nn.Conv2d(in_channels, in_channels, 1)
        self.proj_k = nn.Conv2d(in_channels, in_channels, 1)
        self.proj_v = nn.Conv2d(in_channels, in_channels, 1)
        self.proj_out = nn.Conv2d(in_channels, in_channels, 1)
        if position == "dwc":
            self.rpe_conv = depthwise(in_channels, 3)
        elif position == "table":
            height, width = (size, size) if isinstance(size, int) else size
            self.rpe_table = nn.Parameter(torch.empty(num_heads, 2 * height - 1, 2 * width - 1))
            nn.init.trunc_normal_(self.rpe_table, std=0.01)
        elif position == "log_cpb":
            self.rpe_mlp = nn.Sequential(
                nn.Linear(2, 32), nn.ReLU(), nn.Linear(32, num_heads // num_groups, bias=False)
            )

    def forward(self, x: Tensor) -> Tensor:
        size = size_of(x)
        query = self.proj_q(x)
        places = self._places(query)  # (B·G, h, w, 2)
        with torch.autocast(x.device.type, enabled=False):
            samples = F.grid_sample(
                self._groups(x).to(places.dtype), places.flip(-1), align_corners=True
            )
        samples = samples.to(x.dtype).unflatten(0, (-1, self.num_groups)).flatten(1, 2)
        q, k, v = (
            split_heads(tokens_of(t), self.num_heads)
            for t in (query, self.proj_k(samples), self.proj_v(samples))
        )
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=self._bias(places, size, q.dtype))
        out = from_heads(out.transpose(2, 3), size)
        return self.proj_out(out + self.rpe_conv(query) if self.position == "dwc" else out)

    def _groups(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B·G, C / G, H, W)."""
        return x.unflatten(1, (self.num_groups, -1)).flatten(0, 1)

    def _places(self, query: Tensor) -> Tensor:
        """(B·G, h, w, 2): y and x of the samples; -1 and 1 are the first and the last pixel."""
        offset = precise(self.offset(self._groups(query))).permute(0, 2, 3, 1)
        height, width = offset.shape[1:3]
        if height < 2 or width < 2:
            raise MapSizeError(
                "DAttention needs at least 2x2 samples, "
                f"got {height}x{width} of a map of {query.shape[2]}x{query.shape[3]}"
            )
        grid = _grid(height, width, offset, start=0.5)
        if self.offset_range_factor < 0:
            return (grid + offset).clamp(-1, 1)
        cell = torch.stack([_step(height, offset), _step(width, offset)])
        return grid + offset.tanh() * cell * self.offset_range_factor

    def _bias(self, places: Tensor, size: tuple[int, int], dtype: torch.dtype) -> Tensor | None:
        """(B, M, H·W, h·w) of the distances from pixels to samples."""
        if self.position not in ("table", "log_cpb"):
            return None
        pixels = _grid(*size, places).reshape(1, -1, 1, 2)
        distance = pixels - places.flatten(1, 2)[:, None]  # (B·G, H·W, h·w, 2)
        with torch.autocast(places.device.type, enabled=False):
            if self.position == "table":
                table = self.rpe_table.unflatten(0, (self.num_groups, -1))
                table = table.repeat(places.shape[0] // self.num_groups, 1, 1, 1)
                bias = F.grid_sample(
                    table.to(distance.dtype), 0.5 * distance.flip(-1), align_corners=True
                )
            else:
                distance = 4 * distance
                distance = distance.sign() * (distance.abs() + 1).log2() / math.log2(8)
                bias = self.rpe_mlp(distance).permute(0, 3, 1, 2)
        return bias.unflatten(0, (-1, self.num_groups)).flatten(1, 2).to(dtype)


def _step(count: int, like: Tensor) -> Tensor:
    """1 / (count - 1)."""
    return like.new_ones(()) / (count - 1)


def _grid(height: int, width: int, like: Tensor, start: float = 0.0) -> Tensor:
    """(height, width, 2): (i + start) / (n - 1) · 2 - 1, y first."""
    axes = [
        (torch.arange(n, device=like.device, dtype=like.dtype) + start) / (n - 1) * 2 - 1
        for n in (height, width)
    ]
    return torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1)
