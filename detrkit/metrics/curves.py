"""Precision, recall and F1 of every class over the confidence threshold, at IoU 0.5.

Counts are exact: at threshold c the detections with a score of at least c. Nothing is interpolated
between them, so that at every c the true, false and missed add up to detections and boxes.

The operating point is chosen as Ultralytics publishes it for YOLO: the threshold at which the mean
F1 of the classes, smoothed over a tenth of the range of confidences, is greatest. Smoothing keeps a
lucky spike of a small data set from being taken for a good threshold.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from detrkit.metrics.matching import Outcome
from detrkit.metrics.truth import Truth

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

#: Thresholds at which everything is counted: 0, 0.001, …, 1.
CONFIDENCES = np.arange(1001) / 1000

#: Points over which the mean F1 is averaged before its greatest value is sought: 0.1 of the range.
SMOOTHING = 101


@dataclass(frozen=True)
class ConfidenceCurves:
    """Counts of K classes at the 1,001 thresholds of `CONFIDENCES`.

    Attributes:
        true: (K, 1001) boxes found.
        shown: (K, 1001) detections that count, true or false.
        boxes: (K,) boxes to find.
    """

    true: Ints
    shown: Ints
    boxes: Ints

    @classmethod
    def of(cls, truth: Truth, outcome: Outcome) -> ConfidenceCurves:
        """The counts of matched detections."""
        ranked = outcome.ranked
        true = np.zeros((truth.num_classes, len(CONFIDENCES)), np.int64)
        shown = np.zeros_like(true)
        for k in range(truth.num_classes):
            own = slice(ranked.offsets[k], ranked.offsets[k + 1])
            scores = ranked.predictions.scores[own]
            true[k] = _at_least(scores[outcome.is_true[own]])
            shown[k] = _at_least(scores[outcome.counts[own]])
        return cls(true, shown, truth.boxes_per_class)

    @property
    def known(self) -> npt.NDArray[np.bool_]:
        """(K,) classes with boxes: only they enter means."""
        return self.boxes > 0

    @property
    def precision(self) -> Floats:
        """(K, 1001), 0–1; 0 where nothing is shown."""
        return self.true / np.maximum(self.shown, 1)

    @property
    def recall(self) -> Floats:
        """(K, 1001), 0–1; 0 without boxes."""
        return self.true / np.maximum(self.boxes, 1)[:, None]

    @property
    def f1(self) -> Floats:
        """(K, 1001), 0–1: 2 true / (shown + boxes)."""
        return 2 * self.true / np.maximum(self.shown + self.boxes[:, None], 1)

    def best(self) -> int | None:
        """Place of the best common threshold in `CONFIDENCES`; None without any box."""
        if not self.known.any():
            return None
        return _peak(smoothed(self.f1[self.known].mean(0)))

    def best_of_class(self, k: int) -> int | None:
        """Place of the threshold with the greatest F1 of one class; None where none finds any."""
        return _peak(self.f1[k]) if self.true[k, 0] else None


def smoothed(curve: Floats) -> Floats:
    """The moving average over `SMOOTHING` points; the ends are continued."""
    half = SMOOTHING // 2
    padded = np.pad(curve, half, mode="edge")
    return np.convolve(padded, np.full(SMOOTHING, 1 / SMOOTHING), mode="valid")


def _at_least(scores: Floats) -> Ints:
    """(1001,) how many of some scores, best first, reach each threshold."""
    return np.searchsorted(-scores, -CONFIDENCES, side="right")


def _peak(curve: Floats) -> int:
    """The middle of the first stretch that reaches the maximum: room to both sides."""
    high = curve >= curve.max() - 1e-12
    start = int(high.argmax())
    length = int((~high[start:]).argmax()) or len(curve) - start
    return start + (length - 1) // 2
