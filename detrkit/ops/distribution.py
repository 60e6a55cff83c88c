"""Box edges as distributions over non-uniform bins. D-FINE, arXiv:2410.13842, section 4.1.

An edge is a distance from the reference box, expressed through R + 1 = `reg_max` + 1 values
W(0) … W(R): dense around zero, sparse at both ends. In units of box size / `reg_scale`:

    W(0) = -2b,  W(R) = 2b,  W(R/2) = 0,  b = |up · reg_scale|
    W(R/2 ± n) = ±(s^n - 1),  s = (b + 1)^(2 / (R - 2)),  n = 1 … R/2 - 1          eq. 4

so W reaches ±b one bin before the ends, which catch outliers.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class EdgeTargets(NamedTuple):
    """Where true edges lie between two bins. Each tensor has the shape of the distances.

    Attributes:
        left: int64 index of the bin at or below the distance, 0 … R - 1.
        weight_right: share of bin `left + 1`, 0–1.
        weight_left: share of bin `left`; 1 - `weight_right`.
    """

    left: Tensor
    weight_right: Tensor
    weight_left: Tensor


def weighting_function(reg_max: int, up: Tensor, reg_scale: Tensor | float) -> Tensor:
    """W(0) … W(R), ascending and antisymmetric.

    Args:
        reg_max: R, even and at least 4.
        up: (1,) the edge may move by about `up` box sizes.
        reg_scale: (1,) or number; a larger one makes the bins finer around zero.

    Returns:
        (R + 1,), dtype and device of `up`.
    """
    bound = up.abs() * _magnitude(reg_scale)
    base = (bound + 1) ** (2 / (reg_max - 2))
    powers = torch.arange(1, reg_max // 2, device=up.device, dtype=up.dtype)
    half = base**powers - 1
    return torch.cat((-2 * bound, -half.flip(0), torch.zeros_like(bound), half, 2 * bound))


def distance2bbox(points_cxcywh: Tensor, distance: Tensor, reg_scale: Tensor | float) -> Tensor:
    """Moves the edges of reference boxes by distances.

    Args:
        points_cxcywh: (…, 4) reference boxes.
        distance: (…, 4) shifts of left, top, right, bottom, outwards positive, in units of the
            reference box's size / `reg_scale`.
        reg_scale: see `weighting_function`; its sign does not matter.

    Returns:
        (…, 4) boxes_cxcywh; the size is negative where edges have crossed.
    """
    centre, size = points_cxcywh[..., :2], points_cxcywh[..., 2:]
    unit = size / _magnitude(reg_scale)
    first, second = distance[..., :2], distance[..., 2:]
    return torch.cat(
        (centre + 0.5 * (second - first) * unit, size + (first + second) * unit), dim=-1
    )


def bbox2distance(
    points_cxcywh: Tensor,
    boxes_xyxy: Tensor,
    reg_max: int,
    reg_scale: Tensor | float,
    up: Tensor,
) -> EdgeTargets:
    """The inverse of `distance2bbox`, as bins: what the distributions should say. No gradient.

    Args:
        points_cxcywh: (…, 4) reference boxes.
        boxes_xyxy: (…, 4) true boxes, in the same unit.
        reg_max: R.
        reg_scale: see `weighting_function`.
        up: see `weighting_function`.

    Returns:
        Bins and weights, (…, 4) each: left, top, right, bottom.
    """
    with torch.no_grad():
        scale = _magnitude(reg_scale)
        centre, size = points_cxcywh[..., :2], points_cxcywh[..., 2:]
        unit = size / scale + 1e-16  # reference boxes may have no size
        first = (centre - boxes_xyxy[..., :2]) / unit - 0.5 * scale
        second = (boxes_xyxy[..., 2:] - centre) / unit - 0.5 * scale
        return translate_gt(torch.cat((first, second), dim=-1), reg_max, reg_scale, up)


def translate_gt(
    distance: Tensor, reg_max: int, reg_scale: Tensor | float, up: Tensor
) -> EdgeTargets:
    """Splits each distance between the two bins around it.

    Distances beyond W(0) or W(R) belong wholly to the outermost bin.

    Args:
        distance: any shape, in units of box size / `reg_scale`.
        reg_max: R.
        reg_scale: see `weighting_function`.
        up: see `weighting_function`.

    Returns:
        Bins and weights, shaped like `distance`.
    """
    values = weighting_function(reg_max, up, reg_scale)
    left = torch.searchsorted(values, distance.contiguous(), right=True) - 1
    left = left.clamp(0, reg_max - 1)
    low, high = values[left], values[left + 1]
    weight_right = ((distance - low) / (high - low)).clamp(0, 1)
    return EdgeTargets(left, weight_right, 1 - weight_right)


def _magnitude(reg_scale: Tensor | float) -> Tensor | float:
    return reg_scale.abs() if isinstance(reg_scale, Tensor) else abs(reg_scale)
