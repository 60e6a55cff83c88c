"""MFM: modulation fusion. DCMPNet, Zhang et al., CVPR 2024, arXiv:2403.01105.

    a = softmax over i of MLP(mean of sum_i x_i)      per channel
    y = sum_i a_i · x_i

The selective-kernel fusion of SKNet (arXiv:1903.06586) for any number of maps.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from detrkit.layers.conv import matched
from detrkit.registry import MODULES, Traits


@MODULES.register(
    family="featurefusion",
    paper="arXiv:2403.01105",
    venue="CVPR 2024",
    example={"in_channels": [8, 16, 16]},
    traits=Traits(),
)
class MFM(nn.Module):
    """Maps of one size -> their weighted sum. [(B, C_i, H, W)] -> (B, out_channels, H, W).

    Args:
        in_channels: widths of the maps.
        out_channels: None: that of the last map.
        reduction: the hidden layer is out_channels // reduction wide, at least 4.
    """

    def __init__(
        self, in_channels: Sequence[int], out_channels: int | None = None, reduction: int = 8
    ) -> None:
        super().__init__()
        self.out_channels = in_channels[-1] if out_channels is None else out_channels
        self.count = len(in_channels)
        hidden = max(self.out_channels // reduction, 4)
        self.match = nn.ModuleList(matched(c, self.out_channels) for c in in_channels)
        self.mlp = nn.Sequential(
            nn.Conv2d(self.out_channels, hidden, 1, bias=False),
            nn.ReLU(),
            nn.Conv2d(hidden, self.count * self.out_channels, 1, bias=False),
        )

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        stack = torch.stack([match(x) for match, x in zip(self.match, maps, strict=True)], dim=1)
        logits = self.mlp(stack.sum(1).mean((2, 3), keepdim=True))  # (B, n · C, 1, 1)
        weights = logits.unflatten(1, (self.count, self.out_channels)).softmax(1)
        return (weights * stack).sum(1)
