"""Where boxes are missed: by their size, and by how crowded their image is. IoU 0.5."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from detrkit.metrics.matching import Outcome
from detrkit.metrics.truth import Truth

#: Sizes by annotated area: COCO's three, small and large divided once more. (name, from side on).
SIZES = (("tiny", 0), ("small", 16), ("medium", 32), ("large", 96), ("huge", 288))

#: Least number of boxes in the image.
DENSITIES = (0, 1, 2, 6, 11, 21, 51, 101)


@dataclass(frozen=True, slots=True)
class SizeRow:
    """Boxes of similar size.

    Attributes:
        name: tiny, small, medium, large, huge.
        low, high: area in square pixels, `high` excluded; None: no limit.
        boxes: to find.
        found: at the threshold.
        found_at_any: by a detection of any score.
        recall, recall_at_any: shares; -1 without boxes.
    """

    name: str
    low: float
    high: float | None
    boxes: int
    found: int
    found_at_any: int
    recall: float
    recall_at_any: float


@dataclass(frozen=True, slots=True)
class DensityRow:
    """Images with a similar number of boxes.

    Attributes:
        low, high: boxes in the image, both included; `high` None: no limit.
        images: how many.
        boxes: in them.
        found: boxes found, at the threshold.
        false: false detections, at the threshold.
        recall: share found; -1 without boxes.
        precision: share of the detections that is true; -1 without any.
    """

    low: int
    high: int | None
    images: int
    boxes: int
    found: int
    false: int
    recall: float
    precision: float


@dataclass(frozen=True, slots=True)
class Breakdown:
    """Recall by size and by density, at one confidence threshold."""

    confidence: float
    sizes: tuple[SizeRow, ...]
    densities: tuple[DensityRow, ...]


def breakdown(truth: Truth, outcome: Outcome, confidence: float) -> Breakdown:
    """Divides matched detections and boxes."""
    found = outcome.ranked.predictions
    shown = found.scores >= confidence
    at_any = np.zeros(len(truth.labels), bool)
    at_any[outcome.boxes[outcome.is_true]] = True
    is_found = np.zeros_like(at_any)
    is_found[outcome.boxes[outcome.is_true & shown]] = True
    false = shown & outcome.counts & ~outcome.is_true
    return Breakdown(
        confidence,
        tuple(_sizes(truth, is_found, at_any)),
        tuple(_densities(truth, is_found, found.images[false])),
    )


def _sizes(
    truth: Truth, found: npt.NDArray[np.bool_], at_any: npt.NDArray[np.bool_]
) -> list[SizeRow]:
    edges = [float(side**2) for _, side in SIZES]
    place = np.searchsorted(edges, truth.area.clip(0), side="right") - 1
    rows = []
    for i, (name, _) in enumerate(SIZES):
        own = (place == i) & ~truth.iscrowd
        boxes, count, count_at_any = (int((own & m).sum()) for m in (own, found, at_any))
        high = edges[i + 1] if i + 1 < len(edges) else None
        shares = _share(count, boxes), _share(count_at_any, boxes)
        rows.append(SizeRow(name, edges[i], high, boxes, count, count_at_any, *shares))
    return rows


def _densities(
    truth: Truth, found: npt.NDArray[np.bool_], false_images: npt.NDArray[np.int32]
) -> list[DensityRow]:
    place = np.searchsorted(DENSITIES, truth.boxes_per_image, side="right") - 1
    false = _per_group(place, false_images)
    images, boxes = (
        np.bincount(place, minlength=len(DENSITIES)),
        _per_group(place, truth.images[~truth.iscrowd]),
    )
    true = _per_group(place, truth.images[found])
    highs: Sequence[int | None] = [*(low - 1 for low in DENSITIES[1:]), None]
    return [
        DensityRow(
            low, high, int(images[i]), int(boxes[i]), int(true[i]), int(false[i]),
            _share(int(true[i]), int(boxes[i])), _share(int(true[i]), int(true[i] + false[i])),
        )
        for i, (low, high) in enumerate(zip(DENSITIES, highs, strict=True))
    ]  # fmt: skip


def _per_group(
    place: npt.NDArray[np.integer], images: npt.NDArray[np.int32]
) -> npt.NDArray[np.int64]:
    """(groups,) how many entries of `images` are in each group of images."""
    return np.bincount(place[images], minlength=len(DENSITIES))


def _share(part: int, whole: int) -> float:
    return part / whole if whole else -1.0
