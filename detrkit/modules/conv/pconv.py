"""Run, Don't Walk: Chasing Higher FLOPS for Faster Neural Networks (FasterNet). Chen et al.,
CVPR 2023, arXiv:2303.03667.

y = [conv3×3(x_1 … x_C/n); x_C/n+1 … x_C]
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from detrkit.registry import MODULES, Traits


@MODULES.register(
    "Partial_conv3",
    family="conv",
    paper="arXiv:2303.03667",
    venue="CVPR 2023",
    example={"in_channels": 16},
    traits=Traits(),
)
class PartialConv3(nn.Module):
    """A 3×3 convolution of the first channels; the others pass. (B, C, H, W) -> (B, C, H, W).

    Without norm and activation: the paper has two 1×1 layers behind it.

    Args:
        in_channels: C.
        n_div: one of n_div parts is convolved.

    Raises:
        ValueError: `n_div` is larger than C.
    """

    def __init__(self, in_channels: int, n_div: int = 4) -> None:
        super().__init__()
        if not 1 <= n_div <= in_channels:
            raise ValueError(f"n_div must be 1 to {in_channels} channels, got {n_div}")
        self.out_channels = in_channels
        partial = in_channels // n_div
        self.widths = [partial, in_channels - partial]
        self.conv = nn.Conv2d(partial, partial, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        convolved, rest = x.split(self.widths, dim=1)
        return torch.cat([self.conv(convolved), rest], dim=1)
