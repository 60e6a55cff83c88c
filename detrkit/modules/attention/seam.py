"""YOLO-FaceV2: A Scale and Occlusion Aware Face Detector. Yu et al., Pattern Recognition 2024,
arXiv:2208.02019.

y = x, then `depth` times:
    y = y + bn(gelu(depthwise(y)));  y = bn(gelu(conv(y)))
SEAM:       g = mean(y)
MultiSEAM:  g = (mean(y3) + mean(y5) + mean(y7) + mean(x)) / 4      y_p of p x p patches of x
out = x · exp(sigmoid(W2 relu(W1 g)))

The factor lies between 1 and e.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from detrkit.errors import MapSizeError
from detrkit.layers.activations import get_activation
from detrkit.layers.depthwise import depthwise
from detrkit.registry import MODULES, Traits


@MODULES.register(
    family="attention",
    paper="arXiv:2208.02019",
    venue="Pattern Recognition 2024",
    example={"in_channels": 16, "reduction": 4},
    traits=Traits(),
)
class SEAM(nn.Module):
    """Amplifies channels by what separable convolutions found. (B, C, H, W) -> (B, C, H, W).

    Args:
        in_channels: C.
        depth: number of separable convolutions.
        reduction: the gate's perceptron is C // reduction wide.
    """

    def __init__(self, in_channels: int, depth: int = 1, reduction: int = 16) -> None:
        super().__init__()
        self.out_channels = in_channels
        self.layers = nn.Sequential(*[_Separable(in_channels, 3, "gelu") for _ in range(depth)])
        self.gate = _ExponentialGate(in_channels, reduction)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gate(self.layers(x).mean((2, 3)))


@MODULES.register(
    family="attention",
    paper="arXiv:2208.02019",
    venue="Pattern Recognition 2024",
    example={"in_channels": 16, "reduction": 4},
    traits=Traits(smallest=7),
)
class MultiSEAM(nn.Module):
    """SEAM on patches of several sizes. (B, C, H, W) -> (B, C, H, W).

    Rows and columns behind the last whole patch do not count. About 83 · C² parameters.

    Args:
        in_channels: C.
        depth: number of separable convolutions behind each patch embedding.
        kernel_size: of their depthwise part; odd.
        patch_sizes: sides of the patches in pixels.
        reduction: the gate's perceptron is C // reduction wide.
        act: activation of the convolutions.
    """

    def __init__(
        self,
        in_channels: int,
        depth: int = 1,
        kernel_size: int = 3,
        patch_sizes: Sequence[int] = (3, 5, 7),
        reduction: int = 16,
        act: str = "gelu",
    ) -> None:
        super().__init__()
        self.out_channels = in_channels
        self.smallest = max(patch_sizes)
        self.branches = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(in_channels, in_channels, side, side),
                get_activation(act),
                nn.BatchNorm2d(in_channels),
                *[_Separable(in_channels, kernel_size, act) for _ in range(depth)],
            )
            for side in patch_sizes
        )
        self.gate = _ExponentialGate(in_channels, reduction)

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[-2:]
        if min(height, width) < self.smallest:
            raise MapSizeError(
                f"MultiSEAM needs a map of at least {self.smallest} pixels a side, "
                f"got {height}x{width}"
            )
        means = [x.mean((2, 3)), *(branch(x).mean((2, 3)) for branch in self.branches)]
        return x * self.gate(torch.stack(means).mean(0))


class _Separable(nn.Module):
    """Depthwise convolution with a shortcut, then a pointwise one; norms behind activations."""

    def __init__(self, channels: int, kernel_size: int, act: str) -> None:
        super().__init__()
        self.depthwise = nn.Sequential(
            depthwise(channels, kernel_size), get_activation(act), nn.BatchNorm2d(channels)
        )
        self.pointwise = nn.Sequential(
            nn.Conv2d(channels, channels, 1), get_activation(act), nn.BatchNorm2d(channels)
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.pointwise(x + self.depthwise(x))


class _ExponentialGate(nn.Module):
    """exp(sigmoid(W2 relu(W1 g))): (B, C) -> (B, C, 1, 1)."""

    def __init__(self, channels: int, reduction: int) -> None:
        super().__init__()
        hidden = channels // reduction
        if hidden < 1:
            raise ValueError(f"reduction {reduction} leaves none of {channels} channels")
        self.layers = nn.Sequential(
            nn.Linear(channels, hidden, bias=False),
            nn.ReLU(),
            nn.Linear(hidden, channels, bias=False),
            nn.Sigmoid(),
        )

    def forward(self, g: Tensor) -> Tensor:
        return self.layers(g).exp()[:, :, None, None]
