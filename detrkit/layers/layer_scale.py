"""A learned factor per channel for a residual branch."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class LayerScale2d(nn.Module):
    """γ · x, one γ per channel. (B, C, H, W) -> (B, C, H, W).

    CaiT, Touvron et al., ICCV 2021, arXiv:2103.17239, section 2.

    Args:
        channels: C.
        start: first value of every γ.
    """

    def __init__(self, channels: int, start: float) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.full((channels,), start))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gamma[:, None, None]
