"""MANet: Mixed Aggregation Network. Hyper-YOLO, Feng et al., TPAMI 2025, arXiv:2408.04804.

y = conv x,   [y₂, y₃] = y
a = 1×1(y)                              straight
b = 1×1(dw(1×1(y)))                     depthwise separable
m_i = bottleneck(m_{i-1}), m₀ = y₃      as C2f
out = conv [a, b, y₂, y₃, m₁, …]
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn

from detrkit.layers.conv import ConvNormAct
from detrkit.modules.block.csp import Bottleneck, inner_block
from detrkit.modules.part import Part
from detrkit.registry import MODULES, Traits


@MODULES.register(
    family="block",
    paper="arXiv:2408.04804",
    venue="TPAMI 2025",
    example={"in_channels": 16, "out_channels": 24, "num_blocks": 2},
    traits=Traits(),
    parts=("inner",),
)
class MANet(nn.Module):
    """Three ways through a stage, concatenated. (B, C, H, W) -> (B, out_channels, H, W).

    Args:
        in_channels: C.
        out_channels: None keeps the width.
        shortcut: of the bottlenecks.
        separable_expansion: width of the depthwise convolution, relative to that of the two
            halves together.
        kernel_size: side of the depthwise convolution.
        groups: of the bottlenecks.
        expansion: width of a half, relative to `out_channels`.
        inner: module in place of the bottlenecks.
        num_blocks: bottlenecks in a row.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int | None = None,
        shortcut: bool = False,
        separable_expansion: float = 1.0,
        kernel_size: int = 3,
        groups: int = 1,
        expansion: float = 0.5,
        *,
        inner: Part | None = None,
        num_blocks: int = 1,
    ) -> None:
        super().__init__()
        self.out_channels = in_channels if out_channels is None else out_channels
        half = int(self.out_channels * expansion)
        wide = int(2 * separable_expansion * half)
        self.split = ConvNormAct(in_channels, 2 * half, 1, act="silu")
        self.straight = ConvNormAct(2 * half, half, 1, act="silu")
        self.separable = nn.Sequential(
            ConvNormAct(2 * half, wide, 1, act="silu"),
            ConvNormAct(wide, wide, kernel_size, groups=wide, act="silu"),
            ConvNormAct(wide, half, 1, act="silu"),
        )
        own = partial(Bottleneck, shortcut=shortcut, groups=groups, expansion=1.0)
        self.blocks = nn.ModuleList(
            inner_block(inner, "MANet.inner", half, own) for _ in range(num_blocks)
        )
        self.fuse = ConvNormAct((4 + num_blocks) * half, self.out_channels, 1, act="silu")

    def forward(self, x: Tensor) -> Tensor:
        y = self.split(x)
        maps = [self.straight(y), self.separable(y), *y.chunk(2, dim=1)]
        for block in self.blocks:
            maps.append(block(maps[-1]))
        return self.fuse(torch.cat(maps, dim=1))
