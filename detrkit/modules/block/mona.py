"""Mona: multi-cognitive visual adapter. Yin et al., CVPR 2025, arXiv:2408.08345.

    t = γ · LN(x) + γₓ · x                                 scaled norm, eq. 4
    d = down(t)
    d <- d + (dw₃(d) + dw₅(d) + dw₇(d)) / 3;  d <- d + 1×1(d)      eq. 5, 6
    y = x + up(dropout(GELU(d)))

Meant for a frozen backbone; nothing here freezes one.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from detrkit.layers.norm import LayerNorm2d
from detrkit.registry import MODULES, Traits


@MODULES.register(
    family="block",
    paper="arXiv:2408.08345",
    venue="CVPR 2025",
    example={"in_channels": 16, "hidden_channels": 8},
    traits=Traits(),
)
class Mona(nn.Module):
    """A narrow adapter with a shortcut. (B, C, H, W) -> (B, C, H, W).

    Args:
        in_channels: C.
        hidden_channels: width of the adapter.
        dropout: in training.
    """

    def __init__(self, in_channels: int, hidden_channels: int = 64, dropout: float = 0.1) -> None:
        super().__init__()
        self.out_channels = in_channels
        hidden = hidden_channels
        self.norm = LayerNorm2d(in_channels, eps=1e-5)
        self.gamma = nn.Parameter(torch.full((in_channels, 1, 1), 1e-6))
        self.gamma_x = nn.Parameter(torch.ones(in_channels, 1, 1))
        self.down = nn.Conv2d(in_channels, hidden, 1)
        self.depthwise = nn.ModuleList(
            nn.Conv2d(hidden, hidden, side, padding=side // 2, groups=hidden) for side in (3, 5, 7)
        )
        self.mix = nn.Conv2d(hidden, hidden, 1)
        self.dropout = nn.Dropout(dropout)
        self.up = nn.Conv2d(hidden, in_channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        d = self.down(self.gamma * self.norm(x) + self.gamma_x * x)
        d = d + torch.stack([layer(d) for layer in self.depthwise]).mean(0)
        d = d + self.mix(d)
        return x + self.up(self.dropout(F.gelu(d)))
