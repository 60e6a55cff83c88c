"""Which class is taken for which, at IoU 0.5 and one confidence threshold.

First every detection keeps the box of its own class that it found, so that the diagonal holds the
true detections of the other tables. What is left on both sides, detections and boxes of different
classes, is paired by the greatest overlap of at least 0.5. Detections without a box lie on
background, boxes without a detection are missed; those in crowd regions of their class are left
out. So every row sums up to the boxes of its class and every column to the detections of it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from detrkit.metrics.matching import IOU_THRESHOLDS, Outcome, Pairs, overlaps
from detrkit.metrics.truth import Truth

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Confusion:
    """Counts of K classes.

    Attributes:
        counts: (K + 1, K + 1) rows are what is there, columns what is said. The last row is
            background (false detections), the last column nothing (missed boxes).
        confidence: detections from this score on are counted.
        names: the K classes.
    """

    counts: Ints
    confidence: float
    names: tuple[str, ...]

    def greatest(self, limit: int = 10) -> list[tuple[str, str, int]]:
        """(class, taken for, how often), most frequent first; without background."""
        inner = self.counts[:-1, :-1] * ~np.eye(len(self.names), dtype=bool)
        order = np.argsort(-inner, axis=None, kind="stable")[:limit]
        rows, columns = np.unravel_index(order, inner.shape)
        return [
            (self.names[i], self.names[j], int(inner[i, j]))
            for i, j in zip(rows, columns, strict=True)
            if inner[i, j]
        ]


def confusion(truth: Truth, outcome: Outcome, confidence: float) -> Confusion:
    """Counts matched detections from a score on."""
    found, k = outcome.ranked.predictions, truth.num_classes
    shown = outcome.counts & (found.scores >= confidence)
    true = shown & outcome.is_true
    counts = np.zeros((k + 1, k + 1), np.int64)
    np.add.at(counts, (found.labels[true], found.labels[true]), 1)

    false = np.flatnonzero(shown & ~true)
    free = ~truth.iscrowd
    free[outcome.boxes[true]] = False
    left = np.flatnonzero(free)
    pairs = overlaps(
        found.images[false].astype(np.int64),
        found.boxes_xywh[false],
        truth.images[left].astype(np.int64),
        truth.boxes_xywh[left],
        np.zeros(len(left), bool),
        IOU_THRESHOLDS[0],
    )
    pairs = closest_first(pairs)
    said, there = found.labels[false], truth.labels[left]
    np.add.at(counts, (there[pairs.boxes], said[pairs.detections]), 1)
    alone = np.ones(len(false), bool)
    alone[pairs.detections] = False
    counts[k, :k] = np.bincount(said[alone], minlength=k)
    missed = np.ones(len(left), bool)
    missed[pairs.boxes] = False
    counts[:k, k] = np.bincount(there[missed], minlength=k)
    return Confusion(counts, confidence, truth.class_map.names)


def closest_first(pairs: Pairs) -> Pairs:
    """Each detection and box at most once, the greatest overlap first; then in their order."""
    order = np.lexsort((pairs.boxes, pairs.detections, -pairs.iou))
    left = pairs.select(order)
    chosen = []
    while len(left.iou):
        # pairs that nobody before them contends for
        pick = _is_first(left.detections) & _is_first(left.boxes)
        chosen.append(left.select(pick))
        gone = np.isin(left.detections, left.detections[pick])
        left = left.select(~gone & ~np.isin(left.boxes, left.boxes[pick]))
    if not chosen:
        return pairs
    return Pairs(
        np.concatenate([part.detections for part in chosen]),
        np.concatenate([part.boxes for part in chosen]),
        np.concatenate([part.iou for part in chosen]),
    )


def _is_first(values: Ints) -> npt.NDArray[np.bool_]:
    """Which are the first of their value."""
    first = np.zeros(len(values), bool)
    first[np.unique(values, return_index=True)[1]] = True
    return first
