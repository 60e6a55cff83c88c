"""MPCA: multi-scale progressive channel attention. SF-UNet, BIBM 2024, arXiv:2406.07952.

    a_i = conv1d(mean x_i)                       over the channels of one map, as ECA
    [a₁, a₂] = σ(conv1d [a₁, a₂])                over those of both
    y = x₁ · a₁ + up(x₂ · a₂)

The kernels grow with the width as in ECA (Wang et al., CVPR 2020, arXiv:1910.03151).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from detrkit.layers.conv import matched
from detrkit.registry import MODULES, Traits


def eca_kernel(channels: int, gamma: float = 2, bias: float = 1) -> int:
    """Odd kernel size near |log₂ C + bias| / gamma."""
    size = int(abs((math.log2(channels) + bias) / gamma))
    return size if size % 2 else size + 1


def _over_channels(channels: int) -> nn.Conv1d:
    size = eca_kernel(channels)
    return nn.Conv1d(1, 1, size, padding=size // 2, bias=False)


class _MultiScalePCA(nn.Module):
    """Both directions; `move` brings the second map to the size and width of the first."""

    def __init__(self, in_channels: Sequence[int], out_channels: int | None) -> None:
        super().__init__()
        self.widths = first, second = in_channels[0], in_channels[1]
        self.out_channels = first if out_channels is None else out_channels
        self.first, self.second = _over_channels(first), _over_channels(second)
        self.both = _over_channels(first + second)
        self.move: nn.Module = nn.Identity()
        self.match = matched(first, self.out_channels)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        x1, x2 = maps
        a1 = self.first(x1.mean((2, 3))[:, None])
        a2 = self.second(x2.mean((2, 3))[:, None])
        gates = self.both(torch.cat([a1, a2], dim=2)).sigmoid().transpose(1, 2)[..., None]
        g1, g2 = gates.split(self.widths, dim=1)  # (B, C_i, 1, 1)
        return self.match(x1 * g1 + self.move(x2 * g2))


@MODULES.register(
    family="featurefusion",
    paper="arXiv:2406.07952",
    venue="BIBM 2024",
    example={"in_channels": [8, 12], "out_channels": 16},
    traits=Traits(sides=(1, 0.5)),
)
class MultiScalePCA(_MultiScalePCA):
    """[(B, C₁, 2h, 2w), (B, C₂, h, w)] -> (B, out_channels, 2h, 2w).

    Args:
        in_channels: C₁ of the fine map, C₂ of the coarse one.
        out_channels: None: C₁.
    """

    def __init__(self, in_channels: Sequence[int], out_channels: int | None = None) -> None:
        super().__init__(in_channels, out_channels)
        first, second = self.widths
        self.move = nn.ConvTranspose2d(second, first, 3, stride=2, padding=1, output_padding=1)


@MODULES.register(
    "MultiScalePCA_Down",
    "MultiScalePCADown",
    family="featurefusion",
    paper="arXiv:2406.07952",
    venue="BIBM 2024",
    example={"in_channels": [8, 12], "out_channels": 16},
    traits=Traits(sides=(1, 2)),
)
class MultiScalePCADown(_MultiScalePCA):
    """[(B, C₁, h, w), (B, C₂, 2h, 2w)] -> (B, out_channels, h, w).

    Args:
        in_channels: C₁ of the coarse map, C₂ of the fine one.
        out_channels: None: C₁.
    """

    def __init__(self, in_channels: Sequence[int], out_channels: int | None = None) -> None:
        super().__init__(in_channels, out_channels)
        first, second = self.widths
        self.move = nn.Conv2d(second, first, 3, stride=2, padding=1)
