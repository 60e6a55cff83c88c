"""FocusFeature: three scales focused into the middle one. In-house design of public collections.

    u = [conv up(coarse), conv middle, ADown(fine)]
    y = conv(u + conv(u + Σ_k dw_k(u)))             depthwise kernels of several sizes

Without a paper; the heart of the FDPN neck (`detrkit.models.encoders.fdpn`). ADown is YOLOv9's
(Wang et al., ECCV 2024, arXiv:2402.13616).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from detrkit.layers.conv import ConvNormAct
from detrkit.modules.downsample.adown import ADown
from detrkit.registry import MODULES, Traits


@MODULES.register(
    family="neck",
    paper="in-house; arXiv:2402.13616",
    example={"in_channels": [8, 12, 16], "kernel_sizes": [3, 5]},
    traits=Traits(scale=2, sides=(1, 2, 4)),
)
class FocusFeature(nn.Module):
    """[(B, C₀, h/2, w/2), (B, C₁, h, w), (B, C₂, 2h, 2w)] -> (B, C₁, h, w).

    Args:
        in_channels: widths of the coarse, middle and fine map.
        kernel_sizes: of the depthwise convolutions.
        expansion: width of each branch, relative to C₁.
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        kernel_sizes: Sequence[int] = (5, 7, 9, 11),
        expansion: float = 0.5,
    ) -> None:
        super().__init__()
        coarse, middle, fine = in_channels
        c = int(middle * expansion)
        if c % 2:
            raise ValueError(f"the width of a branch must be even, got {c}")
        self.out_channels = int(c / expansion)
        self.coarse = ConvNormAct(coarse, c, 1, act="silu")
        self.middle = nn.Identity() if expansion == 1 else ConvNormAct(middle, c, 1, act="silu")
        self.fine = ADown(fine, c)
        self.kernels = nn.ModuleList(
            nn.Conv2d(3 * c, 3 * c, side, padding=side // 2, groups=3 * c) for side in kernel_sizes
        )
        self.mix = ConvNormAct(3 * c, 3 * c, 1, act="silu")
        self.fuse = ConvNormAct(3 * c, self.out_channels, 1, act="silu")

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        coarse, middle, fine = maps
        coarse = F.interpolate(self.coarse(coarse), scale_factor=2.0, mode="nearest")
        joined = torch.cat([coarse, self.middle(middle), self.fine(fine)], dim=1)
        focused = joined
        for layer in self.kernels:
            focused = focused + layer(joined)
        return self.fuse(joined + self.mix(focused))
