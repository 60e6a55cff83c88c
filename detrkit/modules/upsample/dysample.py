"""Learning to Upsample by Learning to Sample (DySample). Liu et al., ICCV 2023, arXiv:2308.15085.

S = G + O,  O = 0.25 · PW(x)                     static range
            O = 0.5 · σ(PW'(x)) · PW(x)          dynamic range
y = grid_sample(x, S)

G are the places of bilinear upsampling.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from detrkit.ops.deform_conv import sample
from detrkit.ops.precision import precise
from detrkit.registry import MODULES, Traits


@MODULES.register(
    family="upsample",
    paper="arXiv:2308.15085",
    venue="ICCV 2023",
    example={"in_channels": 16, "dyscope": True},
    traits=Traits(scale=2.0, float32="places of samples"),
)
class DySample(nn.Module):
    """Upsampling that samples where the map says. (B, C, H, W) -> (B, C, sH, sW).

    Args:
        in_channels: C.
        scale: s.
        style: "lp": offsets from the map; "pl": from the map after a pixel shuffle, with s⁴ times
            fewer weights; C must be a multiple of s² then.
        groups: g, parts of the channels with places of their own; divides C.
        dyscope: whether a learnt factor limits the offsets.

    Raises:
        ValueError: C does not suit `groups` or `style`, or there is no such style.
    """

    start: Tensor

    def __init__(
        self,
        in_channels: int,
        scale: int = 2,
        style: Literal["lp", "pl"] = "lp",
        groups: int = 4,
        *,
        dyscope: bool = False,
    ) -> None:
        super().__init__()
        if style not in ("lp", "pl"):
            raise ValueError(f"style must be lp or pl, got {style!r}")
        if in_channels % groups:
            raise ValueError(f"in_channels {in_channels} is no multiple of groups {groups}")
        if style == "pl" and in_channels % scale**2:
            raise ValueError(f"style pl needs a multiple of {scale**2} channels, got {in_channels}")
        self.out_channels = in_channels
        self.scale, self.groups, self.shuffled = scale, groups, style == "pl"
        widths = (in_channels, 2 * groups * scale**2)
        if self.shuffled:
            widths = (in_channels // scale**2, 2 * groups)
        self.offset = nn.Conv2d(*widths, 1)
        nn.init.normal_(self.offset.weight, std=0.001)
        nn.init.zeros_(self.offset.bias)  # type: ignore[arg-type]
        self.scope = nn.Conv2d(*widths, 1, bias=False) if dyscope else None
        if self.scope is not None:
            nn.init.zeros_(self.scope.weight)
        step = (torch.arange(scale) - (scale - 1) / 2) / scale
        rows, columns = torch.meshgrid(step, step, indexing="ij")
        start = torch.stack([columns, rows])[:, None].expand(-1, groups, -1, -1)  # x, then y
        self.register_buffer("start", start.reshape(1, -1, 1, 1).clone())

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[-2:]
        offset = self.offsets(x)  # (B, 2·g·s², H, W)
        places = (precise(offset) + self.start).unflatten(1, (2, -1))
        columns = torch.arange(width, device=x.device) + places[:, 0]
        rows = torch.arange(height, device=x.device)[:, None] + places[:, 1]
        places = torch.stack([rows, columns], dim=1).flatten(0, 1)  # (B·2, g·s², H, W)
        places = F.pixel_shuffle(places, self.scale).unflatten(0, (-1, 2))
        rows, columns = places.unbind(1)  # (B, g, sH, sW)
        maps = x.unflatten(1, (self.groups, -1)).flatten(0, 1)
        out = sample(maps, rows.flatten(0, 1), columns.flatten(0, 1), padding_mode="border")
        return out.unflatten(0, (-1, self.groups)).flatten(1, 2)

    def offsets(self, x: Tensor) -> Tensor:
        """In pixels of `x`, x then y: (B, 2·g·s², H, W)."""
        source = F.pixel_shuffle(x, self.scale) if self.shuffled else x
        offset = self.offset(source)
        if self.scope is None:
            offset = offset * 0.25
        else:
            offset = offset * self.scope(source).sigmoid() * 0.5
        return F.pixel_unshuffle(offset, self.scale) if self.shuffled else offset
