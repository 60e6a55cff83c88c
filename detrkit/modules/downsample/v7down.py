"""YOLOv7: Trainable bag-of-freebies sets new state-of-the-art for real-time object detectors.
Wang et al., CVPR 2023, arXiv:2207.02696.

y = [CBS_3×3/2(CBS_1×1(x)); CBS_1×1(max_2×2(x))]        MP-1 of the configuration
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from detrkit.layers.conv import ConvNormAct
from detrkit.layers.windows import check_multiple
from detrkit.registry import MODULES, Traits


@MODULES.register(
    family="downsample",
    paper="arXiv:2207.02696",
    venue="CVPR 2023",
    example={"in_channels": 16, "out_channels": 24},
    traits=Traits(scale=0.5, multiple=2),
)
class V7DownSampling(nn.Module):
    """Strided and pooled, side by side. (B, in, H, W) -> (B, out, H/2, W/2).

    Args:
        in_channels: C.
        out_channels: width of the result, even; None keeps C.
        pool_first: whether the pooled half comes first, as in circulating copies; the authors
            put the strided one first.

    Raises:
        ValueError: `out_channels` is odd.
    """

    def __init__(
        self, in_channels: int, out_channels: int | None = None, *, pool_first: bool = False
    ) -> None:
        super().__init__()
        self.out_channels = out = out_channels or in_channels
        if out % 2:
            raise ValueError(f"out_channels must be even, got {out}")
        self.pool_first = pool_first
        self.pooled = ConvNormAct(in_channels, out // 2, 1, act="silu")
        self.strided = nn.Sequential(
            ConvNormAct(in_channels, out // 2, 1, act="silu"),
            ConvNormAct(out // 2, out // 2, 3, 2, act="silu"),
        )

    def forward(self, x: Tensor) -> Tensor:
        check_multiple(x, 2)
        halves = [self.strided(x), self.pooled(F.max_pool2d(x, 2))]
        return torch.cat(halves[::-1] if self.pool_first else halves, dim=1)
