"""DPCF: detail-preserving contextual fusion. SAMamba, Information Fusion 2025, arXiv:2505.23214.

    s = σ(d),   y = 1×1(s · up(low) + (1 - s) · high)

with one learned scalar d: the authors split the maps into four groups, which share it, so the
split has no effect and is left out. They enlarge to a square of the height; here to (H, W).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from detrkit.layers.conv import ConvNormAct, matched
from detrkit.registry import MODULES, Traits


@MODULES.register(
    family="featurefusion",
    paper="arXiv:2505.23214",
    venue="Information Fusion 2025",
    example={"in_channels": [12, 8], "out_channels": 16},
    traits=Traits(scale=2, sides=(1, 2)),
)
class DPCF(nn.Module):
    """[(B, C₀, h, w), (B, C₁, H, W)] -> (B, out_channels, H, W).

    Args:
        in_channels: C₀ of the coarse map, C₁ of the fine one.
        out_channels: None: C₁.
    """

    def __init__(self, in_channels: Sequence[int], out_channels: int | None = None) -> None:
        super().__init__()
        low, high = in_channels
        self.out_channels = high if out_channels is None else out_channels
        self.match = matched(low, high)
        self.balance = nn.Parameter(torch.randn(1, 1, 1, 1))
        self.fuse = ConvNormAct(high, self.out_channels, 1, act="silu")

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        low, high = self.match(maps[0]), maps[1]
        low = F.interpolate(low, size=high.shape[2:], mode="bilinear", align_corners=True)
        share = self.balance.sigmoid()
        return self.fuse(share * low + (1 - share) * high)
