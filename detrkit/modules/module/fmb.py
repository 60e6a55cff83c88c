"""SMFANet: A Lightweight Self-Modulation Feature Aggregation Network for Efficient Image
Super-Resolution. Zheng et al., ECCV 2024.

n = x / |x|, over the channels of a pixel
[y, v] = W n,   s = DW3×3(max-pool of v, 1/8),   m = gelu(W (α · s + β · var v))     SMFA, eq. 4–7
x <- x + W (v · up(m) + W gelu(W conv3×3(y)))
x <- x + W [gelu(conv3×3(u_1 … u_h/4)), u_h/4+1 … u_h],   u = gelu(W n)              PCFN, eq. 8
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from detrkit.layers.depthwise import depthwise
from detrkit.ops.pooling import adaptive_max
from detrkit.ops.precision import precise
from detrkit.registry import MODULES, Traits


@MODULES.register(
    family="module",
    paper="ECCV 2024 (SMFANet)",
    venue="ECCV 2024",
    example={"in_channels": 16},
    traits=Traits(smallest=8, float32="norms and variances"),
)
class FMB(nn.Module):
    """Coarse structure and local detail, then feed-forward. (B, C, H, W) -> (B, C, H, W).

    Maps of fewer than 8 pixels a side are refused.

    Args:
        in_channels: C.
        mlp_ratio: width of the feed-forward part, relative to C.
    """

    def __init__(self, in_channels: int, mlp_ratio: float = 2.0) -> None:
        super().__init__()
        self.out_channels = in_channels
        self.mixer = SMFA(in_channels)
        self.mlp = PCFN(in_channels, int(in_channels * mlp_ratio))

    def forward(self, x: Tensor) -> Tensor:
        if min(x.shape[2:]) < 8:
            raise ValueError(f"FMB needs sides of at least 8, got {x.shape[2]}x{x.shape[3]}")
        x = x + self.mixer(_unit(x))
        return x + self.mlp(_unit(x))


def _unit(x: Tensor) -> Tensor:
    return F.normalize(precise(x), dim=1).to(x.dtype)


class SMFA(nn.Module):
    """Self-modulation feature aggregation. (B, C, H, W) -> (B, C, H, W).

    Args:
        channels: C.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        c = channels
        self.enter = nn.Conv2d(c, 2 * c, 1)
        self.structure = depthwise(c, 3)
        self.alpha = nn.Parameter(torch.ones(1, c, 1, 1))
        self.beta = nn.Parameter(torch.zeros(1, c, 1, 1))
        self.modulate = nn.Conv2d(c, c, 1)
        self.detail = nn.Sequential(
            nn.Conv2d(c, 2 * c, 3, padding=1, groups=c),
            nn.Conv2d(2 * c, 2 * c, 1),
            nn.GELU(),
            nn.Conv2d(2 * c, c, 1),
        )
        self.leave = nn.Conv2d(c, c, 1)

    def forward(self, x: Tensor) -> Tensor:
        y, v = self.enter(x).chunk(2, dim=1)
        height, width = x.shape[2], x.shape[3]
        coarse = self.structure(adaptive_max(v, (height // 8, width // 8)))
        variance = precise(v).var((2, 3), keepdim=True).to(v.dtype)
        m = F.gelu(self.modulate(coarse * self.alpha + variance * self.beta))
        return self.leave(v * F.interpolate(m, size=(height, width)) + self.detail(y))


class PCFN(nn.Module):
    """A feed-forward net, a quarter of whose channels are convolved. (B, C, H, W) -> (B, C, H, W).

    Args:
        channels: C.
        hidden_channels: h, at least 4.
    """

    def __init__(self, channels: int, hidden_channels: int) -> None:
        super().__init__()
        quarter = int(hidden_channels * 0.25)
        if quarter < 1:
            raise ValueError(f"mlp_ratio must give at least 4 channels, got {hidden_channels}")
        self.widths = [quarter, hidden_channels - quarter]
        self.fc1 = nn.Conv2d(channels, hidden_channels, 1)
        self.conv = nn.Conv2d(quarter, quarter, 3, padding=1)
        self.fc2 = nn.Conv2d(hidden_channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        convolved, rest = F.gelu(self.fc1(x)).split(self.widths, dim=1)
        return self.fc2(torch.cat([F.gelu(self.conv(convolved)), rest], dim=1))
