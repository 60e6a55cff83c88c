"""The block around a large-kernel attention."""

from __future__ import annotations

from torch import Tensor, nn


class ProjectedAttention(nn.Module):
    """x + conv(unit(gelu(conv(x)))), both 1x1. (B, C, H, W) -> (B, C, H, W).

    Visual Attention Network, Guo et al., CVMJ 2023, arXiv:2202.09741.

    Args:
        in_channels: C.
        unit: the attention, which keeps the shape.
    """

    def __init__(self, in_channels: int, unit: nn.Module) -> None:
        super().__init__()
        self.out_channels = in_channels
        self.project_in = nn.Sequential(nn.Conv2d(in_channels, in_channels, 1), nn.GELU())
        self.unit = unit
        self.project_out = nn.Conv2d(in_channels, in_channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.project_out(self.unit(self.project_in(x)))
