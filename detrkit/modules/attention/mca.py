"""MCANet: Medical Image Segmentation with Multi-Scale Cross-Axis Attention. Shao et al., 2023,
arXiv:2312.08866.

n = layernorm(x);  r = Σ_k dw1xk(n),  c = Σ_k dwkx1(n),  k = 7, 11, 21
o1 = P(r),  o2 = P(c)                                                      one 1x1 convolution P
y_rows    = attend(q = o2, k = v = o1) among rows
y_columns = attend(q = o1, k = v = o2) among columns
y = P(y_rows) + P(y_columns) + x
attend(q, k, v) = softmax(q̂ k̂ᵀ) v + q̂,  ˆ of unit length; no temperature

A copy for detectors under this name differs: dense kernels and no softmax.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from detrkit.layers.channel_attention import check_heads, unit_length
from detrkit.layers.depthwise import depthwise
from detrkit.layers.norm import LayerNorm2d
from detrkit.registry import MODULES, Traits


@MODULES.register(
    family="attention",
    paper="arXiv:2312.08866",
    venue="2023",
    example={"in_channels": 16, "num_heads": 4},
    traits=Traits(),
)
class MCA(nn.Module):
    """Rows attend to rows and columns to columns, across axes. (B, C, H, W) -> (B, C, H, W).

    Args:
        in_channels: C.
        num_heads: divides C.
        kernel_sizes: lengths of the strips; odd.
    """

    def __init__(
        self, in_channels: int, num_heads: int = 8, kernel_sizes: Sequence[int] = (7, 11, 21)
    ) -> None:
        super().__init__()
        check_heads(in_channels, num_heads)
        self.out_channels = in_channels
        self.num_heads = num_heads
        self.norm = LayerNorm2d(in_channels, eps=1e-5)
        self.along_rows = nn.ModuleList(depthwise(in_channels, (1, k)) for k in kernel_sizes)
        self.along_columns = nn.ModuleList(depthwise(in_channels, (k, 1)) for k in kernel_sizes)
        self.project = nn.Conv2d(in_channels, in_channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        normed = self.norm(x)
        one, other = (
            self.project(sum(strip(normed) for strip in strips))
            for strips in (self.along_rows, self.along_columns)
        )
        rows = self._attend(other, one)
        columns = self._attend(one.transpose(2, 3), other.transpose(2, 3)).transpose(2, 3)
        return self.project(rows) + self.project(columns) + x

    def _attend(self, query: Tensor, key: Tensor) -> Tensor:
        """Among the rows of each head: (B, C, H, W) -> (B, C, H, W)."""
        q, k = (
            t.unflatten(1, (self.num_heads, -1)).permute(0, 1, 3, 4, 2).flatten(3)
            for t in (query, key)
        )  # (B, M, H, W·c)
        v, q, k = k, unit_length(q), unit_length(k)
        out = (q @ k.transpose(-2, -1)).softmax(-1) @ v + q
        channels = query.shape[1] // self.num_heads
        return out.unflatten(3, (-1, channels)).permute(0, 1, 4, 2, 3).flatten(1, 2)
