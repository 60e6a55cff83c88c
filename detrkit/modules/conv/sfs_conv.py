"""Unleashing Channel Potential: Space-Frequency Selection Convolution for SAR Object Detection.
Li et al., CVPR 2024.

s = SPU(CBS x),  f = FPU(CBS x),  y = CBS(β_s s + β_f f),  β = softmax(GAP([s; f]))

The spatial unit has 3×3 and 5×5 kernels one after the other; the frequency unit has kernels that
are products of learnt ones and of fractional Gabor (FrGT) or Fourier (FrFT) filters.

Dropout stops in evaluation, unlike in the authors' code. Their Gabor angles are degrees read as
radians; here they are degrees. Their Fourier filters are reshaped from (3, 3, in, out) without
being transposed, which mixes them; here every pair of channels has the filter.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from detrkit.layers.conv import ConvNormAct
from detrkit.modules.conv.scconv import merged_halves
from detrkit.registry import MODULES, Traits


class SpatialUnit(nn.Module):
    """Two depthwise kernels on halves of the channels. (B, in, H, W) -> (B, out, H, W)."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        half = in_channels // 2
        self.small = ConvNormAct(half, half, 3, groups=half, act="silu")
        self.large = ConvNormAct(half, half, 5, groups=half, act="silu")
        self.mix = ConvNormAct(in_channels, out_channels, 1, act="silu")
        self.shortcut = in_channels == out_channels

    def forward(self, x: Tensor) -> Tensor:
        first, second = x.chunk(2, dim=1)
        first = self.small(first)
        second = self.large(second + first)
        out = self.mix(torch.cat([first, second], dim=1))
        return x + out if self.shortcut else out


class GaborConv(nn.Module):
    """3×3 with kernels weighed by a sum of 16 Gabor filters, which learn too."""

    def __init__(self, in_channels: int, out_channels: int, order: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(out_channels, in_channels, 3, 3))
        nn.init.kaiming_uniform_(self.weight, a=math.sqrt(5))
        self.filters = nn.ParameterList(
            nn.Parameter(gabor(math.radians(angle), scale, order).repeat(out_channels, 1, 1, 1))
            for angle in (0, 45, 90, 135)
            for scale in (1, 2, 3, 4)
        )

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, sum(self.filters) * self.weight, padding=1)


class FourierFilterConv(nn.Module):
    """3×3 with kernels weighed by a fractional Fourier filter, which is fixed."""

    filter: Tensor

    def __init__(self, in_channels: int, out_channels: int, order: float, frequency: float):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(out_channels, in_channels, 3, 3))
        nn.init.kaiming_uniform_(self.weight, a=math.sqrt(5))
        fixed = fractional_fourier(frequency, order).expand(out_channels, in_channels, 3, 3)
        self.register_buffer("filter", fixed.clone())

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.filter * self.weight, padding=1)


def gabor(angle: float, scale: float, order: float) -> Tensor:
    """(3, 3) on [-1, 1]²: exp(-(x'² + (y'/s)²)^order) · cos(2π x'/s), turned by `angle`."""
    line = torch.linspace(-1, 1, 3)
    y, x = torch.meshgrid(line, line, indexing="ij")
    along = x * math.cos(angle) + y * math.sin(angle)
    across = -x * math.sin(angle) + y * math.cos(angle)
    envelope = torch.exp(-((along.square() + (across / scale).square()) ** order))
    return envelope * torch.cos(2 * math.pi * along / scale)


def fractional_fourier(frequency: float, order: float) -> Tensor:
    """(3, 3): the product over both axes of cos(-f·t / sin p + (f² + t²) / (2 tan p)), t 1 to 3."""
    t = torch.arange(1.0, 4.0)
    turn = -frequency * t / math.sin(order)
    line = torch.cos(turn + (frequency**2 + t.square()) / (2 * math.tan(order)))
    return torch.outer(line, line)


class FrequencyUnit(nn.Module):
    """Filtered maps of four groups of channels, pooled. (B, in, H, W) -> (B, out, H, W)."""

    def __init__(
        self, in_channels: int, out_channels: int, order: float, kind: str, dropout: float
    ) -> None:
        super().__init__()
        widths = (in_channels // 4, out_channels // 4)
        if kind == "FrGT":
            self.convs = nn.ModuleList([GaborConv(*widths, order)])  # one for all groups
            self.mix: nn.Module = nn.Conv2d(out_channels, out_channels, 1)
        else:
            self.convs = nn.ModuleList(
                FourierFilterConv(*widths, order, frequency) for frequency in (0.25, 0.5, 0.75, 1.0)
            )
            self.mix = ConvNormAct(out_channels, out_channels, 1, act="silu")
        self.dropout = nn.Dropout(dropout)
        self.shortcut = in_channels == out_channels

    def forward(self, x: Tensor) -> Tensor:
        groups = x.chunk(4, dim=1)
        convs = list(self.convs) * (4 // len(self.convs))
        filtered = torch.cat([conv(g) for conv, g in zip(convs, groups, strict=True)], dim=1)
        filtered = self.dropout(filtered.relu())
        out = self.mix(F.max_pool2d(F.pad(filtered, (1, 0, 1, 0)), 2, 1))
        return x + out if self.shortcut else out


@MODULES.register(
    family="conv",
    paper="CVPR 2024 (SFS-Conv)",
    venue="CVPR 2024",
    example={"in_channels": 16, "out_channels": 24},
    traits=Traits(),
)
class SFS_Conv(nn.Module):
    """Features of places and of frequencies, selected. (B, in, H, W) -> (B, out, H, W).

    Args:
        in_channels: C, a multiple of 8.
        out_channels: width of the result, a multiple of 4; None keeps C.
        order: of the fractional transform.
        filter: "FrGT" (Gabor) or "FrFT" (Fourier).
        dropout: of the frequency unit, in training.

    Raises:
        ValueError: widths are no such multiples, or there is no such filter.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int | None = None,
        order: float = 0.25,
        filter: Literal["FrGT", "FrFT"] = "FrGT",
        *,
        dropout: float = 0.3,
    ) -> None:
        super().__init__()
        self.out_channels = out = out_channels or in_channels
        if in_channels % 8 or out % 4:
            raise ValueError(
                f"in_channels must be a multiple of 8 and out_channels of 4, got {in_channels} "
                f"and {out}"
            )
        if filter not in ("FrGT", "FrFT"):
            raise ValueError(f"filter must be FrGT or FrFT, got {filter!r}")
        half = in_channels // 2
        self.to_spatial = ConvNormAct(in_channels, half, 1, act="silu")
        self.to_frequency = ConvNormAct(in_channels, half, 1, act="silu")
        self.spatial = SpatialUnit(half, out)
        self.frequency = FrequencyUnit(half, out, order, filter, dropout)
        self.mix = ConvNormAct(out, out, 1, act="silu")

    def forward(self, x: Tensor) -> Tensor:
        spatial = self.spatial(self.to_spatial(x))
        frequency = self.frequency(self.to_frequency(x))
        return self.mix(merged_halves(torch.cat([spatial, frequency], dim=1)))
