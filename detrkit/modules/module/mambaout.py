"""MambaOut: Do We Really Need Mamba for Vision? Yu and Wang, CVPR 2025, arXiv:2405.07992.

[g, i, c] = W1 LN(x);   y = x + W2 (gelu(g) · [i, DW7×7(c)])        algorithm 1
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from detrkit.layers.depthwise import depthwise
from detrkit.layers.drop_path import DropPath
from detrkit.layers.norm import LayerNorm2d
from detrkit.registry import MODULES, Traits


@MODULES.register(
    family="module",
    paper="arXiv:2405.07992",
    venue="CVPR 2025",
    example={"in_channels": 16, "conv_ratio": 0.5},
    traits=Traits(),
)
class GatedCNNBlock(nn.Module):
    """Mamba's block without its state space. (B, C, H, W) -> (B, C, H, W).

    Args:
        in_channels: C.
        expansion_ratio: width of gate and value, relative to C.
        kernel_size: odd, of the depthwise convolution.
        conv_ratio: channels of the value that are convolved, relative to C.
        drop_path: rate at which training leaves the branch out.

    Raises:
        ValueError: more channels would be convolved than the value has, or none.
    """

    def __init__(
        self,
        in_channels: int,
        expansion_ratio: float = 8 / 3,
        kernel_size: int = 7,
        conv_ratio: float = 1.0,
        drop_path: float = 0.0,
    ) -> None:
        super().__init__()
        self.out_channels = c = in_channels
        hidden, convolved = int(expansion_ratio * c), int(conv_ratio * c)
        if not 1 <= convolved <= hidden:
            raise ValueError(
                f"conv_ratio {conv_ratio} convolves {convolved} channels of {hidden}: "
                f"it must be at most expansion_ratio {expansion_ratio:g}, and give a channel"
            )
        self.widths = [hidden, hidden - convolved, convolved]
        self.norm = LayerNorm2d(c)
        self.fc1 = nn.Conv2d(c, 2 * hidden, 1)
        self.conv = depthwise(convolved, kernel_size)
        self.fc2 = nn.Conv2d(hidden, c, 1)
        self.drop = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        gate, same, convolved = self.fc1(self.norm(x)).split(self.widths, dim=1)
        value = torch.cat([same, self.conv(convolved)], dim=1)
        return x + self.drop(self.fc2(F.gelu(gate) * value))
