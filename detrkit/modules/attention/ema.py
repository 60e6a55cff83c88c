"""Efficient Multi-Scale Attention Module with Cross-Spatial Learning. Ouyang et al., ICASSP 2023,
arXiv:2305.13563.

On each of `factor` groups of c channels, with shared layers:
    [a_h, a_w] = conv1x1([mean_w(x), mean_h(x)])
    x1 = groupnorm(x · sigmoid(a_h) · sigmoid(a_w)),   x2 = conv3x3(x)
    w  = softmax(mean(x1)) · x2 + softmax(mean(x2)) · x1      sums over channels
    y  = x · sigmoid(w)

The norm has one channel per group, as in the authors' code: mean(x1) is the norm's bias.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from detrkit.registry import MODULES, Traits


@MODULES.register(
    family="attention",
    paper="arXiv:2305.13563",
    venue="ICASSP 2023",
    example={"in_channels": 16, "factor": 4},
    traits=Traits(),
)
class EMA(nn.Module):
    """One spatial gate per group of channels, from two scales. (B, C, H, W) -> (B, C, H, W).

    Args:
        in_channels: C.
        factor: number of groups; divides C. The authors' default is 32.
    """

    def __init__(self, in_channels: int, factor: int = 8) -> None:
        super().__init__()
        if in_channels % factor:
            raise ValueError(f"factor must divide {in_channels} channels, got {factor}")
        self.out_channels = in_channels
        self.factor = factor
        width = in_channels // factor
        self.coordinates = nn.Conv2d(width, width, 1)
        self.local = nn.Conv2d(width, width, 3, padding=1)
        self.norm = nn.GroupNorm(width, width)

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[-2:]
        groups = x.reshape(-1, x.shape[1] // self.factor, height, width)  # (B·factor, c, H, W)
        means = [groups.mean(3, keepdim=True), groups.mean(2, keepdim=True).transpose(2, 3)]
        rows, columns = self.coordinates(torch.cat(means, dim=2)).split([height, width], dim=2)
        one = self.norm(groups * rows.sigmoid() * columns.transpose(2, 3).sigmoid())
        other = self.local(groups)
        gate = _channel_weights(one) * other + _channel_weights(other) * one
        return (groups * gate.sum(1, keepdim=True).sigmoid()).reshape(x.shape)


def _channel_weights(x: Tensor) -> Tensor:
    """softmax of the means: (N, c, H, W) -> (N, c, 1, 1)."""
    return x.mean((2, 3), keepdim=True).softmax(1)
