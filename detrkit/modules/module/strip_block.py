"""Strip R-CNN: Large Strip Convolution for Remote Sensing Object Detection. Yuan et al., 2025,
arXiv:2501.03775.

strip(u) = u · W DW19×1(DW1×19(DW5×5(u)))        eq. 1–3
n = BN(x);   x <- x + l1 · (n + W strip(gelu(W n)))
n = BN(x);   x <- x + l2 · W gelu(DW3×3(W n))

A copy in circulation leaves the strips out and keeps their weights; here they are used.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from detrkit.layers.depthwise import depthwise
from detrkit.layers.drop_path import DropPath
from detrkit.layers.layer_scale import LayerScale2d
from detrkit.registry import MODULES, Traits


@MODULES.register(
    family="module",
    paper="arXiv:2501.03775",
    example={"in_channels": 16},
    traits=Traits(),
)
class StripBlock(nn.Module):
    """Attention through long thin kernels, then feed-forward. (B, C, H, W) -> (B, C, H, W).

    Args:
        in_channels: C.
        mlp_ratio: width of the feed-forward part, relative to C.
        kernel_size: short and long side of the strips, odd.
        drop_path: rate at which training leaves a branch out.
    """

    def __init__(
        self,
        in_channels: int,
        mlp_ratio: float = 4.0,
        kernel_size: tuple[int, int] = (1, 19),
        drop_path: float = 0.0,
    ) -> None:
        super().__init__()
        self.out_channels = c = in_channels
        hidden = int(c * mlp_ratio)
        self.norm1, self.norm2 = nn.BatchNorm2d(c), nn.BatchNorm2d(c)
        self.attention = StripAttention(c, kernel_size)
        self.mlp = nn.Sequential(
            nn.Conv2d(c, hidden, 1), depthwise(hidden, 3), nn.GELU(), nn.Conv2d(hidden, c, 1)
        )
        self.scale1, self.scale2 = LayerScale2d(c, 1e-2), LayerScale2d(c, 1e-2)
        self.drop = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.drop(self.scale1(self.attention(self.norm1(x))))
        return x + self.drop(self.scale2(self.mlp(self.norm2(x))))


class StripAttention(nn.Module):
    """x + W strip(gelu(W x)). (B, C, H, W) -> (B, C, H, W).

    Args:
        channels: C.
        kernel_size: short and long side of the strips.
    """

    def __init__(self, channels: int, kernel_size: tuple[int, int]) -> None:
        super().__init__()
        short, long = kernel_size
        self.enter = nn.Conv2d(channels, channels, 1)
        self.strips = nn.Sequential(
            depthwise(channels, 5),
            depthwise(channels, (short, long)),
            depthwise(channels, (long, short)),
            nn.Conv2d(channels, channels, 1),
        )
        self.leave = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        u = F.gelu(self.enter(x))
        return x + self.leave(u * self.strips(u))
