"""Pairs of rows that are near each other, without comparing all with all.

Rows are sorted so that the possible partners of a row follow it directly. Then row i is compared
with i + 1 for all i at once, with i + 2, and so on, as long as anything is left. Memory stays
linear however many rows are alike.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

Rows = npt.NDArray[np.int64]


def pairs_up_to(ends: Rows) -> Iterator[tuple[Rows, Rows]]:
    """Batches of pairs (i, j) with i < j < ends[i].

    Args:
        ends: for each row the first that is too far away; rows are sorted.
    """
    active = np.arange(len(ends))
    step = 1
    while True:
        active = active[active + step < ends[active]]
        if not len(active):
            return
        yield active, active + step
        step += 1


def iou_of_pairs(
    a: npt.NDArray[np.floating], b: npt.NDArray[np.floating]
) -> npt.NDArray[np.float64]:
    """Intersection over union of boxes_xyxy (P, 4) with (P, 4), row by row; 0 for empty ones."""
    a, b = a.astype(np.float64), b.astype(np.float64)
    overlap = np.minimum(a[:, 2:], b[:, 2:]) - np.maximum(a[:, :2], b[:, :2])
    common = overlap.clip(0).prod(1)
    area_a, area_b = (a[:, 2:] - a[:, :2]).prod(1), (b[:, 2:] - b[:, :2]).prod(1)
    union = area_a + area_b - common
    return np.divide(common, union, out=np.zeros_like(common), where=union > 0)


def best_earlier_partner(
    boxes_xyxy: npt.NDArray[np.floating],
    owners: Rows,
    labels: Rows,
    threshold: float,
    *,
    same_class: bool,
) -> tuple[Rows, npt.NDArray[np.float64]]:
    """For each box the box of the same image, earlier in the file, that it overlaps most.

    Args:
        boxes_xyxy: (M, 4).
        owners: (M,) number of the image.
        labels: (M,) classes.
        threshold: smallest IoU that counts, above 0.
        same_class: look among boxes of the same class, or of the other classes.

    Returns:
        (M,) row of the partner, -1 for none; (M,) IoU with it. Of equal ones the first.
    """
    partner = np.full(len(boxes_xyxy), -1, np.int64)
    best = np.zeros(len(boxes_xyxy))
    order = np.lexsort((boxes_xyxy[:, 0], owners))
    boxes, owner = boxes_xyxy[order].astype(np.float64), owners[order]
    ends = _window_ends(boxes, owner, threshold)
    area = (boxes[:, 2:] - boxes[:, :2]).prod(1)
    for i, j in pairs_up_to(ends):
        # cheap first: IoU cannot exceed the ratio of the areas
        alike = np.minimum(area[i], area[j]) >= threshold * np.maximum(area[i], area[j])
        i, j = i[alike], j[alike]
        iou = iou_of_pairs(boxes[i], boxes[j])
        first, second = order[i], order[j]
        near = (iou >= threshold) & ((labels[first] == labels[second]) == same_class)
        iou = iou[near]
        early = np.minimum(first[near], second[near])
        late = np.maximum(first[near], second[near])
        # `late` holds each row at most once as i and once as j: two passes keep updates apart
        for part in (first[near] == early, first[near] != early):
            rows, candidate, value = late[part], early[part], iou[part]
            better = (value > best[rows]) | ((value == best[rows]) & (candidate < partner[rows]))
            partner[rows[better]], best[rows[better]] = candidate[better], value[better]
    return partner, best


def _window_ends(boxes: npt.NDArray[np.float64], owners: Rows, threshold: float) -> Rows:
    """First row whose left side is too far right for an IoU of `threshold`.

    With x1 <= x1' the intersection is at most (x2 - x1') wide and as high as the first box, so
    IoU >= t needs x1' - x1 <= (1 - t) (x2 - x1).
    """
    if not len(boxes):
        return np.zeros(0, np.int64)
    left = boxes[:, 0] - boxes[:, 0].min()
    stride = left.max() + 1.0  # images one behind the other on one axis
    key = owners * stride + left
    reach = (1 - threshold) * (boxes[:, 2] - boxes[:, 0])
    slack = 1e-9 * (key + 1)  # of the sums above
    ends = np.searchsorted(key, key + reach + slack, side="right")
    last = np.searchsorted(owners, owners, side="right")
    return np.minimum(ends, last)
