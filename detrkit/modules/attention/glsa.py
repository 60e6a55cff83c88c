"""DuAT: Dual-Aggregation Transformer Network for Medical Image Segmentation. Tang et al.,
PRCV 2023, arXiv:2212.11677.

l, g = conv(x_1), conv(x_2)                                 halves of the channels
local  = l + l · sigmoid(u),  u of three separable layers
global = g + g · sigmoid(conv(relu(ln(conv(c)))))
         c = sum of g weighed by softmax over places of conv(g)
y = relu(bn(conv([local, global])))
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from detrkit.layers.conv import ConvNormAct
from detrkit.registry import MODULES, Traits


@MODULES.register(
    family="attention",
    paper="arXiv:2212.11677",
    venue="PRCV 2023",
    example={"in_channels": 16, "out_channels": 8},
    traits=Traits(),
)
class GLSA(nn.Module):
    """Local attention on one half, global context on the other. (B, C, H, W) -> (B, out, H, W).

    Args:
        in_channels: C, even.
        out_channels: width of both halves and of the output; None: C.
        act: activation of the fused output.
    """

    def __init__(
        self, in_channels: int, out_channels: int | None = None, act: str = "relu"
    ) -> None:
        super().__init__()
        if in_channels % 2:
            raise ValueError(f"GLSA needs an even number of channels, got {in_channels}")
        self.out_channels = width = out_channels or in_channels
        self.to_local = nn.Conv2d(in_channels // 2, width, 1)
        self.to_global = nn.Conv2d(in_channels // 2, width, 1)
        self.local = _LocalAttention(width)
        self.context = _GlobalContext(width)
        self.fuse = ConvNormAct(2 * width, width, 1, act=act)

    def forward(self, x: Tensor) -> Tensor:
        first, second = x.chunk(2, dim=1)
        both = [self.local(self.to_local(first)), self.context(self.to_global(second))]
        return self.fuse(torch.cat(both, dim=1))


class _LocalAttention(nn.Module):
    """x + x · sigmoid(u) of three pointwise and depthwise convolutions."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.pointwise = nn.ModuleList(
            ConvNormAct(channels, channels, 1, act=act) for act in ("relu", "relu", "silu")
        )
        self.depthwise = nn.ModuleList(
            ConvNormAct(channels, channels, 3, groups=channels, act="relu") for _ in range(3)
        )
        self.project = nn.Sequential(nn.Conv2d(channels, channels, 1, bias=False), nn.ReLU())

    def forward(self, x: Tensor) -> Tensor:
        u = x
        for pointwise, depthwise in zip(self.pointwise, self.depthwise, strict=True):
            u = pointwise(u)
            u = u + depthwise(u)
        return x + x * self.project(u).sigmoid()


class _GlobalContext(nn.Module):
    """x + x · sigmoid(perceptron(c)), c the mean of x weighed by softmax over places.

    GCNet, Cao et al., arXiv:1904.11492, as a gate.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.score = nn.Conv2d(channels, 1, 1, bias=False)  # softmax would not see a bias
        self.perceptron = nn.Sequential(
            nn.Conv2d(channels, 2 * channels, 1),
            nn.LayerNorm([2 * channels, 1, 1]),
            nn.ReLU(),
            nn.Conv2d(2 * channels, channels, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        weights = self.score(x).flatten(2).softmax(-1)  # (B, 1, H·W)
        context = x.flatten(2) @ weights.transpose(1, 2)  # (B, C, 1)
        return x + x * self.perceptron(context[..., None]).sigmoid()
