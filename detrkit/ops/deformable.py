"""Multi-scale deformable attention: bilinear (or nearest) samples, weighted and summed.

    out_q = sum_l sum_p A_qlp * V_l(loc_qlp)        Zhu et al., ICLR 2021, arXiv:2010.04159, eq. 2

Every level may have its own number of points (D-FINE, arXiv:2410.13842), and samples may be
taken at the nearest pixel instead of between four (RT-DETRv2, arXiv:2407.17140, "discrete").

Shape legend: B batch, M heads, c channels per head, Q queries, P points of all levels together.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

SamplingMethod = Literal["default", "discrete"]


def deformable_attention(
    values: Sequence[Tensor],
    locations: Tensor,
    weights: Tensor,
    points_per_level: Sequence[int],
    method: SamplingMethod = "default",
) -> Tensor:
    """Samples the feature maps at `locations` and sums them with `weights`.

    Args:
        values: one feature map per level, (B·M, c, h, w), heads folded into the batch.
        locations: (B, M, Q, P, 2), x then y, 0–1 over the whole map, levels one after another.
            Samples outside are zero ("default") or taken from the border ("discrete").
        weights: (B, M, Q, P), non-negative, summing to one over P.
        points_per_level: how many of the P points belong to each level.
        method: "default" interpolates between pixels; "discrete" takes the nearest pixel and
            passes no gradient to the locations.

    Returns:
        (B, Q, M·c).
    """
    batch, heads, queries = locations.shape[:3]
    points = list(points_per_level)
    interpolated = method == "default"
    places = 2 * locations - 1 if interpolated else locations  # `grid_sample` counts from -1
    places = places.flatten(0, 1).split(points, dim=-2)  # (B·M, Q, p, 2) each
    weights = weights.reshape(batch * heads, 1, queries, -1).split(points, dim=-1)
    sample = _bilinear if interpolated else _nearest
    out: Tensor | None = None
    for value, place, weight in zip(values, places, weights, strict=True):
        level = (sample(value, place) * weight).sum(-1)  # (B·M, c, Q)
        out = level if out is None else out + level
    assert out is not None
    return out.reshape(batch, -1, queries).transpose(1, 2)


def split_heads(feature: Tensor, heads: int) -> Tensor:
    """(B, M·c, h, w) -> (B·M, c, h, w): a feature map as a level of `deformable_attention`."""
    batch, channels, h, w = feature.shape
    return feature.reshape(batch * heads, channels // heads, h, w)


def _bilinear(value: Tensor, grid: Tensor) -> Tensor:
    """(N, c, h, w) at (N, Q, p, 2), -1 to 1 -> (N, c, Q, p)."""
    return F.grid_sample(
        value, grid.to(value.dtype), mode="bilinear", padding_mode="zeros", align_corners=False
    )


def _nearest(value: Tensor, location: Tensor) -> Tensor:
    """(N, c, h, w) at (N, Q, p, 2) -> (N, c, Q, p).

    The authors limit both coordinates by the height; we limit x by the width. On square maps
    the results are the same; on others theirs are wrong or fail.
    """
    n, channels, h, w = value.shape
    size = torch.tensor([w, h], device=value.device)
    pixel = (location * size + 0.5).to(torch.int64)
    x = pixel[..., 0].clamp(0, w - 1)
    y = pixel[..., 1].clamp(0, h - 1)
    index = (y * w + x).reshape(n, 1, -1).expand(-1, channels, -1)
    return value.flatten(2).gather(2, index).reshape(n, channels, *location.shape[1:3])
