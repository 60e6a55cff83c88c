"""CSFCN: context and spatial feature calibration. Li et al., IEEE TIP 2023 (document 10268334).

    CFC   A = softmax(q kᵀ),  ctx = A v      k, v from a pyramid of pooled maps
          ctx <- ctx (1 + tanh(3×3 1×1 ctx));  y = x + ctx
    SFC   offsets and gates from both maps;  y = Σ gate · sampled

The deep map comes first in SFC. In the authors' repository CFC narrows 512 channels to 256 and SFC
squeezes both maps to 32 before the offsets; the form here is the one that circulates.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from detrkit.layers.conv import ConvNormAct
from detrkit.registry import MODULES, Traits


@MODULES.register(
    "CFC_CRB",
    "ContextCalibration",
    family="featurefusion",
    paper="IEEE 10268334",
    venue="TIP 2023",
    example={"in_channels": 16, "key_channels": 8},
    traits=Traits(onnx="adaptive pooling to sizes that do not divide the map"),
)
class ContextCalibration(nn.Module):
    """Every pixel gathers context from a pooled pyramid. (B, C, H, W) -> (B, out_channels, H, W).

    Args:
        in_channels: C, at least 8.
        grids: rows of each pooled map; columns follow the map's proportions.
        out_channels: None keeps the width.
        key_channels: width of queries and keys.
        bottleneck: the local recalibration is out_channels // bottleneck wide inside.
        act: activation of its convolutions.
    """

    def __init__(
        self,
        in_channels: int,
        grids: Sequence[int] = (6, 3, 2, 1),
        *,
        out_channels: int | None = None,
        key_channels: int = 32,
        bottleneck: int = 8,
        act: str = "silu",
    ) -> None:
        super().__init__()
        self.out_channels = c = in_channels if out_channels is None else out_channels
        self.grids = tuple(grids)
        self.enter = ConvNormAct(in_channels, c, 3, act=act)
        self.query = nn.Conv2d(c, key_channels, 1)
        self.key = nn.Conv1d(c, key_channels, 1)
        self.value = nn.Conv1d(c, c, 1)
        self.recalibrate = nn.Sequential(
            ConvNormAct(c, c // bottleneck, 1, act=act),
            nn.Conv2d(c // bottleneck, c, 3, padding=1, bias=False),
            nn.Tanh(),
        )
        nn.init.zeros_(self.recalibrate[1].weight)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        x = self.enter(x)
        height, width = x.shape[2:]
        pooled = torch.cat(
            [
                F.adaptive_avg_pool2d(x, (rows, max(1, round(rows * width / height)))).flatten(2)
                for rows in self.grids
            ],
            dim=2,
        )  # (B, C, S)
        query = self.query(x).flatten(2).transpose(1, 2)
        weights = (query @ self.key(pooled)).softmax(-1)  # (B, H·W, S)
        context = (self.value(pooled) @ weights.transpose(1, 2)).unflatten(2, (height, width))
        return x + context + context * self.recalibrate(context)


@MODULES.register(
    "SFC_G2",
    "SpatialCalibration",
    family="featurefusion",
    paper="IEEE 10268334",
    venue="TIP 2023",
    example={"in_channels": [12, 8], "out_channels": 16},
    traits=Traits(scale=2, sides=(1, 2), float32="sampling positions"),
)
class SpatialCalibration(nn.Module):
    """Two maps, sampled where they fit. [(B, C₀, h, w), (B, C₁, H, W)] -> (B, out_channels, H, W).

    Args:
        in_channels: C₀ of the deep map, C₁ of the shallow one, whose size the output has.
        out_channels: even; None: C₁.
        hidden_channels: width before the offsets.
        squeezed_channels: width of each map there; None: `out_channels`.
        act: activation of the convolutions.
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        out_channels: int | None = None,
        hidden_channels: int = 64,
        *,
        squeezed_channels: int | None = None,
        act: str = "silu",
    ) -> None:
        super().__init__()
        deep, shallow = in_channels
        self.out_channels = c = shallow if out_channels is None else out_channels
        if c % 2:
            raise ValueError(f"out_channels must be even, got {c}")
        self.deep = ConvNormAct(deep, c, 3, act=act)
        self.shallow = ConvNormAct(shallow, c, 3, act=act)
        seen = c
        self.squeeze = nn.ModuleList([nn.Identity(), nn.Identity()])
        if squeezed_channels is not None:
            seen = squeezed_channels
            self.squeeze = nn.ModuleList(nn.Conv2d(c, seen, 1, bias=False) for _ in range(2))
        self.offsets = nn.Sequential(
            ConvNormAct(2 * seen, hidden_channels, 1, act=act),
            nn.Conv2d(hidden_channels, 10, 3, padding=1, bias=False),
        )
        nn.init.zeros_(self.offsets[1].weight)  # type: ignore[arg-type]

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        shallow = self.shallow(maps[1])
        deep = F.interpolate(
            self.deep(maps[0]), size=shallow.shape[2:], mode="bilinear", align_corners=True
        )
        seen = [self.squeeze[0](shallow), self.squeeze[1](deep)]
        found = self.offsets(torch.cat(seen, dim=1))
        gates = 1 + found[:, 8:].tanh()
        shallow = moved(shallow, found[:, :4])
        deep = moved(deep, found[:, 4:8])
        return deep * gates[:, :1] + shallow * gates[:, 1:]


def moved(x: Tensor, offsets: Tensor) -> Tensor:
    """A map sampled beside its pixels, two groups of channels with offsets of their own.

    Args:
        x: (B, C, H, W).
        offsets: (B, 4, H, W) in pixels: x and y of the first group, x and y of the second.
    """
    height, width = x.shape[2:]
    with torch.autocast(x.device.type, enabled=False):
        offsets = offsets.float().unflatten(1, (2, 2)).flatten(0, 1).permute(0, 2, 3, 1)
        across = torch.linspace(-1, 1, width, device=x.device)
        down = torch.linspace(-1, 1, height, device=x.device)
        grid = torch.stack(torch.broadcast_tensors(across[None], down[:, None]), dim=-1)
        size = torch.tensor([width, height], device=x.device)
        groups = x.float().unflatten(1, (2, -1)).flatten(0, 1)
        sampled = F.grid_sample(groups, grid + offsets / size, align_corners=True)
    return sampled.unflatten(0, (-1, 2)).flatten(1, 2).to(x.dtype)


@MODULES.register(
    family="featurefusion",
    paper="IEEE 10268334",
    venue="TIP 2023",
    example={"in_channels": [16, 12], "out_channels": 16},
    traits=Traits(
        scale=(1, 2),
        sides=(1, 2),
        onnx="adaptive pooling to sizes that do not divide the map",
        float32="sampling positions",
    ),
)
class CSFCN(nn.Module):
    """Both calibrations. [(B, C₀, h, w), (B, C₁, H, W)] -> [(B, C₀, h, w), (B, out, H, W)].

    Args:
        in_channels: C₀ of the deep map, C₁ of the shallow one.
        out_channels: of the second output; None: C₁.
    """

    def __init__(self, in_channels: Sequence[int], out_channels: int | None = None) -> None:
        super().__init__()
        self.context = ContextCalibration(in_channels[0])
        self.spatial = SpatialCalibration(in_channels, out_channels)
        self.out_channels = [in_channels[0], self.spatial.out_channels]

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        deep = self.context(maps[0])
        return [deep, self.spatial([deep, maps[1]])]
