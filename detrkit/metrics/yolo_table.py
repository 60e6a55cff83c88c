"""The table that YOLO users know: precision, recall, F1 and mAP of every class.

Precision, recall and F1 are those at IoU 0.5 and one confidence threshold for all classes, the one
with the best F1 (see `curves`). `mAP` columns are COCO's AP of the class, those of the other
tables. The row of all classes is the mean over classes with boxes, its F1 the mean of their F1.

Detections in images without boxes are false ones like any other. A class without boxes has no
recall and enters no mean, but its false detections are counted in the totals. -1: undefined.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from rich.cells import cell_len, set_cell_size

from detrkit.metrics.coco import Backend, Metrics, count, shown
from detrkit.metrics.curves import CONFIDENCES, ConfidenceCurves
from detrkit.metrics.matching import Outcome, match
from detrkit.metrics.predictions import Predictions
from detrkit.metrics.truth import Truth


@dataclass(frozen=True, slots=True)
class YoloRow:
    """A class, or all of them.

    Attributes:
        name: of the class; "all".
        images: with at least one box of it; for "all" every image.
        boxes: to find.
        true, false, missed: counts at the threshold; true + missed = boxes.
        precision, recall, f1: 0–1, at the threshold.
        map50, map75, map50_95: 0–1, COCO's AP.
        best_confidence: the threshold that suits this class best; None where no box is found at
            any.
        best_f1: F1 there.
    """

    name: str
    images: int
    boxes: int
    true: int
    false: int
    missed: int
    precision: float
    recall: float
    f1: float
    map50: float
    map75: float
    map50_95: float
    best_confidence: float | None
    best_f1: float


@dataclass(frozen=True, slots=True)
class Background:
    """Images without a box to find, at the threshold.

    Attributes:
        images: how many.
        images_with_detections: those in which something is shown.
        detections: how many are shown in them, all of them false.
    """

    images: int
    images_with_detections: int
    detections: int


@dataclass(frozen=True, slots=True)
class YoloTable:
    """Rows at one threshold.

    Attributes:
        confidence: detections from this score on are counted; None: no boxes, so no best one.
        overall: means over classes with boxes, sums of the counts over all classes.
        classes: in index order.
        background: images without boxes.
    """

    confidence: float | None
    overall: YoloRow
    classes: tuple[YoloRow, ...]
    background: Background

    @property
    def values(self) -> dict[str, float]:
        """The row of all classes under the names that logs have."""
        row = self.overall
        return {
            "precision": row.precision,
            "recall": row.recall,
            "F1": row.f1,
            "mAP50": row.map50,
            "mAP75": row.map75,
            "mAP50-95": row.map50_95,
        }

    def lines(self) -> list[str]:
        """The table as text, for a log."""
        numbers = ("precision", "recall", "f1", "map50", "map75", "map50_95")
        titles = ("images", "boxes", "precision", "recall", "F1", "mAP50", "mAP75", "mAP50-95")
        rows = [
            [row.name, str(row.images), str(row.boxes)]
            + [shown(getattr(row, name)) for name in numbers]
            for row in (self.overall, *self.classes)
        ]
        point = "–" if self.confidence is None else f"{self.confidence:.3f}"
        table = [[f"confidence {point}", *titles], *rows]
        widths = [max(map(cell_len, column)) for column in zip(*table, strict=True)]
        return [
            "  ".join([set_cell_size(first, widths[0]), *map(str.rjust, rest, widths[1:])])
            for first, *rest in table
        ]


def count_with_table(
    truth: Truth, predictions: Predictions, backend: Backend
) -> tuple[Metrics, YoloTable]:
    """COCO's numbers and the table, from one matching pass where `backend` allows."""
    matches = match(truth, predictions)
    metrics = count(truth, predictions, backend, matches)
    curves = ConfidenceCurves.of(truth, matches.at_50)
    return metrics, yolo_table(truth, matches.at_50, curves, metrics)


def yolo_table(
    truth: Truth, outcome: Outcome, curves: ConfidenceCurves, metrics: Metrics
) -> YoloTable:
    """The table of matched detections.

    Args:
        truth: N images, K classes.
        outcome: at IoU 0.5.
        curves: of the same.
        metrics: COCO's numbers of the same.
    """
    best = curves.best()
    place = len(CONFIDENCES) // 2 if best is None else best  # of counts without any box
    rows = tuple(_row(curves, metrics, k, place) for k in range(truth.num_classes))
    return YoloTable(
        confidence=None if best is None else float(CONFIDENCES[best]),
        overall=_overall(rows, metrics, None if best is None else float(CONFIDENCES[best])),
        classes=rows,
        background=_background(truth, outcome, float(CONFIDENCES[place])),
    )


def _row(curves: ConfidenceCurves, metrics: Metrics, k: int, place: int) -> YoloRow:
    true, shown = int(curves.true[k, place]), int(curves.shown[k, place])
    boxes, own = int(curves.boxes[k]), metrics.classes[k]
    best = curves.best_of_class(k)
    return YoloRow(
        name=own.name,
        images=own.images,
        boxes=boxes,
        true=true,
        false=shown - true,
        missed=boxes - true,
        precision=true / shown if shown else (0.0 if boxes else -1.0),
        recall=true / boxes if boxes else -1.0,
        f1=2 * true / (shown + boxes) if boxes else -1.0,
        map50=own.ap50,
        map75=own.ap75,
        map50_95=own.ap,
        best_confidence=None if best is None else float(CONFIDENCES[best]),
        best_f1=(0.0 if boxes else -1.0) if best is None else float(curves.f1[k, best]),
    )


def _overall(rows: Sequence[YoloRow], metrics: Metrics, confidence: float | None) -> YoloRow:
    known = [row for row in rows if row.boxes]
    f1 = _mean([row.f1 for row in known])
    return YoloRow(
        name="all",
        images=metrics.images,
        boxes=sum(row.boxes for row in rows),
        true=sum(row.true for row in rows),
        false=sum(row.false for row in rows),
        missed=sum(row.missed for row in rows),
        precision=_mean([row.precision for row in known]),
        recall=_mean([row.recall for row in known]),
        f1=f1,
        map50=metrics["AP50"],
        map75=metrics["AP75"],
        map50_95=metrics["AP"],
        best_confidence=confidence,
        best_f1=f1,
    )


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values)) if values else -1.0


def _background(truth: Truth, outcome: Outcome, confidence: float) -> Background:
    found = outcome.ranked.predictions
    empty = truth.boxes_per_image == 0
    shown = found.images[outcome.counts & (found.scores >= confidence) & empty[found.images]]
    return Background(int(empty.sum()), len(np.unique(shown)), len(shown))
