"""Efficient Long-Range Attention Network for Image Super-resolution (ELAN). Zhang et al.,
ECCV 2022, arXiv:2203.06697.

shift(x): a fifth of the channels each moved left, right, up, down by a pixel, and not at all
y = W2 shift(act(W1 shift(x)))        section 3.2, local feature extraction

Without norm and shortcut; ELAN adds the input outside.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from detrkit.layers.activations import get_activation
from detrkit.registry import MODULES, Traits

#: Row and column of the one in the 3×3 kernels of the five groups: the neighbour that is read.
_TAPS = ((1, 2), (1, 0), (2, 1), (0, 1), (1, 1))


@MODULES.register(
    family="module",
    paper="arXiv:2203.06697",
    venue="ECCV 2022",
    example={"in_channels": 16},
    traits=Traits(),
)
class LFE(nn.Module):
    """Two shift convolutions: the neighbours of 3×3 at the price of 1×1. (B, C, …) -> (B, out, …).

    Args:
        in_channels: C, at least 5.
        out_channels: None: C.
        expansion: width between them, relative to `out_channels`; ELAN has 2.
        act: between them; None: none.

    Raises:
        ValueError: fewer than 5 channels.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int | None = None,
        expansion: int = 4,
        act: str | nn.Module | None = "relu",
    ) -> None:
        super().__init__()
        self.out_channels = out_channels or in_channels
        hidden = self.out_channels * expansion
        self.enter = ShiftConv2d(in_channels, hidden)
        self.act = get_activation(act)
        self.leave = ShiftConv2d(hidden, self.out_channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.leave(self.act(self.enter(x)))


class ShiftConv2d(nn.Module):
    """Channels shifted by a pixel, then a 1×1 convolution. (B, in, H, W) -> (B, out, H, W).

    Args:
        in_channels: at least 5; what no fifth takes is not shifted.
        out_channels: width.
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        if in_channels < 5:
            raise ValueError(f"five directions need 5 channels at least, got {in_channels}")
        kernel = torch.zeros(in_channels, 1, 3, 3)
        fifth = in_channels // 5
        for group, (row, column) in enumerate(_TAPS):
            last = group == len(_TAPS) - 1
            kernel[group * fifth : None if last else (group + 1) * fifth, 0, row, column] = 1
        self.shift = nn.Parameter(kernel, requires_grad=False)
        self.mix = nn.Conv2d(in_channels, out_channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.mix(F.conv2d(x, self.shift, padding=1, groups=x.shape[1]))
