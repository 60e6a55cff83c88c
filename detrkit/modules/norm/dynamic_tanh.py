"""Transformers without Normalization. Zhu et al., CVPR 2025, arXiv:2503.10622.

y = γ · tanh(α x) + β
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from detrkit.registry import MODULES, Traits


@MODULES.register(
    "DynamicTanh",
    "DyT",
    family="norm",
    paper="arXiv:2503.10622",
    venue="CVPR 2025",
    example={"in_channels": 16},
    traits=Traits(),
)
class DynamicTanh(nn.Module):
    """An elementwise stand-in for layer norm. (B, C, H, W) -> (B, C, H, W).

    Args:
        in_channels: C.
        alpha_init_value: start of α, one for all channels.
    """

    def __init__(self, in_channels: int, alpha_init_value: float = 0.5) -> None:
        super().__init__()
        self.out_channels = in_channels
        self.alpha = nn.Parameter(torch.tensor([alpha_init_value]))
        self.weight = nn.Parameter(torch.ones(in_channels))
        self.bias = nn.Parameter(torch.zeros(in_channels))

    def forward(self, x: Tensor) -> Tensor:
        weight, bias = self.weight[:, None, None], self.bias[:, None, None]
        return weight * (self.alpha * x).tanh() + bias
