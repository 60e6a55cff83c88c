"""RGCSPELAN: a cross-stage stage of cheap convolutions. In-house design of public collections.

Without a paper; it joins GhostNet's cheap copies (Han et al., CVPR 2020, arXiv:1911.11907),
RepVGG's convolution (Ding et al., CVPR 2021, arXiv:2101.03697) and CSP-ELAN.

    [y₀, y₁] = conv x
    m₀ = rep(y₁);  m_i = 3×3(m_{i-1});  m_n = 1×1(m_{n-1})
    out = conv [y₀, m₀, …, m_n]
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from detrkit.layers.conv import ConvNormAct, RepVGGBlock
from detrkit.registry import MODULES, Traits


@MODULES.register(
    family="block",
    paper="in-house; arXiv:1911.11907, arXiv:2101.03697",
    example={"in_channels": 32, "out_channels": 48, "num_blocks": 2},
    traits=Traits(),
)
class RGCSPELAN(nn.Module):
    """(B, C, H, W) -> (B, out_channels, H, W).

    Args:
        in_channels: C.
        out_channels: None keeps the width.
        scale: width of the chain, relative to a half.
        expansion: width of a half, relative to `out_channels`.
        num_blocks: convolutions of the chain, the first of which has two branches.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int | None = None,
        scale: float = 0.5,
        expansion: float = 0.5,
        *,
        num_blocks: int = 1,
    ) -> None:
        super().__init__()
        self.out_channels = in_channels if out_channels is None else out_channels
        half = int(self.out_channels * expansion)
        thin = int(half * scale)
        self.split = ConvNormAct(in_channels, 2 * half, 1, act="silu")
        self.chain = nn.ModuleList(
            [
                RepVGGBlock(half, thin, act="silu"),
                *(ConvNormAct(thin, thin, 3, act="silu") for _ in range(num_blocks - 1)),
                ConvNormAct(thin, thin, 1, act="silu"),
            ]
        )
        width = half + (num_blocks + 1) * thin
        self.fuse = ConvNormAct(width, self.out_channels, 1, act="silu")

    def forward(self, x: Tensor) -> Tensor:
        kept, moved = self.split(x).chunk(2, dim=1)
        maps = [kept]
        for layer in self.chain:
            moved = layer(moved)
            maps.append(moved)
        return self.fuse(torch.cat(maps, dim=1))
