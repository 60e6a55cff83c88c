"""Why AP is lost: the error types of TIDE (Bolya et al., ECCV 2020, arXiv:2008.08115).

With AP at IoU 0.5 over the 100 best detections of each image, every detection that is not true is

    Cls   right place (IoU >= 0.5 with a box of another class), wrong class
    Loc   right class, wrong place (0.1 <= IoU <= 0.5 with a box of its class)
    Both  neither of the others: wrong class and wrong place
    Dupe  on a box that a better detection found already
    Bkg   on background (IoU <= 0.1 with every box)

and a box that no detection found, nor one of Cls or Loc could, is

    Miss

What a type costs is the rise of AP if an oracle repaired only it: Cls and Loc become true unless
their box is taken, the better one if there are two; Both, Dupe and Bkg vanish; missed boxes are not
asked for. FalsePos and FalseNeg repair all false detections, or all boxes not found. They overlap
with the types above, and the types with one another, so nothing need sum up.

Definitions and arithmetic are those of tidecv 1.0, ties included, which is the judge in the tests;
its loops over detections are columns here. AP is in points of 100, as there.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from detrkit.metrics.matching import Pairs, order_of, overlaps, take, turns_of
from detrkit.metrics.predictions import Predictions
from detrkit.metrics.truth import Truth

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]

#: IoU from which a detection is in the right place, and up to which it lies on background.
FOREGROUND, BACKGROUND = 0.5, 0.1

#: So many detections of an image count, of all classes together.
MAX_PER_IMAGE = 100

#: The main types in tidecv's order.
TYPES = ("Cls", "Loc", "Both", "Dupe", "Bkg", "Miss")

_RECALLS = np.arange(101) / 100


@dataclass(frozen=True, slots=True)
class Tide:
    """AP at IoU 0.5 in points of 100, and what each type of error costs of it.

    Attributes:
        ap: TIDE's AP50, close to COCO's: its 100 detections are those of an image.
        cost: {type: points}, at least 0.
        counts: {type: detections, or boxes for "Miss"}.
        false_positives, false_negatives: points that all of them cost.
    """

    ap: float
    cost: dict[str, float]
    counts: dict[str, int]
    false_positives: float
    false_negatives: float


def tide(truth: Truth, predictions: Predictions) -> Tide:
    """Decomposes the errors of detections of any order."""
    found = _best_per_image(truth, predictions)
    boxes = np.flatnonzero(~truth.iscrowd)
    labels, k = truth.labels[boxes], truth.num_classes
    pairs = overlaps(
        found.images.astype(np.int64), found.boxes_xywh,
        truth.images[boxes].astype(np.int64), truth.boxes_xywh[boxes],
        np.zeros(len(boxes), bool), BACKGROUND,
    )  # fmt: skip
    # the first of equal overlaps is preferred: it stands last
    pairs = pairs.select(np.lexsort((-pairs.boxes, pairs.iou, pairs.detections)))
    same = found.labels[pairs.detections] == labels[pairs.boxes]
    finder = _finders(found, pairs.select(same), len(boxes), k)
    true = np.zeros(len(found), bool)
    true[finder[finder >= 0]] = True
    used = finder >= 0

    types, target = _types(len(found), pairs, same, used)
    types[true] = -1
    repairable = np.flatnonzero((types == 0) | (types == 1))
    repairable = repairable[~used[target[repairable]]]
    repairable = repairable[np.unique(target[repairable], return_index=True)[1]]
    usable = np.zeros(len(boxes), bool)
    usable[target[repairable]] = True
    missed = ~used & ~usable

    ignored = ~true & _in_crowd(truth, found)
    curves = _Curves(found, true, ignored, np.bincount(labels, minlength=k))
    ap = curves.ap()
    repaired = np.zeros(len(found), bool)
    repaired[repairable] = True
    cost: dict[str, float] = {}
    for number, name in enumerate(TYPES[:-1]):
        own = types == number
        become = np.where(own & repaired, found.labels, -1)
        if name == "Cls":
            become[repairable] = np.where(own[repairable], labels[target[repairable]], -1)
        cost[name] = curves.ap_with(gone=own, becomes_true=become)
    cost["Miss"] = curves.ap_with(fewer=np.bincount(labels[missed], minlength=k))
    counts = {name: int((types == number).sum()) for number, name in enumerate(TYPES[:-1])}
    return Tide(
        ap=ap,
        cost={name: max(value - ap, 0.0) for name, value in cost.items()},
        counts={**counts, "Miss": int(missed.sum())},
        false_positives=curves.ap_with(true_first=True) - ap,
        false_negatives=curves.ap_with(fewer=np.bincount(labels[~used], minlength=k)) - ap,
    )


def _best_per_image(truth: Truth, predictions: Predictions) -> Predictions:
    """In the order of the data set's images, then of the scores; the first hundred of each."""
    rows = order_of(truth.positions[predictions.images])  # equal scores stay in their order
    rows = rows[np.argsort(-predictions.scores[rows], kind="stable")]
    rows = rows[order_of(truth.positions[predictions.images[rows]])]
    places = turns_of(predictions.images[rows].astype(np.int64))
    return predictions.select(rows[places < MAX_PER_IMAGE])


def _finders(found: Predictions, pairs: Pairs, boxes: int, num_classes: int) -> Ints:
    """(boxes,) the detection that found each, or -1."""
    pairs = pairs.select(pairs.iou >= FOREGROUND)
    candidates, numbers = np.unique(pairs.detections, return_inverse=True)
    keys = found.images[candidates].astype(np.int64) * num_classes + found.labels[candidates]
    nothing = np.zeros(boxes, bool)
    taken = take(
        Pairs(numbers, pairs.boxes, pairs.iou),
        turns_of(keys), np.array([FOREGROUND]), nothing, nothing,
    )[0]  # fmt: skip
    finder = np.full(boxes, -1, np.int64)
    finder[taken[taken >= 0]] = candidates[taken >= 0]
    return finder


def _types(detections: int, pairs: Pairs, same: Mask, used: Mask) -> tuple[Ints, Ints]:
    """(N,) place in `TYPES` of each detection, were it false, and the box that Cls and Loc mean."""
    own_box, own_iou = _best(detections, pairs.select(same))
    other_box, other_iou = _best(detections, pairs.select(~same))
    _, taken_iou = _best(detections, pairs.select(same & used[pairs.boxes]))
    is_loc = (own_iou >= BACKGROUND) & (own_iou <= FOREGROUND)
    types = np.select(
        [
            is_loc,
            other_iou >= FOREGROUND,
            taken_iou >= FOREGROUND,
            np.maximum(own_iou, other_iou) <= BACKGROUND,
        ],
        [TYPES.index(name) for name in ("Loc", "Cls", "Dupe", "Bkg")],
        TYPES.index("Both"),
    )
    return types, np.where(is_loc, own_box, other_box)


def _best(detections: int, pairs: Pairs) -> tuple[Ints, Floats]:
    """(N,) the preferred box of each detection and its overlap; -1 and 0 without any."""
    box, iou = np.full(detections, -1, np.int64), np.zeros(detections)
    box[pairs.detections], iou[pairs.detections] = pairs.boxes, pairs.iou  # the last one stays
    return box, iou


def _in_crowd(truth: Truth, found: Predictions) -> Mask:
    """(N,) which lie by more than half in a crowd region of their class."""
    crowd, k = np.flatnonzero(truth.iscrowd), truth.num_classes
    pairs = overlaps(
        found.images.astype(np.int64) * k + found.labels, found.boxes_xywh,
        truth.images[crowd].astype(np.int64) * k + truth.labels[crowd], truth.boxes_xywh[crowd],
        np.ones(len(crowd), bool), FOREGROUND,
    )  # fmt: skip
    inside = np.zeros(len(found), bool)
    inside[pairs.detections[pairs.iou > FOREGROUND]] = True
    return inside


class _Curves:
    """Mean AP over classes, with and without an oracle's repairs.

    Args:
        found: N detections, in their order.
        true, ignored: (N,) which are true, and which count neither way.
        positives: (K,) boxes.
    """

    def __init__(self, found: Predictions, true: Mask, ignored: Mask, positives: Ints) -> None:
        self.labels, self.scores = found.labels.astype(np.int64), found.scores
        self.true, self.ignored, self.positives = true, ignored, positives
        # of equal scores tidecv counts the false first once anything was repaired
        self._repaired = np.lexsort((true, -self.scores))

    def ap(self) -> float:
        """As it is."""
        order = np.argsort(-self.scores, kind="stable")
        order = order[~self.ignored[order]]
        return self._mean(self.labels[order], self.true[order], self.positives)

    def ap_with(
        self,
        *,
        gone: Mask | None = None,
        becomes_true: Ints | None = None,
        fewer: Ints | None = None,
        true_first: bool = False,
    ) -> float:
        """With repairs.

        Args:
            gone: (N,) false detections that vanish, or become true.
            becomes_true: (N,) class of those that become true, -1 for the others.
            fewer: (K,) boxes that are not asked for.
            true_first: all true detections come before all false ones.
        """
        kept, true, labels = ~self.ignored, self.true, self.labels
        if gone is not None:
            kept = kept & ~gone
        if becomes_true is not None:
            new = becomes_true >= 0
            kept, true = kept | new, true | new
            labels = np.where(new, becomes_true, labels)
        order = np.argsort(~true, kind="stable") if true_first else self._repaired
        order = order[kept[order]]
        positives = self.positives if fewer is None else self.positives - fewer
        return self._mean(labels[order], true[order], positives)

    def _mean(self, labels: Ints, true: Mask, positives: Ints) -> float:
        """Mean over classes that have boxes or detections; 0 without any class."""
        order = order_of(labels)
        true = true[order]
        counts = np.bincount(labels, minlength=len(positives))
        ends = np.cumsum(counts)
        present = np.flatnonzero((counts > 0) | (positives > 0))
        total = sum(_ap(true[ends[k] - counts[k] : ends[k]], int(positives[k])) for k in present)
        return total / len(present) if len(present) else 0.0


def _ap(true: Mask, positives: int) -> float:
    """AP of one class in points, detections best first: the mean over 101 recalls."""
    if not positives:
        return 0.0
    shown = np.flatnonzero(true) + 1  # detections up to and including each true one
    count = np.arange(1, len(shown) + 1)
    precision = np.maximum.accumulate((count / shown)[::-1])[::-1]
    places = np.searchsorted(count / positives, _RECALLS, side="left")
    return float(precision[places[places < len(shown)]].sum()) / len(_RECALLS) * 100
