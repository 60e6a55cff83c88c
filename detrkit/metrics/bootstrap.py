"""How far AP is a matter of which images were measured: the bootstrap over images.

Images are drawn with replacement, as many as there are, and AP is counted again on each draw
(Efron and Tibshirani, "An Introduction to the Bootstrap", 1993). Detectors that are compared get
the same draws, so that what is hard about an image is hard for all of them and their differences
vary less than their APs do.

Nothing is matched again: who found what in an image does not depend on the other images. A draw is
a weight per image, and precision and recall are sums of weights, counted for many draws at once.
The numbers are those that `coco.count` has for a data set in which images are repeated (to the
order in which detections of equal score count).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_matrix

from detrkit.metrics.average_precision import RECALLS
from detrkit.metrics.matching import AREAS, IOU_THRESHOLDS, Matches

Floats = npt.NDArray[np.float64]
Weights = npt.NDArray[np.uint16]

#: Draws where nothing else is said: the ends of a 95 % interval lie on 25 draws each.
SAMPLES = 1000

#: Share of the draws that lie within an interval.
CONFIDENCE = 0.95

#: Below so many images an interval is itself a guess.
FEW_IMAGES = 50

#: What is counted on each draw, in COCO's names: (size, threshold or None for the mean of all).
NUMBERS: dict[str, tuple[str, float | None]] = {
    "AP": ("all", None),
    "AP50": ("all", 0.50),
    "AP75": ("all", 0.75),
    "APs": ("small", None),
    "APm": ("medium", None),
    "APl": ("large", None),
}

#: Numbers in one array: draws are taken in blocks so that no array is much larger.
_BLOCK = 1 << 21

Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class Interval:
    """Where a number lies with `CONFIDENCE`, had other images been measured."""

    low: float
    high: float

    @property
    def excludes_zero(self) -> bool:
        """Of a difference: whether it is more than chance."""
        return self.low > 0 or self.high < 0


@dataclass(frozen=True)
class Draws:
    """The numbers of one detector on every draw.

    Attributes:
        classes: {name of `NUMBERS`: (B, K)}, NaN where a class has no boxes in a draw.
    """

    classes: dict[str, Floats]

    def overall(self, name: str) -> Floats:
        """(B,) means over the classes; NaN where none has boxes."""
        values = self.classes[name]
        defined = ~np.isnan(values)
        total = np.where(defined, values, 0.0).sum(1)
        return np.divide(
            total, defined.sum(1), out=np.full(len(values), np.nan), where=defined.any(1)
        )


def draw(images: int, samples: int = SAMPLES, seed: int = 0) -> Weights:
    """(images, B) how often each image is in each draw."""
    rng = np.random.default_rng(seed)
    weights = np.empty((images, samples), np.uint16)
    for column in range(samples):
        chosen = rng.integers(0, images, images)
        weights[:, column] = np.bincount(chosen, minlength=images)
    return weights


def interval(value: float, draws: Floats) -> Interval | None:
    """Where a number between 0 and 1 lies; None where too few draws define it.

    AP of a draw is too high on average: of an image that comes twice both copies are found or
    none. The percentiles of the draws are therefore mirrored at the value (the "basic" bootstrap
    interval): of generated sets of 50 to 200 images 93 to 96 % then hold the AP of all images
    together, against 78 to 80 % with plain percentiles (`tests/benchmarks/bootstrap.py`).

    Args:
        value: on all images as they are.
        draws: (B,) NaN where not defined.
    """
    found = difference_interval(draws)
    if found is None:
        return None
    low, high = 2 * value - found.high, 2 * value - found.low
    return Interval(min(max(low, 0.0), 1.0), min(max(high, 0.0), 1.0))


def difference_interval(draws: Floats) -> Interval | None:
    """Where a difference lies, by percentiles: what is too high in both cancels.

    Of the same generated sets 93 to 97 % hold the difference of all images together.

    Args:
        draws: (B,) NaN where not defined.
    """
    defined = draws[~np.isnan(draws)]
    if len(defined) < CONFIDENCE * len(draws) or not len(defined):
        return None
    tail = 100 * (1 - CONFIDENCE) / 2
    low, high = np.percentile(defined, [tail, 100 - tail])
    return Interval(float(low), float(high))


def bootstrap(matches: Matches, weights: Weights, progress: Progress | None = None) -> Draws:
    """Counts AP on every draw.

    Args:
        matches: of N images.
        weights: (N, B) of `draw`.
        progress: called with classes done and all.
    """
    truth, samples = matches.truth, weights.shape[1]
    found = {name: np.full((samples, truth.num_classes), np.nan) for name in NUMBERS}
    for k in range(truth.num_classes):
        for area in AREAS:
            curves = _Curves.of(matches, k, area)
            if curves is None:
                continue
            for block in _blocks(samples, curves.width):
                ap = curves.average_precision(weights[:, block])  # (10, b)
                for name, (own_area, threshold) in NUMBERS.items():
                    if own_area == area:
                        found[name][block, k] = (
                            ap.mean(0) if threshold is None else ap[_place(threshold)]
                        )
        if progress is not None:
            progress(k + 1, truth.num_classes)
    return Draws(found)


def _place(threshold: float) -> int:
    return int(np.argmin(np.abs(IOU_THRESHOLDS - threshold)))


def _blocks(samples: int, width: int) -> Iterator[slice]:
    step = max(1, _BLOCK // max(width, 1))
    for start in range(0, samples, step):
        yield slice(start, min(start + step, samples))


@dataclass(frozen=True)
class _Curves:
    """The precision-recall curves of one class and size at all thresholds, before images weigh.

    Attributes:
        positives: (N,) boxes to find in each image.
        shown: (T, N) sparse; row j: the detections of each image that count, were none of them
            matched, behind place j - 1 and up to place j. Places are those of detections that are
            true at any threshold.
        corrections: per threshold, what matches change in that, or None.
        rows: per threshold, the places that are true at it.
        images: (T,) the image of each place.
    """

    positives: Floats
    shown: csr_matrix
    corrections: Sequence[csr_matrix | None]
    rows: Sequence[npt.NDArray[np.int64]]
    images: npt.NDArray[np.int32]

    @property
    def width(self) -> int:
        """The longest column of a draw."""
        return max(len(self.images), len(self.positives) // 8)

    @classmethod
    def of(cls, matches: Matches, k: int, area: str) -> _Curves | None:
        """Those of class k and a size; None without boxes of it."""
        truth, ranked = matches.truth, matches.ranked
        ignored = matches.ignored[area]
        wanted = ~ignored & (truth.labels == k)
        if not wanted.any():
            return None
        positives = np.bincount(truth.images[wanted], minlength=len(truth)).astype(np.float64)
        start, stop = ranked.offsets[k : k + 2]
        own = slice(*np.searchsorted(matches.candidates, [start, stop]))
        candidates = matches.candidates[own] - start
        boxes = matches.boxes[area][:, own]
        images = ranked.predictions.images[start:stop]
        sides = ranked.predictions.boxes_xywh[start:stop, 2:]
        low, high = AREAS[area]
        fits = (sides.prod(1) >= low) & (sides.prod(1) <= high)

        hit = boxes >= 0
        is_true = hit & ~ignored[np.maximum(boxes, 0)]
        change = np.where(hit, is_true, fits[candidates]).astype(np.int64) - fits[candidates]
        ever = is_true.any(0)
        places = candidates[ever]
        # the place at or behind each detection; what stands behind the last one does not matter
        segment = np.searchsorted(places, np.arange(len(images)), "left")
        shape = (len(places), len(truth))

        def summed(rows: npt.NDArray[np.int64], values: npt.NDArray[np.int64]) -> csr_matrix:
            kept = segment[rows] < len(places)
            rows, values = rows[kept], values[kept]
            cells = (segment[rows], images[rows])
            return csr_matrix((values.astype(np.float64), cells), shape=shape)

        counted = np.flatnonzero(fits)
        corrections = []
        for row in change:
            changed = np.flatnonzero(row)
            corrections.append(summed(candidates[changed], row[changed]) if len(changed) else None)
        return cls(
            positives=positives,
            shown=summed(counted, np.ones(len(counted), np.int64)),
            corrections=corrections,
            rows=[np.flatnonzero(row[ever]) for row in is_true],
            images=images[places],
        )

    def average_precision(self, weights: Weights) -> Floats:
        """(10, b) AP at each threshold; NaN where a draw has no boxes.

        Args:
            weights: (N, b) of some draws.
        """
        weight = weights.astype(np.float64)
        positives = self.positives @ weight
        ap = np.zeros((len(self.rows), weight.shape[1]))
        if len(self.images):
            shown = np.cumsum(self.shown @ weight, axis=0)
            for t, (rows, correction) in enumerate(zip(self.rows, self.corrections, strict=True)):
                if len(rows):
                    counts = shown[rows]
                    if correction is not None:
                        counts += np.cumsum(correction @ weight, axis=0)[rows]
                    true = np.cumsum(weight[self.images[rows]], axis=0)
                    ap[t] = _area(true, counts, positives)
        ap[:, positives == 0] = np.nan
        return ap


def _area(true: Floats, shown: Floats, positives: Floats) -> Floats:
    """(b,) COCO's mean of 101 precisions, of b curves at once.

    Args:
        true: (T, b) found boxes up to and including each true detection.
        shown: (T, b) detections that count up to there.
        positives: (b,) boxes to find.
    """
    precision = true / (shown + np.spacing(1))
    precision = np.maximum.accumulate(precision[::-1], axis=0)[::-1]
    recall = true / np.maximum(positives, 1)
    reached = np.searchsorted(RECALLS, recall, side="right")  # so many points lie at or before
    steps = np.diff(reached, axis=0, prepend=0)
    return np.asarray((precision * steps).sum(0) / len(RECALLS))
