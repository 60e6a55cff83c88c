"""SCConv: Spatial and Channel Reconstruction Convolution for Feature Redundancy. Li et al.,
CVPR 2023, pp. 6153–6162.

r      = σ(GN(x) · γ / Σγ)
x_1    = x where r > threshold, else r · x;  x_2 = 0 there, else r · x
s      = [x_11 + x_22; x_12 + x_21]                                   spatial
y      = β_1 Y_1 + β_2 Y_2,  β = softmax(GAP([Y_1; Y_2]))             channel

There is no code of the authors. As the circulating one: weights above the threshold become 1 and
the others stay (the paper: 1 and 0, without a gradient), and the softmax runs over both halves
together, so that outputs are about 1 / C of the input.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from detrkit.registry import MODULES, Traits


class SpatialReconstruction(nn.Module):
    """Separates maps by what their norm says of them, and crosses halves over.

    (B, C, H, W) -> (B, C, H, W).
    """

    def __init__(self, channels: int, groups: int, threshold: float) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(groups, channels)
        self.threshold = threshold

    def forward(self, x: Tensor) -> Tensor:
        gamma = self.norm.weight / self.norm.weight.sum()
        weight = (self.norm(x) * gamma[:, None, None]).sigmoid()
        telling = weight > self.threshold
        return crossed(x * weight.masked_fill(telling, 1), x * weight.masked_fill(telling, 0))


def crossed(first: Tensor, second: Tensor) -> Tensor:
    """The first half of channels of one and the second half of the other, added; and vice versa."""
    a, b = first.chunk(2, dim=1)
    c, d = second.chunk(2, dim=1)
    return torch.cat([a + d, b + c], dim=1)


class ChannelReconstruction(nn.Module):
    """Rich and cheap features of two parts of the channels, weighed. (B, C, H, W) -> the same."""

    def __init__(
        self, channels: int, alpha: float, squeeze: int, groups: int, kernel_size: int
    ) -> None:
        super().__init__()
        upper = int(alpha * channels)
        lower = channels - upper
        self.widths = [upper, lower]
        rich, cheap = upper // squeeze, lower // squeeze
        self.squeeze_up = nn.Conv2d(upper, rich, 1, bias=False)
        self.squeeze_low = nn.Conv2d(lower, cheap, 1, bias=False)
        self.group_wise = nn.Conv2d(
            rich, channels, kernel_size, padding=kernel_size // 2, groups=groups
        )
        self.point_wise = nn.Conv2d(rich, channels, 1, bias=False)
        self.cheap = nn.Conv2d(cheap, channels - cheap, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        up, low = x.split(self.widths, dim=1)
        up, low = self.squeeze_up(up), self.squeeze_low(low)
        rich = self.group_wise(up) + self.point_wise(up)
        both = torch.cat([rich, self.cheap(low), low], dim=1)  # (B, 2C, H, W)
        return merged_halves(both)


def merged_halves(x: Tensor) -> Tensor:
    """Both halves of channels, weighed by a softmax of all means: (B, 2C, H, W) -> (B, C, H, W)."""
    first, second = (x * x.mean((2, 3), keepdim=True).softmax(1)).chunk(2, dim=1)
    return first + second


@MODULES.register(
    family="conv",
    paper="CVPR 2023, pp. 6153-6162",
    venue="CVPR 2023",
    example={"in_channels": 16},
    traits=Traits(),
)
class ScConv(nn.Module):
    """Less redundancy in places, then in channels. (B, C, H, W) -> (B, C, H, W).

    Args:
        in_channels: C.
        group_num: groups of the norm; divides C.
        gate_threshold: weights above it keep the value as it is.
        alpha: share of the channels from which the rich features come.
        squeeze_ratio: each part is this many times narrower.
        group_size: groups of the convolution of the rich features.
        group_kernel_size: its side, odd.

    Raises:
        ValueError: C is no multiple of `group_num`, or does not suit the groups.
    """

    def __init__(
        self,
        in_channels: int,
        group_num: int = 4,
        *,
        gate_threshold: float = 0.5,
        alpha: float = 0.5,
        squeeze_ratio: int = 2,
        group_size: int = 2,
        group_kernel_size: int = 3,
    ) -> None:
        super().__init__()
        rich = int(alpha * in_channels) // squeeze_ratio
        if in_channels % group_num or in_channels % 2:
            raise ValueError(
                f"in_channels must be even and a multiple of {group_num}, got {in_channels}"
            )
        if not rich or rich % group_size or in_channels % group_size:
            raise ValueError(
                f"{in_channels} channels give {rich} rich ones, which is no multiple of group_size "
                f"{group_size}"
            )
        self.out_channels = in_channels
        self.spatial = SpatialReconstruction(in_channels, group_num, gate_threshold)
        self.channel = ChannelReconstruction(
            in_channels, alpha, squeeze_ratio, group_size, group_kernel_size
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.channel(self.spatial(x))
