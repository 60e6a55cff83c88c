"""Pinwheel-shaped Convolution and Scale-based Dynamic Loss for Infrared Small Target Detection.
Yang et al., AAAI 2025, arXiv:2412.16986.

PConv:   y = conv2×2([w(x to the left), w(x to the right), h(up), h(down)])      section 3.1
         w = conv 1×k, h = conv k×1; zeros on one side move what a kernel sees
Bottleneck:   y = conv([c(x ↖), c(x ↗), c(x ↙), c(x ↘)]) + x, one kernel c for all corners

The bottleneck is the authors' variant of YOLOv8's, and shares weights where PConv does by pairs.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from detrkit.layers.conv import ConvNormAct
from detrkit.registry import MODULES, Traits


def _check_quarters(channels: int, what: str) -> None:
    if channels < 4 or channels % 4:
        raise ValueError(f"{what} must be a multiple of 4, got {channels}")


@MODULES.register(
    family="module",
    paper="arXiv:2412.16986",
    venue="AAAI 2025",
    example={"in_channels": 16},
    traits=Traits(),
)
class PinwheelConv(nn.Module):
    """Four strips that leave a pixel in four directions. (B, C, H, W) -> (B, out, H, W).

    With stride s the sides are H // s, W // s.

    Args:
        in_channels: C.
        out_channels: a multiple of 4; None: C.
        kernel_size: k, length of a strip.
        stride: of the strips.

    Raises:
        ValueError: `out_channels` is no multiple of 4.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int | None = None,
        kernel_size: int = 3,
        stride: int = 1,
    ) -> None:
        super().__init__()
        self.out_channels = out_channels or in_channels
        _check_quarters(self.out_channels, "out_channels")
        quarter, k = self.out_channels // 4, kernel_size
        self.horizontal, self.vertical = (
            ConvNormAct(in_channels, quarter, sides, stride, padding=0, act="silu")
            for sides in ((1, k), (k, 1))
        )
        self.fuse = ConvNormAct(self.out_channels, self.out_channels, 2, padding=0, act="silu")
        #: Zeros to the left, right, top and bottom.
        self.pads = ((k, 0, 1, 0), (0, k, 0, 1), (0, 1, k, 0), (1, 0, 0, k))

    def forward(self, x: Tensor) -> Tensor:
        left, right, up, down = (F.pad(x, pad) for pad in self.pads)
        strips = [self.horizontal(left), self.horizontal(right)]
        strips += [self.vertical(up), self.vertical(down)]
        return self.fuse(torch.cat(strips, dim=1))


@MODULES.register(
    family="module",
    paper="arXiv:2412.16986",
    venue="AAAI 2025",
    example={"in_channels": 16},
    traits=Traits(),
)
class APBottleneck(nn.Module):
    """A bottleneck whose first kernel looks into four corners. (B, C, H, W) -> (B, out, H, W).

    Args:
        in_channels: C.
        out_channels: None: C.
        shortcut: adds the input where the widths allow it.
        groups: of the second convolution.
        kernel_size: odd, of both convolutions.
        expansion: width between them, relative to `out_channels`.

    Raises:
        ValueError: the width between is no multiple of 4, or `kernel_size` is even.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int | None = None,
        shortcut: bool = True,
        groups: int = 1,
        kernel_size: int = 3,
        expansion: float = 0.5,
    ) -> None:
        super().__init__()
        self.out_channels = out_channels or in_channels
        hidden = int(self.out_channels * expansion)
        _check_quarters(hidden, f"expansion {expansion} of {self.out_channels} channels")
        if kernel_size % 2 == 0:
            raise ValueError(f"kernel_size must be odd, got {kernel_size}")
        self.corner = ConvNormAct(in_channels, hidden // 4, kernel_size, padding=0, act="silu")
        self.fuse = ConvNormAct(hidden, self.out_channels, kernel_size, groups=groups, act="silu")
        self.shortcut = shortcut and in_channels == self.out_channels
        p = kernel_size - 1
        #: Zeros to the left, right, top and bottom.
        self.pads = ((p, 0, p, 0), (0, p, 0, p), (0, p, p, 0), (p, 0, 0, p))

    def forward(self, x: Tensor) -> Tensor:
        y = self.fuse(torch.cat([self.corner(F.pad(x, pad)) for pad in self.pads], dim=1))
        return x + y if self.shortcut else y
