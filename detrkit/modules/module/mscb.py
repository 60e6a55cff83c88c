"""EMCAD: Efficient Multi-scale Convolutional Attention Decoding for Medical Image Segmentation.
Rahman et al., CVPR 2024, arXiv:2405.06880.

u = relu6(BN(W1 x))
v = sum or concatenation of relu6(BN(DW_k×k(u))) over k        MSDC, eq. 5
y = x + BN(W2 shuffle(v))                                       MSCB, eq. 4

In series each k sees u plus what the kernels before it returned.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from detrkit.layers.conv import ConvNormAct
from detrkit.registry import MODULES, Traits


@MODULES.register(
    family="module",
    paper="arXiv:2405.06880",
    venue="CVPR 2024",
    example={"in_channels": 16},
    traits=Traits(),
)
class MSCB(nn.Module):
    """An inverted bottleneck with several depthwise kernels. (B, C, H, W) -> (B, out, H/s, W/s).

    Args:
        in_channels: C.
        out_channels: None: C.
        stride: 1 or 2, odd sides are rounded up; with 2 there is no shortcut.
        kernel_sizes: odd, of the depthwise convolutions.
        expansion: their width, relative to C.
        parallel: all kernels see the same map; otherwise in series, at stride 1.
        add: their outputs are added, otherwise concatenated.
        act: behind all norms but the last.

    Raises:
        ValueError: another stride, or stride 2 in series.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int | None = None,
        stride: int = 1,
        kernel_sizes: Sequence[int] = (1, 3, 5),
        expansion: float = 2.0,
        parallel: bool = True,
        add: bool = True,
        act: str | nn.Module = "relu6",
    ) -> None:
        super().__init__()
        if stride not in (1, 2):
            raise ValueError(f"stride must be 1 or 2, got {stride}")
        if stride == 2 and not parallel:
            raise ValueError("kernels in series keep the size: stride must be 1, got 2")
        c, self.out_channels = in_channels, out_channels or in_channels
        wide = int(c * expansion)
        mixed = wide if add else wide * len(kernel_sizes)
        self.parallel, self.add = parallel, add
        self.enter = ConvNormAct(c, wide, 1, act=act)
        self.kernels = nn.ModuleList(
            ConvNormAct(wide, wide, k, stride, groups=wide, act=act) for k in kernel_sizes
        )
        self.shuffle_groups = math.gcd(mixed, self.out_channels)
        self.leave = ConvNormAct(mixed, self.out_channels, 1)
        self.shortcut: nn.Module | None = None
        if stride == 1:
            same = c == self.out_channels
            self.shortcut = (
                nn.Identity() if same else nn.Conv2d(c, self.out_channels, 1, bias=False)
            )

    def forward(self, x: Tensor) -> Tensor:
        u = self.enter(x)
        seen = []
        for kernel in self.kernels:
            seen.append(kernel(u))
            if not self.parallel:
                u = u + seen[-1]
        v = torch.stack(seen).sum(0) if self.add else torch.cat(seen, dim=1)
        shuffled = v.unflatten(1, (self.shuffle_groups, -1)).transpose(1, 2).flatten(1, 2)
        y = self.leave(shuffled)
        return y if self.shortcut is None else self.shortcut(x) + y
