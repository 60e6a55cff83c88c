"""Whether scores are probabilities: of the detections with score 0.7, are 70 % true?

Expected calibration error (Naeini et al., AAAI 2015; of detections: Küppers et al., CVPRW 2020):
detections are sorted into bins of equal width by score, and

    ECE = Σ_bins  n_bin / n  |precision_bin − mean score_bin|

A detection is true if it finds a box at IoU 0.5; those in crowd regions are left out. A DETR
answers with hundreds of boxes per image, nearly all with scores near 0 and rightly so: they make
the error over all detections small whatever the others do. So it is also given over those from
`SHOWN` on, which people see.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from detrkit.metrics.matching import Outcome

#: Bins of equal width over 0–1.
BINS = 10

#: From this score on a detection counts as shown; the default of `detrkit infer`.
SHOWN = 0.3


@dataclass(frozen=True, slots=True)
class Bin:
    """Detections of similar score.

    Attributes:
        low, high: scores; the last bin includes `high`.
        detections: how many.
        score: their mean; None without any.
        precision: share that is true; None without any.
    """

    low: float
    high: float
    detections: int
    score: float | None
    precision: float | None


@dataclass(frozen=True, slots=True)
class Calibration:
    """Errors, 0–1; -1 without detections.

    Attributes:
        ece: over all detections.
        ece_shown: over those from score `SHOWN` on.
        greatest: the largest gap of any bin.
        bins: ten.
    """

    ece: float
    ece_shown: float
    greatest: float
    bins: tuple[Bin, ...]


def calibration(outcome: Outcome) -> Calibration:
    """Compares the scores of matched detections with how often they are true."""
    scores = outcome.ranked.predictions.scores[outcome.counts].clip(0, 1)
    true = outcome.is_true[outcome.counts]
    bins = _bins(scores, true)
    shown = scores >= SHOWN
    return Calibration(
        ece=_error(bins),
        ece_shown=_error(_bins(scores[shown], true[shown])),
        greatest=max((_gap(b) for b in bins if b.detections), default=-1.0),
        bins=bins,
    )


def _bins(scores: np.ndarray, true: np.ndarray) -> tuple[Bin, ...]:
    place = np.minimum((scores * BINS).astype(np.int64), BINS - 1)
    counts = np.bincount(place, minlength=BINS)
    sums = np.bincount(place, weights=scores, minlength=BINS)
    trues = np.bincount(place, weights=true, minlength=BINS)
    return tuple(
        Bin(
            i / BINS,
            (i + 1) / BINS,
            int(n),
            float(sums[i] / n) if n else None,
            float(trues[i] / n) if n else None,
        )
        for i, n in enumerate(counts)
    )


def _gap(found: Bin) -> float:
    return abs((found.precision or 0.0) - (found.score or 0.0))


def _error(bins: tuple[Bin, ...]) -> float:
    total = sum(b.detections for b in bins)
    return sum(b.detections * _gap(b) for b in bins) / total if total else -1.0
