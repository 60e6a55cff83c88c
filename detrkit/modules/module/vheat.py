"""vHeat: Building Vision Models upon Heat Conduction. Wang et al., CVPR 2025, arXiv:2405.16555.

[x, z] = W DW3×3(x)
y = W (LN(IDCT2(exp(-k ((nπ/H)² + (mπ/W)²)) · DCT2(x))) · silu(z)),   k = relu(V f)      eq. 10

f is a learned embedding of the frequencies (n, m). The decay is always that of the present
weights; collections freeze the one of the start for evaluation.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from detrkit.layers.depthwise import depthwise
from detrkit.layers.drop_path import DropPath
from detrkit.layers.layer_scale import LayerScale2d
from detrkit.layers.norm import LayerNorm2d
from detrkit.layers.windows import Side, sides_of
from detrkit.ops.precision import precise
from detrkit.registry import MODULES, Traits

_TRAITS = Traits(float32="cosine transforms and decays")


@MODULES.register(
    family="module",
    paper="arXiv:2405.16555",
    venue="CVPR 2025",
    example={"in_channels": 16, "size": 8},
    traits=_TRAITS,
)
class Heat2D(nn.Module):
    """Lets a map's heat spread, how far each frequency learns. (B, C, H, W) -> (B, C, H, W).

    Args:
        in_channels: C.
        size: of the learned table of frequencies, one side or (h, w): that of the map it will
            mostly see. For other maps it is interpolated.
    """

    def __init__(self, in_channels: int, size: Side = 20) -> None:
        super().__init__()
        self.out_channels = c = in_channels
        self.dwconv = depthwise(c, 3)
        self.enter = nn.Conv2d(c, 2 * c, 1)
        self.frequencies = nn.Parameter(torch.empty(*sides_of(size), c))
        nn.init.trunc_normal_(self.frequencies, std=0.02)
        self.conductivity = nn.Linear(c, c)
        self.norm = LayerNorm2d(c, eps=1e-5)
        self.leave = nn.Conv2d(c, c, 1)

    def forward(self, x: Tensor) -> Tensor:
        x, z = self.enter(self.dwconv(x)).chunk(2, dim=1)
        return self.leave(self.norm(self.conduct(x)) * F.silu(z))

    def conduct(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W)."""
        size = (x.shape[2], x.shape[3])
        with torch.autocast(x.device.type, enabled=False):
            heat = precise(x)
            table = self.frequencies.movedim(2, 0)
            if table.shape[1:] != size:
                table = F.interpolate(table[None], size, mode="bilinear", align_corners=False)[0]
            k = self.conductivity(table.movedim(0, 2)).relu().movedim(2, 0).to(heat.dtype)
            rows, columns = (cosines(n, heat) for n in size)
            squares = [
                (torch.arange(n, device=x.device, dtype=heat.dtype) * (math.pi / n)).square()
                for n in size
            ]
            decay = (-k * (squares[0][:, None] + squares[1])).exp()
            spread = rows.T @ (decay * (rows @ heat @ columns.T)) @ columns
        return spread.to(x.dtype)


def cosines(length: int, like: Tensor) -> Tensor:
    """(N, N), orthonormal: the cosine transform DCT-II of a vector, one frequency a row."""
    place = torch.arange(length, device=like.device, dtype=like.dtype)
    waves = (place[:, None] * (place + 0.5) * (math.pi / length)).cos() * math.sqrt(2 / length)
    return torch.cat([waves[:1] / math.sqrt(2), waves[1:]])


@MODULES.register(
    family="module",
    paper="arXiv:2405.16555",
    venue="CVPR 2025",
    example={"in_channels": 16, "size": 8},
    traits=_TRAITS,
)
class HeatBlock(nn.Module):
    """Heat conduction, then feed-forward. (B, C, H, W) -> (B, C, H, W).

    Args:
        in_channels: C.
        size: see `Heat2D`.
        mlp_ratio: width of the feed-forward part, relative to C.
        post_norm: norms behind the branches, not before them.
        layer_scale: first value of learned factors of the branches; None: there are none.
        drop_path: rate at which training leaves a branch out.
    """

    def __init__(
        self,
        in_channels: int,
        size: Side = 20,
        mlp_ratio: float = 4.0,
        post_norm: bool = True,
        layer_scale: float | None = None,
        drop_path: float = 0.0,
    ) -> None:
        super().__init__()
        self.out_channels = c = in_channels
        hidden = int(c * mlp_ratio)
        mlp = nn.Sequential(nn.Conv2d(c, hidden, 1), nn.GELU(), nn.Conv2d(hidden, c, 1))
        self.branches = nn.ModuleList()
        for branch in (Heat2D(c, size), mlp):
            scale = nn.Identity() if layer_scale is None else LayerScale2d(c, layer_scale)
            norm = LayerNorm2d(c, eps=1e-5)
            order = (branch, norm) if post_norm else (norm, branch)
            self.branches.append(nn.Sequential(*order, scale, DropPath(drop_path)))

    def forward(self, x: Tensor) -> Tensor:
        for branch in self.branches:
            x = x + branch(x)
        return x
