"""Which detection found which box: COCO's rules, for all images at once.

In the order of their scores the detections of an image and class take the box of that class that
they overlap most, if by at least the threshold and if it is not taken yet (Lin et al., "Microsoft
COCO", ECCV 2014; https://cocodataset.org/#detection-eval). Of equal overlaps the later box wins.
Boxes that do not count (crowd regions, sizes outside the range) are only taken when no other is
left, and crowd regions by any number of detections. A detection that took such a box, or none
while its own size is outside the range, does not count either.

One pass serves everything that is reported. The greedy rule binds detections only within an image
and class, and only those that overlap a box at all; those of one rank are matched at once,
everywhere and at all thresholds.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from detrkit.metrics.predictions import Predictions
from detrkit.metrics.truth import Truth

#: COCO's ten, with the rounding that pycocotools has.
IOU_THRESHOLDS = np.linspace(0.5, 0.95, 10)

#: Of each image and class the best so many detections count.
MAX_DETECTIONS = 100

#: COCO's sizes: least and greatest area in square pixels, both included.
AREAS: dict[str, tuple[float, float]] = {
    "all": (0.0, 1e10),
    "small": (0.0, 32.0**2),
    "medium": (32.0**2, 96.0**2),
    "large": (96.0**2, 1e10),
}

#: Pairs of boxes that are compared at once.
_CHUNK = 1 << 18

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Ranked:
    """Detections in the order of their class, then of their score, best first.

    Attributes:
        predictions: N of them, only those that count.
        ranks: (N,) int32, place among those of the same image and class, from 0.
        offsets: (K + 1,) int64; those of class k are rows offsets[k]:offsets[k + 1].
        rows: (N,) int64, where each stood before.
    """

    predictions: Predictions
    ranks: npt.NDArray[np.int32]
    offsets: Ints
    rows: Ints

    def __len__(self) -> int:
        return len(self.predictions)


def rank(predictions: Predictions, num_classes: int, limit: int = MAX_DETECTIONS) -> Ranked:
    """Sorts detections; equal scores stay in the order of images, then in their own.

    Args:
        predictions: of any order.
        num_classes: K.
        limit: so many of each image and class are kept.
    """
    rows = np.arange(len(predictions)) if len(predictions) else np.empty(0, np.int64)
    if (np.diff(predictions.images) < 0).any():
        rows = order_of(predictions.images)
    rows = rows[np.argsort(-predictions.scores[rows], kind="stable")]
    rows = rows[order_of(predictions.labels[rows])]
    ranks = _places(predictions.images[rows], predictions.labels[rows])
    if len(ranks) and ranks.max() >= limit:
        kept = ranks < limit
        rows, ranks = rows[kept], ranks[kept]
    chosen = predictions.select(rows)
    counts = np.bincount(chosen.labels, minlength=num_classes)
    return Ranked(chosen, ranks, np.concatenate([[0], np.cumsum(counts)]), rows)


def order_of(values: npt.NDArray[np.integer]) -> Ints:
    """The stable order of numbers from 0, sorted by 16 bits at a time: NumPy is fast at that."""
    order = np.argsort((values & 0xFFFF).astype(np.uint16), kind="stable")
    highest, shift = int(values.max(initial=0)), 16
    while highest >> shift:
        part = ((values >> shift) & 0xFFFF).astype(np.uint16)
        order = order[np.argsort(part[order], kind="stable")]
        shift += 16
    return order


def _places(images: npt.NDArray[np.int32], labels: npt.NDArray[np.int32]) -> npt.NDArray[np.int32]:
    """(N,) how many of the same image and label stand before; labels ascend."""
    order = order_of(images)
    same = (np.diff(images[order]) == 0) & (np.diff(labels[order]) == 0)
    return _counted_up(order, same)


def _counted_up(order: Ints, same: npt.NDArray[np.bool_]) -> npt.NDArray[np.int32]:
    """(N,) places within groups; `same` (N - 1,) says which neighbours in `order` share one."""
    positions = np.arange(len(order), dtype=np.int32)
    starts = np.where(np.concatenate([[True], ~same])[: len(order)], positions, 0)
    places = np.empty(len(order), np.int32)
    places[order] = positions - np.maximum.accumulate(starts)
    return places


@dataclass(frozen=True)
class Pairs:
    """P detections and boxes that overlap.

    Attributes:
        detections: (P,) int64, ascending.
        boxes: (P,) int64, ascending for each detection.
        iou: (P,) float64; with a crowd region the share of the detection that lies in it.
    """

    detections: Ints
    boxes: Ints
    iou: npt.NDArray[np.float64]

    def select(self, kept: npt.NDArray[np.bool_] | Ints) -> Pairs:
        """Those at a mask or at indices."""
        return Pairs(self.detections[kept], self.boxes[kept], self.iou[kept])


def overlaps(
    detection_keys: Ints,
    detections_xywh: npt.NDArray[np.float64],
    box_keys: Ints,
    boxes_xywh: npt.NDArray[np.float64],
    iscrowd: npt.NDArray[np.bool_],
    least: float,
) -> Pairs:
    """All pairs with the same key that overlap by at least `least` > 0.

    The arithmetic is that of pycocotools, to the last bit.

    Args:
        detection_keys: (N,) e.g. the image.
        detections_xywh: (N, 4) pixels.
        box_keys: (M,) likewise.
        boxes_xywh: (M, 4) pixels.
        iscrowd: (M,) which are crowd regions.
        least: IoU.
    """
    order = np.argsort(box_keys, kind="stable")
    keys = box_keys[order]
    first = np.searchsorted(keys, detection_keys, "left")
    counts = np.searchsorted(keys, detection_keys, "right") - first
    near = np.flatnonzero(counts)
    first, counts = first[near], counts[near]
    found = []
    for part in _chunks(counts):
        count = counts[part]
        detections = np.repeat(near[part], count)
        inside = np.arange(len(detections)) - np.repeat(np.cumsum(count) - count, count)
        boxes = order[np.repeat(first[part], count) + inside]
        iou = iou_of(detections_xywh[detections], boxes_xywh[boxes], iscrowd[boxes])
        kept = iou >= least
        found.append(Pairs(detections[kept], boxes[kept], iou[kept]))
    if not found:
        return Pairs(np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0))
    return Pairs(
        np.concatenate([part.detections for part in found]),
        np.concatenate([part.boxes for part in found]),
        np.concatenate([part.iou for part in found]),
    )


def _chunks(counts: Ints) -> Iterator[slice]:
    """Slices of about `_CHUNK` in sum."""
    ends = np.cumsum(counts)
    start, done = 0, 0
    while start < len(counts):
        stop = max(int(np.searchsorted(ends, done + _CHUNK, "right")), start + 1)
        yield slice(start, stop)
        start, done = stop, int(ends[stop - 1])


def iou_of(
    a: npt.NDArray[np.float64], b: npt.NDArray[np.float64], iscrowd: npt.NDArray[np.bool_]
) -> npt.NDArray[np.float64]:
    """(P,) overlap of boxes (P, 4), xywh; where `b` is a crowd region, the share of `a` in it."""
    w = np.minimum(a[:, 0] + a[:, 2], b[:, 0] + b[:, 2]) - np.maximum(a[:, 0], b[:, 0])
    h = np.minimum(a[:, 1] + a[:, 3], b[:, 1] + b[:, 3]) - np.maximum(a[:, 1], b[:, 1])
    inside = np.where((w > 0) & (h > 0), w * h, 0.0)
    own = a[:, 2] * a[:, 3]
    union = np.where(iscrowd, own, own + b[:, 2] * b[:, 3] - inside)
    return np.divide(inside, union, out=np.zeros_like(inside), where=inside > 0)


def take(
    pairs: Pairs,
    turns: npt.NDArray[np.integer],
    thresholds: npt.NDArray[np.float64],
    ignored: npt.NDArray[np.bool_],
    iscrowd: npt.NDArray[np.bool_],
) -> npt.NDArray[np.int32]:
    """Lets detections take boxes, turn by turn.

    Args:
        pairs: detections are numbered 0 to C - 1; of a detection's pairs the last that is free
            is its choice, so they stand in the order of preference.
        turns: (C,) when each detection chooses. Those that choose at once share no box.
        thresholds: (T,) least IoU.
        ignored: (M,) boxes that are taken only where no other is free.
        iscrowd: (M,) boxes that stay free.

    Returns:
        (T, C) int32, the box that each took at each threshold, or -1.
    """
    matches = np.full((len(thresholds), len(turns)), -1, np.int32)
    taken = np.zeros((len(thresholds), len(ignored)), bool)
    order = order_of(turns[pairs.detections])
    pairs = pairs.select(order)
    counts = np.bincount(turns[pairs.detections])
    ends = np.cumsum(counts)
    for start, end in zip(ends - counts, ends, strict=True):
        detections, boxes = pairs.detections[start:end], pairs.boxes[start:end]
        firsts = np.flatnonzero(np.concatenate([[True], np.diff(detections) != 0]))
        free = pairs.iou[start:end] >= thresholds[:, None]
        free &= ~taken[:, boxes] | iscrowd[boxes]
        places = np.arange(1, len(boxes) + 1, dtype=np.int64)
        preference = np.where(free, places + np.where(ignored[boxes], 0, len(boxes)), 0)
        best = np.maximum.reduceat(preference, firsts, axis=1)
        chosen = np.where(best > 0, boxes[(best - 1) % len(boxes)], -1)
        matches[:, detections[firsts]] = chosen
        at, who = np.nonzero(best)
        taken[at, chosen[at, who]] = True
    return matches


@dataclass(frozen=True)
class Outcome:
    """What became of detections and boxes at one IoU threshold, sizes of all kinds.

    Attributes:
        ranked: N detections.
        boxes: (N,) int32, the box that each found, crowd regions included; -1: none.
        is_true: (N,) bool, found a box that counts.
        counts: (N,) bool, true or false; the others lie in crowd regions.
    """

    ranked: Ranked
    boxes: npt.NDArray[np.int32]
    is_true: npt.NDArray[np.bool_]
    counts: npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Matches:
    """Who found what, at all thresholds and for all sizes.

    Attributes:
        truth: M boxes.
        ranked: N detections.
        candidates: (C,) int64, those that overlap a box of their class by 0.5 or more, ascending.
        boxes: {name of a size: (10, C) int32}, the box that each candidate took, or -1.
        ignored: {name of a size: (M,) bool}, the boxes that do not count.
    """

    truth: Truth
    ranked: Ranked
    candidates: Ints
    boxes: dict[str, npt.NDArray[np.int32]]
    ignored: dict[str, npt.NDArray[np.bool_]]

    @cached_property
    def at_50(self) -> Outcome:
        """At IoU 0.5."""
        boxes = np.full(len(self.ranked), -1, np.int32)
        boxes[self.candidates] = self.boxes["all"][0]
        hit = boxes >= 0
        is_true = hit.copy()
        is_true[hit] = ~self.ignored["all"][boxes[hit]]
        return Outcome(self.ranked, boxes, is_true, is_true | ~hit)


def match(truth: Truth, predictions: Predictions) -> Matches:
    """Matches detections of any order with the boxes of their images and classes."""
    ranked = rank(predictions, truth.num_classes)
    found = ranked.predictions
    keys = found.images.astype(np.int64) * truth.num_classes + found.labels
    pairs = overlaps(
        keys,
        found.boxes_xywh,
        truth.images.astype(np.int64) * truth.num_classes + truth.labels,
        truth.boxes_xywh,
        truth.iscrowd,
        IOU_THRESHOLDS[0],
    )
    candidates, numbers = np.unique(pairs.detections, return_inverse=True)
    order = np.lexsort((pairs.boxes, pairs.iou, numbers))
    pairs = Pairs(numbers[order], pairs.boxes[order], pairs.iou[order])
    turns = turns_of(keys[candidates])
    boxes, ignored = {}, {}
    for name, (low, high) in AREAS.items():
        ignored[name] = truth.iscrowd | (truth.area < low) | (truth.area > high)
        boxes[name] = take(pairs, turns, IOU_THRESHOLDS, ignored[name], truth.iscrowd)
    return Matches(truth, ranked, candidates, boxes, ignored)


def turns_of(keys: Ints) -> npt.NDArray[np.int32]:
    """(C,) how many with the same key stand before each."""
    order = np.argsort(keys, kind="stable")
    return _counted_up(order, np.diff(keys[order]) == 0)
