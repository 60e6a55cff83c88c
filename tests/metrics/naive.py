"""Matching at IoU 0.5 in loops, as one would explain it: the judge of the tables."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from detrkit.metrics.predictions import Predictions
from detrkit.metrics.truth import Truth


@dataclass
class Counted:
    """Detections from a score on: which found a box, which did not."""

    found_by: dict[int, int] = field(default_factory=dict)  # box -> detection
    true: list[int] = field(default_factory=list)
    false: list[int] = field(default_factory=list)
    in_crowds: list[int] = field(default_factory=list)


def count(truth: Truth, found: Predictions, confidence: float) -> Counted:
    """Detections in the order of their scores take the best free box of their image and class."""
    result = Counted()
    for d in np.argsort(-found.scores, kind="stable").tolist():
        if found.scores[d] < confidence:
            continue
        best, best_iou, crowd = -1, 0.5, False
        for b in range(len(truth.labels)):
            if truth.images[b] != found.images[d] or truth.labels[b] != found.labels[d]:
                continue
            overlap = iou(found.boxes_xywh[d], truth.boxes_xywh[b], bool(truth.iscrowd[b]))
            if truth.iscrowd[b]:
                crowd |= overlap >= 0.5
            elif b not in result.found_by and overlap >= best_iou:
                best, best_iou = b, overlap
        if best >= 0:
            result.found_by[best] = d
            result.true.append(d)
        elif crowd:
            result.in_crowds.append(d)
        else:
            result.false.append(d)
    return result


def iou(a: np.ndarray, b: np.ndarray, crowd: bool) -> float:
    """Overlap of two boxes, xywh."""
    w = min(a[0] + a[2], b[0] + b[2]) - max(a[0], b[0])
    h = min(a[1] + a[3], b[1] + b[3]) - max(a[1], b[1])
    if w <= 0 or h <= 0:
        return 0.0
    return w * h / (a[2] * a[3] if crowd else a[2] * a[3] + b[2] * b[3] - w * h)
