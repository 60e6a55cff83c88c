"""YOLOv9: Learning What You Want to Learn Using Programmable Gradient Information. Wang et al.,
ECCV 2024, arXiv:2402.13616.

[a; b] = avg_2×2(x),  y = [CBS_3×3/2(a); CBS_1×1(max_3×3/2(b))]        ADown of the code
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from detrkit.layers.conv import ConvNormAct
from detrkit.layers.windows import check_smallest
from detrkit.registry import MODULES, Traits


@MODULES.register(
    family="downsample",
    paper="arXiv:2402.13616",
    venue="ECCV 2024",
    example={"in_channels": 16, "out_channels": 24},
    traits=Traits(scale=0.5, smallest=2),
)
class ADown(nn.Module):
    """Half strided, half pooled. (B, in, H, W) -> (B, out, H/2, W/2), rounded down.

    A plain convolution of stride 2 rounds up: in a pyramid, sides should be multiples of the
    largest stride.

    Args:
        in_channels: C, even.
        out_channels: width of the result, even; None keeps C.

    Raises:
        ValueError: a width is odd.
    """

    def __init__(self, in_channels: int, out_channels: int | None = None) -> None:
        super().__init__()
        self.out_channels = out = out_channels or in_channels
        if in_channels % 2 or out % 2:
            raise ValueError(f"widths must be even, got {in_channels} and {out}")
        self.strided = ConvNormAct(in_channels // 2, out // 2, 3, 2, act="silu")
        self.pooled = ConvNormAct(in_channels // 2, out // 2, 1, act="silu")

    def forward(self, x: Tensor) -> Tensor:
        check_smallest(x, 2)
        a, b = F.avg_pool2d(x, 2, 1).chunk(2, dim=1)
        return torch.cat([self.strided(a), self.pooled(F.max_pool2d(b, 3, 2, 1))], dim=1)
