"""COCO's precision and recall arrays from matches.

Precision only rises where a box is found, so that the curve is known from its true detections
alone: between them it falls. Those are few, and nothing here grows with the false ones but one
sum.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from detrkit.metrics.matching import AREAS, IOU_THRESHOLDS, Matches

Floats = npt.NDArray[np.float64]

#: Where the precision-recall curve is read.
RECALLS = np.linspace(0.0, 1.0, 101)

#: Recall is given with at most so many detections per image and class.
LIMITS = (1, 10, 100)


def accumulate(matches: Matches) -> tuple[Floats, Floats]:
    """Precision and recall, equal to pycocotools' to the last digits.

    Returns:
        precision (10 IoU, 101 recalls, K classes, 4 sizes), and recall (10 IoU, K, 4, 3 limits);
        -1 where there are no boxes.
    """
    truth, ranked = matches.truth, matches.ranked
    shape = (len(IOU_THRESHOLDS), truth.num_classes, len(AREAS))
    precision = np.full((shape[0], len(RECALLS), *shape[1:]), -1.0)
    recall = np.full((*shape, len(LIMITS)), -1.0)
    own_area = ranked.predictions.boxes_xywh[:, 2] * ranked.predictions.boxes_xywh[:, 3]
    places = ranked.ranks[matches.candidates]
    bounds = np.searchsorted(matches.candidates, ranked.offsets)
    for a, (name, (low, high)) in enumerate(AREAS.items()):
        boxes, ignored = matches.boxes[name], matches.ignored[name]
        positives = np.bincount(truth.labels[~ignored], minlength=truth.num_classes)
        # how many count up to each detection: as if none had found anything, then corrected
        fits = (own_area >= low) & (own_area <= high)
        before = np.concatenate([[0], np.cumsum(fits)])
        hit = boxes >= 0
        is_true = hit & ~ignored[np.maximum(boxes, 0)] if len(ignored) else hit
        counted = np.where(hit, is_true, fits[matches.candidates])
        change = counted.astype(np.int64) - fits[matches.candidates]
        for k in np.flatnonzero(positives):
            own = slice(bounds[k], bounds[k + 1])
            shown = before[matches.candidates[own] + 1] - before[ranked.offsets[k]]
            shown = shown + np.cumsum(change[:, own], axis=1)
            for t, true in enumerate(is_true[:, own]):
                recall[t, k, a] = [(true & (places[own] < n)).sum() for n in LIMITS]
                precision[t, :, k, a] = _sampled(shown[t, true], positives[k])
            recall[:, k, a] /= positives[k]
    return precision, recall


def _sampled(shown: npt.NDArray[np.int64], positives: int) -> Floats:
    """(101,) the greatest precision at each recall or beyond; 0 where it is never reached.

    Args:
        shown: detections that count up to and including each true one.
        positives: boxes to find.
    """
    curve = np.zeros(len(RECALLS))
    true = np.arange(1, len(shown) + 1)
    precision = true / (shown + np.spacing(1))
    precision = np.maximum.accumulate(precision[::-1])[::-1]
    places = np.searchsorted(true / positives, RECALLS, side="left")
    reached = places < len(shown)
    curve[reached] = precision[places[reached]]
    return curve
