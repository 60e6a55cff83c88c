"""The errors worth looking at, worst first: of the detector, and perhaps of the labels.

At one confidence threshold and IoU 0.5, with `confidence` the score of a detection:

    false_positive  overlaps no box by 0.1 or more                                confidence
    miss            a box that no detection shown overlaps by 0.5                 side · (1 - near)
    confusion       found nothing of its class but overlaps a box of another
                    that its own class did not find (the pairs of `confusion`)    confidence · IoU

with `side` the root of the share of the image that the box covers, and `near` the best confidence
of any detection, shown or not, that overlaps it by 0.5 (0 where none reaches `HEARD`): a large box
that nothing suggests is worse than a small one that missed the threshold.

What looks like an error of the detector may be one of the labels. The more so the more the detector
is right elsewhere:

    missing_label   a false positive                                confidence · precision
    wrong_class     a confusion                                     confidence · IoU · precision
                                                                      · (1 - own)
    unsupported     a box that no detection shown overlaps by 0.1   (1 - near) · recall · recall of
                                                                      its size

with `precision` that of the class detected, `recall` that of the class annotated and of boxes of
similar area, `own` the best confidence that a detection of the annotated class reaches at IoU 0.5,
and `near` here from IoU 0.1 on. Precision and recall are those at the threshold, with one success
and one failure more than counted: ten of ten say more than one of one. Every score is 0–1; labels
are to be looked at in this order, none is known to be wrong.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from enum import Enum
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from detrkit.metrics.breakdown import size_of
from detrkit.metrics.confusion import Sides
from detrkit.metrics.matching import IOU_THRESHOLDS, Outcome, Pairs, overlaps
from detrkit.metrics.predictions import Predictions
from detrkit.metrics.schema import CaseJson
from detrkit.metrics.tide import BACKGROUND
from detrkit.metrics.truth import Truth

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


class Kind(Enum):
    """What is wrong; the value names it in `metrics.json`."""

    FALSE_POSITIVE = "false_positive"
    MISS = "miss"
    CONFUSION = "confusion"
    MISSING_LABEL = "missing_label"
    WRONG_CLASS = "wrong_class"
    UNSUPPORTED = "unsupported"


#: Less confident detections, by far the most of a DETR, are not heard as witnesses.
HEARD = 0.05

#: The candidates for errors of the labels.
LABEL_ERRORS = (Kind.MISSING_LABEL, Kind.WRONG_CLASS, Kind.UNSUPPORTED)


@dataclass(frozen=True, slots=True)
class Cases:
    """N cases of a kind, worst first; of equal scores in the order of images.

    Attributes:
        scores: (N,) 0–1, by which they are ranked.
        images: (N,) int64, numbers in the truth.
        detections: (N,) int64, rows of the report's predictions; -1: there is none.
        boxes: (N,) int64, rows of the truth; -1: there is none.
        iou: (N,) of detection and box; 0 without one of them.
    """

    scores: Floats
    images: Ints
    detections: Ints
    boxes: Ints
    iou: Floats

    def __len__(self) -> int:
        return len(self.scores)

    def first(self, limit: int) -> Cases:
        """The worst so many."""
        return Cases(*(getattr(self, f.name)[:limit] for f in fields(Cases)))

    def describe(
        self, truth: Truth, predictions: Predictions, sources: Sources | None = None
    ) -> list[CaseJson]:
        """Each case by names and boxes.

        Args:
            truth, predictions: what `detections` and `boxes` are rows of.
            sources: the data set, for files and ids of annotations.
        """
        names = truth.class_map.names
        described: list[CaseJson] = []
        for i, image in enumerate(self.images.tolist()):
            box, detection = int(self.boxes[i]), int(self.detections[i])
            is_labelled, is_detected = box >= 0, detection >= 0
            file = str(sources.paths[int(truth.positions[image])]) if sources else None
            id_ = int(sources.annotation_ids[truth.rows[box]]) if sources and is_labelled else None
            described.append(
                {
                    "score": float(self.scores[i]),
                    "image_id": truth.image_ids[image],
                    "file": file,
                    "annotation_id": id_,
                    "label": names[truth.labels[box]] if is_labelled else None,
                    "label_box": truth.boxes_xywh[box].tolist() if is_labelled else None,
                    "detected": names[predictions.labels[detection]] if is_detected else None,
                    "detected_box": predictions.boxes_xywh[detection].tolist()
                    if is_detected
                    else None,
                    "confidence": float(predictions.scores[detection]) if is_detected else None,
                    "iou": float(self.iou[i]) if is_labelled and is_detected else None,
                }
            )
        return described


class Sources(Protocol):
    """Where a data set's images and boxes come from; `DatasetIndex` has it.

    Attributes:
        paths: of the image files.
        annotation_ids: of the boxes.
    """

    @property
    def paths(self) -> Any: ...
    @property
    def annotation_ids(self) -> Any: ...


Worst = Mapping[Kind, Cases]


def worst(truth: Truth, outcome: Outcome, confidence: float) -> Worst:
    """Ranks all errors at a threshold.

    Args:
        truth: the boxes.
        outcome: detections matched with them.
        confidence: detections from this score on are shown.
    """
    found, rows = outcome.ranked.predictions, outcome.ranked.rows
    sides = Sides.of(truth, outcome, confidence)
    free = np.flatnonzero(~truth.iscrowd)
    heard = np.flatnonzero(found.scores >= min(HEARD, confidence))
    near = overlaps(
        found.images[heard].astype(np.int64), found.boxes_xywh[heard],
        truth.images[free].astype(np.int64), truth.boxes_xywh[free],
        np.zeros(len(free), bool), BACKGROUND,
    )  # fmt: skip
    near = Pairs(heard[near.detections], free[near.boxes], near.iou)
    close = near.select(near.iou >= IOU_THRESHOLDS[0])
    own = close.select(found.labels[close.detections] == truth.labels[close.boxes])
    loosely, closely, by_own = (_best_score(truth, found.scores, p) for p in (near, close, own))

    alone = np.setdiff1d(sides.false, near.detections)
    missed = sides.left[closely[sides.left] < confidence]
    confused = sides.confused
    unsupported = sides.left[loosely[sides.left] < confidence]
    # boxes that nothing overlaps are missed at confidence 0 as well
    loosely, closely, by_own = (best.clip(0) for best in (loosely, closely, by_own))
    precision, recall, recall_of_size = _successes(truth, outcome, sides)

    def of_detections(scores: Floats, detections: Ints) -> Cases:
        images = found.images[detections].astype(np.int64)
        nothing = np.full(len(detections), -1)
        return _ranked(scores, images, rows[detections], nothing, np.zeros(len(detections)))

    def of_boxes(scores: Floats, boxes: Ints) -> Cases:
        images = truth.images[boxes].astype(np.int64)
        return _ranked(scores, images, np.full(len(boxes), -1), boxes, np.zeros(len(boxes)))

    def of_pairs(scores: Floats, pairs: Pairs) -> Cases:
        images = truth.images[pairs.boxes].astype(np.int64)
        return _ranked(scores, images, rows[pairs.detections], pairs.boxes, pairs.iou)

    sure = found.scores.clip(0, 1)
    trusted = sure * precision[found.labels]
    findable = recall[truth.labels] * recall_of_size
    pair_doubt = confused.iou * (1 - by_own[confused.boxes])
    return {
        Kind.FALSE_POSITIVE: of_detections(sure[alone], alone),
        Kind.MISS: of_boxes(_sides(truth)[missed] * (1 - closely[missed]), missed),
        Kind.CONFUSION: of_pairs(sure[confused.detections] * confused.iou, confused),
        Kind.MISSING_LABEL: of_detections(trusted[alone], alone),
        Kind.WRONG_CLASS: of_pairs(trusted[confused.detections] * pair_doubt, confused),
        Kind.UNSUPPORTED: of_boxes(
            (1 - loosely[unsupported]) * findable[unsupported], unsupported
        ),
    }  # fmt: skip


def _ranked(scores: Floats, images: Ints, detections: Ints, boxes: Ints, iou: Floats) -> Cases:
    order = np.lexsort((detections, boxes, images, -scores))
    return Cases(scores[order], images[order], detections[order], boxes[order], iou[order])


def _best_score(truth: Truth, scores: Floats, pairs: Pairs) -> Floats:
    """(M,) greatest score among the detections paired with each box; -1 without any."""
    best = np.full(len(truth.labels), -1.0)
    np.maximum.at(best, pairs.boxes, scores[pairs.detections].clip(0, 1))
    return best


def _sides(truth: Truth) -> Floats:
    """(M,) root of the share of the image that each box covers."""
    whole = truth.sizes.prod(1)[truth.images].clip(1)
    return np.sqrt((truth.boxes_xywh[:, 2:].prod(1) / whole).clip(0, 1))


def _successes(truth: Truth, outcome: Outcome, sides: Sides) -> tuple[Floats, Floats, Floats]:
    """(K,) precision and (K,) recall of the classes, (M,) recall of boxes of each box's size."""
    k, labels = truth.num_classes, outcome.ranked.predictions.labels
    true = np.bincount(labels[sides.true], minlength=k)
    false = np.bincount(labels[sides.false], minlength=k)
    size = size_of(truth)
    boxes = np.bincount(size[~truth.iscrowd], minlength=size.max(initial=0) + 1)
    found = np.bincount(size[outcome.boxes[sides.true]], minlength=len(boxes))
    of_size = (found + 1) / (boxes + 2)
    precision = (true + 1) / (true + false + 2)
    return precision, (true + 1) / (truth.boxes_per_class + 2), of_size[size]
