"""Poly Kernel Inception Network for Remote Sensing Detection (PKINet). Cai et al., CVPR 2024,
arXiv:2403.06258.

p = W x,   u = DW3×3(p),   u <- W (u + sum over k = 5, 7, 9, 11 of DW_k×k(u))     eq. 1–2
a = sigmoid(W DW11×1(DW1×11(W avgpool7(p))))                                      eq. 3–4, CAA
y = W (u + a · u)

Norms have eps 1e-3, and the gate's layers neither norm nor activation, as in the authors' code.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from detrkit.layers.conv import ConvNormAct
from detrkit.layers.depthwise import depthwise
from detrkit.layers.drop_path import DropPath
from detrkit.layers.layer_scale import LayerScale2d
from detrkit.layers.norm import LayerNorm2d
from detrkit.registry import MODULES, Traits


def _use_their_norms(module: nn.Module) -> None:
    for layer in module.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.eps, layer.momentum = 1e-3, 0.03


@MODULES.register(
    family="module",
    paper="arXiv:2403.06258",
    venue="CVPR 2024",
    example={"in_channels": 16},
    traits=Traits(),
)
class PKIModule(nn.Module):
    """Depthwise kernels of five sizes and a gate of strips. (B, C, H, W) -> (B, out, H, W).

    Args:
        in_channels: C.
        out_channels: None: C.
        kernel_sizes: odd; the first one comes before the others, which are added to it.
        expansion: width inside relative to `out_channels`, rounded up to a multiple of 8.
        add_identity: what is gated is also added ungated, where the widths are the same.
        caa_kernel_size: odd, length of the gate's strips.
        act: behind norms.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int | None = None,
        kernel_sizes: Sequence[int] = (3, 5, 7, 9, 11),
        expansion: float = 1.0,
        add_identity: bool = True,
        caa_kernel_size: int = 11,
        act: str | nn.Module = "silu",
    ) -> None:
        super().__init__()
        self.out_channels = out_channels or in_channels
        hidden = -int(-self.out_channels * expansion // 8) * 8
        self.add_identity = add_identity and in_channels == self.out_channels
        self.enter = ConvNormAct(in_channels, hidden, 1, act=act)
        first, *others = kernel_sizes
        self.first = depthwise(hidden, first)
        self.others = nn.ModuleList(depthwise(hidden, side) for side in others)
        self.mix = ConvNormAct(hidden, hidden, 1, act=act)
        self.gate = nn.Sequential(
            nn.AvgPool2d(7, 1, 3),
            nn.Conv2d(hidden, hidden, 1),
            depthwise(hidden, (1, caa_kernel_size)),
            depthwise(hidden, (caa_kernel_size, 1)),
            nn.Conv2d(hidden, hidden, 1),
            nn.Sigmoid(),
        )
        self.leave = ConvNormAct(hidden, self.out_channels, 1, act=act)
        _use_their_norms(self)

    def forward(self, x: Tensor) -> Tensor:
        p = self.enter(x)
        u = self.first(p)
        u = self.mix(torch.stack([u, *(layer(u) for layer in self.others)]).sum(0))
        gated = self.gate(p) * u
        return self.leave(u + gated if self.add_identity else gated)


@MODULES.register(
    family="module",
    paper="arXiv:2403.06258",
    venue="CVPR 2024",
    example={"in_channels": 16},
    traits=Traits(),
)
class PKIBlock(nn.Module):
    """The module, then feed-forward, both scaled and added. (B, C, H, W) -> (B, C, H, W).

    Args:
        in_channels: C.
        mlp_ratio: width of the feed-forward part, relative to C.
        layer_scale: first value of the factors.
        drop_path: rate at which training leaves a branch out.
    """

    def __init__(
        self,
        in_channels: int,
        mlp_ratio: float = 4.0,
        layer_scale: float = 1.0,
        drop_path: float = 0.0,
    ) -> None:
        super().__init__()
        self.out_channels = c = in_channels
        hidden = int(c * mlp_ratio)
        self.mixer = nn.Sequential(nn.BatchNorm2d(c), PKIModule(c))
        self.mlp = nn.Sequential(
            nn.BatchNorm2d(c),
            LayerNorm2d(c, eps=1e-5),
            nn.Conv2d(c, hidden, 1),
            depthwise(hidden, 3),
            GlobalSiLU(),
            nn.Conv2d(hidden, c, 1),
        )
        self.scale1, self.scale2 = (LayerScale2d(c, layer_scale) for _ in range(2))
        self.drop = DropPath(drop_path)
        _use_their_norms(self)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.drop(self.scale1(self.mixer(x)))
        return x + self.drop(self.scale2(self.mlp(x)))


class GlobalSiLU(nn.Module):
    """x · sigmoid(mean over the map). (B, C, H, W) -> (B, C, H, W)."""

    def forward(self, x: Tensor) -> Tensor:
        return x * x.mean((2, 3), keepdim=True).sigmoid()
