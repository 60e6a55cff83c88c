"""ConDSeg: A General Medical Image Segmentation Framework via Contrast-Driven Feature Enhancement.
Lei et al., AAAI 2025, arXiv:2412.08345.

v = W x;   A_s = softmax(W_s s / sqrt(d))  (K² x K² per place and head), s = fg, bg
y = P fold(A_fg unfold(v));   y = P fold(A_bg unfold(y))
with two convolutions in front and behind

Overlapping places add up in `fold`. The weights come from the place in the middle alone (outlook
attention, arXiv:2106.13112).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from detrkit.layers.channel_attention import check_heads
from detrkit.layers.conv import ConvNormAct
from detrkit.registry import MODULES, Traits


@MODULES.register(
    family="attention",
    paper="arXiv:2412.08345",
    venue="AAAI 2025",
    example={"in_channels": [16, 8, 8], "out_channels": 8, "num_heads": 2},
    traits=Traits(),
)
class ContrastDrivenFeatureAggregation(nn.Module):
    """Foreground and background maps mix neighbourhoods. [3 x (B, C_i, H, W)] -> (B, out, H, W).

    The maps are the feature, its foreground and its background, all of one size.

    Args:
        in_channels: widths of the three maps; the last two are `out_channels`.
        out_channels: None: the width of the second map.
        num_heads: divides `out_channels`.
        kernel_size: K, side of the neighbourhoods; odd.
        act: activation of the convolutions.
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        out_channels: int | None = None,
        num_heads: int = 4,
        kernel_size: int = 3,
        act: str = "relu",
    ) -> None:
        super().__init__()
        if len(in_channels) != 3:
            raise ValueError(
                f"needs the widths of feature, foreground and background, got {list(in_channels)}"
            )
        self.out_channels = width = out_channels or in_channels[1]
        if list(in_channels[1:]) != [width, width]:
            raise ValueError(
                f"foreground and background need {width} channels, got {list(in_channels[1:])}"
            )
        check_heads(width, num_heads)
        self.before = nn.Sequential(
            ConvNormAct(in_channels[0], width, 3, act=act), ConvNormAct(width, width, 3, act=act)
        )
        self.value = nn.Linear(width, width)
        self.foreground = _Outlook(width, num_heads, kernel_size)
        self.background = _Outlook(width, num_heads, kernel_size)
        self.project = nn.Linear(width, width)
        self.after = nn.Sequential(
            ConvNormAct(width, width, 3, act=act), ConvNormAct(width, width, 3, act=act)
        )

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        x, foreground, background = maps
        return self.aggregate(self.before(x), foreground, background)

    def aggregate(self, x: Tensor, foreground: Tensor, background: Tensor) -> Tensor:
        """Behind the first two convolutions; three (B, out, H, W) -> (B, out, H, W)."""
        x = _per_pixel(self.value, x)
        x = _per_pixel(self.project, self.foreground(x, foreground))
        x = _per_pixel(self.project, self.background(x, background))
        return self.after(x)


@MODULES.register(
    family="attention",
    paper="arXiv:2412.08345",
    venue="AAAI 2025",
    example={"in_channels": 16, "num_heads": 2},
    traits=Traits(),
)
class CDFA(ContrastDrivenFeatureAggregation):
    """The same with one map, split by Haar wavelets of stride 1. (B, C, H, W) -> (B, C, H, W).

    Background is the mean of 2x2 pixels, foreground the sum of their three differences; the
    split as in WFEN, arXiv:2407.19768.

    Args:
        in_channels: C.
        num_heads: divides C.
        kernel_size: K, side of the neighbourhoods; odd.
    """

    def __init__(self, in_channels: int, num_heads: int = 8, kernel_size: int = 3) -> None:
        super().__init__([in_channels] * 3, in_channels, num_heads, kernel_size, act="silu")

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        x = self.before(x)
        mean = F.avg_pool2d(F.pad(x, [0, 1, 0, 1]), 2, stride=1)
        # (a - b + c - d) + (a + b - c - d) + (a - b - c + d) = 4a - (a + b + c + d)
        return self.aggregate(x, x - mean, mean)


class _Outlook(nn.Module):
    """Mixes the K² pixels around every place by weights from another map, and adds up."""

    def __init__(self, channels: int, num_heads: int, kernel_size: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.kernel_size = kernel_size
        self.scale = (channels // num_heads) ** -0.5
        self.weights = nn.Linear(channels, num_heads * kernel_size**4)

    def forward(self, x: Tensor, source: Tensor) -> Tensor:
        height, width = x.shape[-2:]
        side, points = self.kernel_size, self.kernel_size**2
        scores = self.weights(source.flatten(2).transpose(1, 2))
        scores = scores.unflatten(2, (self.num_heads, points, points))  # (B, N, M, K², K²)
        weights = (self.scale * scores).softmax(-1)
        around = F.unfold(x, side, padding=side // 2)  # (B, C·K², N)
        around = around.unflatten(1, (self.num_heads, -1, points)).permute(0, 4, 1, 3, 2)
        mixed = (weights @ around).permute(0, 2, 4, 3, 1)  # (B, M, c, K², N)
        mixed = mixed.flatten(1, 3).unflatten(2, (height, width))
        # what F.fold does; ONNX has this form
        fold = torch.eye(points, dtype=x.dtype, device=x.device).reshape(points, 1, side, side)
        kernel = fold.repeat(x.shape[1], 1, 1, 1).to(mixed.dtype)
        return F.conv_transpose2d(mixed, kernel, padding=side // 2, groups=x.shape[1])


def _per_pixel(layer: nn.Linear, x: Tensor) -> Tensor:
    return layer(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
