"""MSAM: multi-scale attention. Lightweight segmentation by self-attention and state spaces,
IEEE TGRS 2025 (document 10969832).

    l_i = the maps P5 … P2 at one size and width d
    [Q, K, V] = conv [l_i, l_j]                        for all pairs i ≤ j, the same convolution
    A_ij = softmax(Q Kᵀ) V                             channels against channels, row by row
    y = 1×1 [A_ij] + aux [l]

As in the public code, the result (row, channel, column) of the attention is read as (channel, row,
column) without moving a value; the paper scales Q Kᵀ, the code does not.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations_with_replacement

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from detrkit.errors import MapSizeError
from detrkit.layers.conv import ConvNormAct
from detrkit.layers.depthwise import separable
from detrkit.registry import MODULES, Traits


class IdentityBlock(nn.Module):
    """1×1, separable 3×3, 1×1 and a shortcut. (B, C, H, W) -> (B, C, H, W)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            ConvNormAct(channels, channels, 1, act="relu"),
            separable(channels, channels),
            ConvNormAct(channels, channels, 1, act="relu"),
        )

    def forward(self, x: Tensor) -> Tensor:
        return (x + self.layers(x)).relu()


class MSAM(nn.Module):
    """Maps P2 to P5 -> one of their sizes.

    Args:
        in_channels: widths of P2, P3, P4, P5; each side half of the one before.
        out_channels: d, even; None: that of the map whose size the output has.
        level: 2 for the size of P4, 3 for that of P5.

    Raises:
        ValueError: not four maps, or an odd width.
    """

    def __init__(self, in_channels: Sequence[int], out_channels: int | None, level: int) -> None:
        super().__init__()
        if len(in_channels) != 4:
            raise ValueError(f"in_channels must be those of P2, P3, P4 and P5, got {in_channels}")
        d = in_channels[level] if out_channels is None else out_channels
        if d % 2:
            raise ValueError(f"out_channels must be even, got {d}")
        self.out_channels = d
        self.level = level
        self.bring = nn.ModuleList(
            self._halvings(width, d, level - i) if i < level else _project(width, d)
            for i, width in enumerate(in_channels)
        )
        self.auxiliary = nn.Sequential(
            ConvNormAct(4 * d, d, 1, act="silu"), IdentityBlock(d), IdentityBlock(d)
        )
        self.to_qkv = separable(2 * d, 3 * (d // 2))
        self.fuse = nn.Conv2d(5 * d, d, 1)

    @staticmethod
    def _halvings(width: int, d: int, count: int) -> nn.Sequential:
        """As many halvings as lie between two levels."""
        return nn.Sequential(*(separable(d if i else width, d, stride=2) for i in range(count)))

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        target = maps[self.level].shape[2:]
        brought = []
        for x, bring in zip(maps, self.bring, strict=True):
            if x.shape[-1] < target[-1]:
                x = F.interpolate(x, scale_factor=2.0, mode="nearest")
            brought.append(bring(x))
        if any(x.shape[2:] != target for x in brought):
            sizes = ", ".join(f"{x.shape[2]}x{x.shape[3]}" for x in maps)
            raise MapSizeError(f"each map must be half as large as the one before, got {sizes}")
        p2, p3, p4, p5 = brought
        pairs = combinations_with_replacement((p5, p4, p3, p2), 2)
        attended = torch.cat([self.attend(torch.cat(pair, dim=1)) for pair in pairs], dim=1)
        return self.fuse(attended) + self.auxiliary(torch.cat([p5, p2, p3, p4], dim=1))

    def attend(self, pair: Tensor) -> Tensor:
        """(B, 2d, h, w) -> (B, d/2, h, w)."""
        q, k, v = (part.transpose(1, 2) for part in self.to_qkv(pair).chunk(3, dim=1))
        rows = (q @ k.transpose(2, 3)).softmax(-1) @ v  # (B, h, d/2, w)
        batch, height, half, width = rows.shape
        return rows.reshape(batch, half, height, width)


def _project(width: int, d: int) -> nn.Module:
    return ConvNormAct(width, d, 1, act="silu")


_PAPER = "IEEE 10969832"
_EXAMPLE = {"in_channels": [4, 6, 8, 10], "out_channels": 8}


@MODULES.register(
    "MSAM_P4",
    family="featurefusion",
    paper=_PAPER,
    venue="TGRS 2025",
    example=_EXAMPLE,
    traits=Traits(scale=0.25, sides=(1, 0.5, 0.25, 0.125)),
)
class MSAMP4(MSAM):
    """[P2, P3, P4, P5] -> (B, out_channels, h, w), at the size of P4.

    Args:
        in_channels: widths of P2, P3, P4, P5; each side half of the one before.
        out_channels: even; None: that of P4.
    """

    def __init__(self, in_channels: Sequence[int], out_channels: int | None = None) -> None:
        super().__init__(in_channels, out_channels, level=2)


@MODULES.register(
    "MSAM_P5",
    family="featurefusion",
    paper=_PAPER,
    venue="TGRS 2025",
    example=_EXAMPLE,
    traits=Traits(scale=0.125, sides=(1, 0.5, 0.25, 0.125)),
)
class MSAMP5(MSAM):
    """[P2, P3, P4, P5] -> (B, out_channels, h, w), at the size of P5.

    Args:
        in_channels: widths of P2, P3, P4, P5; each side half of the one before.
        out_channels: even; None: that of P5.
    """

    def __init__(self, in_channels: Sequence[int], out_channels: int | None = None) -> None:
        super().__init__(in_channels, out_channels, level=3)
