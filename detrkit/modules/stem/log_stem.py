"""LEGNet: A Lightweight Edge-Gaussian Network for Low-Quality Remote Sensing Image Object
Detection. Lu et al., ICCV Workshops 2025, arXiv:2503.14012.

x ← BN(x + act(BN(LoG x))),  x = conv_7×7(image)                 edges
x ← BN(x + extra(x + act(BN(G_9 x)))) after a halving            Gaussian
y = PW([conv; max](BN(x + act(BN(G_5 x))))),  x widened          another halving

The authors divide the LoG kernel, whose mean is subtracted, by its sum, which is zero up to
rounding: entries of 8e6 in float32. Here it is divided by the sum of its absolute values. Both
filters are learnt from these starts, as in the authors' code; the paper calls them fixed.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from detrkit.layers.activations import get_activation
from detrkit.layers.conv import ConvNormAct
from detrkit.layers.depthwise import depthwise
from detrkit.registry import MODULES, Traits


def gaussian_kernel(size: int, sigma: float) -> Tensor:
    """(size, size), of sum 1; size odd."""
    weight = torch.exp(-_squares(size) / (2 * sigma**2))
    return weight / weight.sum()


def log_kernel(size: int, sigma: float) -> Tensor:
    """Laplacian of a Gaussian, (size, size), of sum 0 and absolute sum 1; size odd."""
    squares = _squares(size)
    weight = (squares - 2 * sigma**2) / (2 * math.pi * sigma**4)
    weight = weight * torch.exp(-squares / (2 * sigma**2))
    weight = weight - weight.mean()
    return weight / weight.abs().sum()


def _squares(size: int) -> Tensor:
    """Squared distances from the middle, (size, size)."""
    line = torch.arange(size, dtype=torch.float32) - size // 2
    return line.square()[:, None] + line.square()


class Filtered(nn.Module):
    """x + act(BN(filter x)), a depthwise filter with a given start. (B, C, H, W) -> the same."""

    def __init__(self, channels: int, kernel: Tensor, act: str) -> None:
        super().__init__()
        self.filter = ConvNormAct(channels, channels, kernel.shape[0], groups=channels, act=act)
        with torch.no_grad():
            self.filter.conv.weight.copy_(kernel.expand(channels, 1, -1, -1))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.filter(x)


class GaussianBlock(nn.Module):
    """A Gaussian, then a bottleneck around a shortcut. (B, C, H, W) -> (B, C, H, W)."""

    def __init__(self, channels: int, act: str, width: int = 64) -> None:
        super().__init__()
        self.smooth = Filtered(channels, gaussian_kernel(9, 0.5), act)
        self.extra = nn.Sequential(
            ConvNormAct(channels, width, 1, bias=True, act=act),
            ConvNormAct(width, width, 3, act=act),
            ConvNormAct(width, channels, 1, bias=True),
        )
        self.norm = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(x + self.extra(self.smooth(x)))


class GaussianDown(nn.Module):
    """Widened, smoothed, strided and pooled. (B, C, H, W) -> (B, 2C, H/2, W/2), rounded up."""

    def __init__(self, channels: int, act: str) -> None:
        super().__init__()
        out = 2 * channels
        self.widen = nn.Conv2d(channels, out, 3, padding=1, groups=channels)
        self.smooth = nn.Sequential(
            Filtered(out, gaussian_kernel(5, 0.5), act), nn.BatchNorm2d(out)
        )
        self.strided = nn.Sequential(
            depthwise(out, 3, stride=2), get_activation(act), nn.BatchNorm2d(out)
        )
        self.norm = nn.BatchNorm2d(out)
        self.fuse = nn.Conv2d(2 * out, out, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.smooth(self.widen(x))
        pooled = self.norm(F.max_pool2d(x, 3, 2, 1))
        return self.fuse(torch.cat([self.strided(x), pooled], dim=1))


@MODULES.register(
    family="stem",
    paper="arXiv:2503.14012",
    venue="ICCV Workshops 2025",
    example={"in_channels": 3, "out_channels": 16},
    traits=Traits(scale=0.25),
)
class LoGStem(nn.Module):
    """Edges and smoothed maps of an image. (B, in, H, W) -> (B, out, H/4, W/4), rounded up.

    Args:
        in_channels: of the image.
        out_channels: width of the result, a multiple of 4.
        act: activation of all parts.

    Raises:
        ValueError: `out_channels` is no multiple of 4.
    """

    def __init__(self, in_channels: int = 3, out_channels: int = 64, *, act: str = "relu") -> None:
        super().__init__()
        if out_channels % 4:
            raise ValueError(f"out_channels must be a multiple of 4, got {out_channels}")
        self.out_channels = out_channels
        quarter, half = out_channels // 4, out_channels // 2
        self.first = nn.Conv2d(in_channels, quarter, 7, padding=3)
        self.edges = nn.Sequential(
            Filtered(quarter, log_kernel(7, 1.0), act), nn.BatchNorm2d(quarter)
        )
        self.down = nn.Sequential(
            nn.Conv2d(quarter, half, 3, padding=1, groups=quarter),
            ConvNormAct(half, half, 3, 2, groups=half, bias=True),
        )
        self.gaussian = GaussianBlock(half, act)
        self.last = GaussianDown(half, act)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.gaussian(self.down(self.edges(self.first(x)))))
