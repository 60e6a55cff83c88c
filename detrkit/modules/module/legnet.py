"""LEGNet: Lightweight Edge-Gaussian Driven Network for Low-Quality Remote Sensing Image Object
Detection. Lu et al., 2025, arXiv:2503.14012.

prior:   a = E(x + relu(BN(G x))),   G a Gaussian, or the magnitude of Scharr's edges
t = relu(BN(conv3×3(c · a + c))),   z = BN(c + t · ECA(t)),   c = x
y = x + BN(W relu(BN(W z)))

Both filters are fixed, as the authors mean them; their code trains them by accident.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from detrkit.layers.activations import get_activation
from detrkit.layers.conv import ConvNormAct
from detrkit.layers.drop_path import DropPath
from detrkit.modules.stem.log_stem import gaussian_kernel
from detrkit.registry import MODULES, Traits

#: Scharr's filter of horizontal edges.
_SCHARR = ((-3.0, 0.0, 3.0), (-10.0, 0.0, 10.0), (-3.0, 0.0, 3.0))


@MODULES.register(
    "LEGBlock",
    "LFE_Module",
    family="module",
    paper="arXiv:2503.14012",
    example={"in_channels": 16},
    traits=Traits(),
)
class LEGBlock(nn.Module):
    """Features weighed by smoothed ones, or by edges. (B, C, H, W) -> (B, C, H, W).

    Args:
        in_channels: C.
        prior: "gaussian", or "edge" as in the first stage of the network.
        mlp_ratio: width of the feed-forward part, relative to C.
        act: behind norms.
        drop_path: rate at which training leaves the branch out.

    Raises:
        ValueError: another prior.
    """

    def __init__(
        self,
        in_channels: int,
        prior: Literal["gaussian", "edge"] = "gaussian",
        mlp_ratio: float = 2.0,
        act: str = "relu",
        drop_path: float = 0.0,
    ) -> None:
        super().__init__()
        if prior not in ("gaussian", "edge"):
            raise ValueError(f"prior must be gaussian or edge, got {prior!r}")
        self.out_channels = c = in_channels
        hidden = int(c * mlp_ratio)
        self.prior = Prior(c, prior == "edge", act)
        self.convolve = ConvNormAct(c, c, 3, act=act)
        side = int(abs((math.log2(c) + 1) / 2)) | 1  # the next odd number
        self.channel = nn.Conv1d(1, 1, side, padding=side // 2, bias=False)
        self.norm1, self.norm2 = nn.BatchNorm2d(c), nn.BatchNorm2d(c)
        self.mlp = nn.Sequential(
            ConvNormAct(c, hidden, 1, act=act), nn.Conv2d(hidden, c, 1, bias=False)
        )
        self.drop = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        t = self.convolve(x * self.prior(x) + x)
        means = t.mean((2, 3))[:, None]  # (B, 1, C)
        weights = self.channel(means).sigmoid().transpose(1, 2)[..., None]
        z = self.norm1(x + t * weights)
        return x + self.norm2(self.drop(self.mlp(z)))


class Prior(nn.Module):
    """E(x + act(BN(filtered x))), E a bottleneck. (B, C, H, W) -> (B, C, H, W).

    Args:
        channels: C.
        edges: magnitude of Scharr's edges; otherwise a 5×5 Gaussian with σ = 1.
        act: behind norms.
    """

    def __init__(self, channels: int, edges: bool, act: str) -> None:
        super().__init__()
        scharr = torch.tensor(_SCHARR)
        filters = [scharr, scharr.T] if edges else [gaussian_kernel(5, 1.0)]
        self.filters = nn.ParameterList(
            nn.Parameter(one.repeat(channels, 1, 1, 1), requires_grad=False) for one in filters
        )
        self.norm_act = nn.Sequential(nn.BatchNorm2d(channels), get_activation(act))
        self.extra = nn.Sequential(
            ConvNormAct(channels, 64, 1, bias=True, act=act),
            ConvNormAct(64, 64, 3, act=act),
            ConvNormAct(64, channels, 1, bias=True),
        )

    def forward(self, x: Tensor) -> Tensor:
        seen = [
            F.conv2d(x, one, padding=one.shape[-1] // 2, groups=x.shape[1]) for one in self.filters
        ]
        if len(seen) == 2:  # a root has no slope at 0
            seen = [(seen[0].square() + seen[1].square() + 1e-12).sqrt()]
        return self.extra(x + self.norm_act(seen[0]))
