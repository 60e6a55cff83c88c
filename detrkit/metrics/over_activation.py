"""Over-activation: what a detector finds in images in which there is nothing to find.

With s_ij the scores of image i, N images and threshold t:

    oa_fppi            |{ij: s_ij >= t}| / N            false detections per image
    oa_clean_rate      |{i: max_j s_ij < t}| / N        share of images without any
    oa_max_score       max_ij s_ij                      the worst of all
    oa_mean_max_score  sum_i max_j s_ij / N             the worst of an image on average

The last two do not depend on the threshold. An image without detections has the highest score 0.
Scores are counted as they leave the postprocessor: a query that answers with two classes counts
twice.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

#: Names of `OverActivation.values`.
OA_NAMES = ("oa_fppi", "oa_clean_rate", "oa_max_score", "oa_mean_max_score")


@dataclass(frozen=True)
class OverActivation:
    """False detections from a threshold on.

    Attributes:
        threshold: score from which on a detection counts.
        images: N, those that could be read.
        fppi: false detections per image.
        clean_rate: share of images without any, 0–1.
        max_score: highest score of all images, 0–1.
        mean_max_score: highest score of an image, on average.
    """

    threshold: float
    images: int
    fppi: float
    clean_rate: float
    max_score: float
    mean_max_score: float

    @property
    def values(self) -> dict[str, float]:
        """By the names of the log."""
        numbers = (self.fppi, self.clean_rate, self.max_score, self.mean_max_score)
        return dict(zip(OA_NAMES, numbers, strict=True))


def over_activation(
    scores: Sequence[npt.NDArray[np.floating]], thresholds: Sequence[float]
) -> list[OverActivation]:
    """False detections, for each threshold.

    Args:
        scores: of each image, (number of detections,), 0–1, in any order.
        thresholds: e.g. (0.3, 0.5, 0.7).

    Raises:
        ValueError: there are no images.
    """
    if not scores:
        raise ValueError("over-activation needs at least one image")
    highest = np.array([float(image.max(initial=0.0)) for image in scores])
    every = np.sort(np.concatenate([np.asarray(image, np.float64) for image in scores]))
    return [
        OverActivation(
            threshold=threshold,
            images=len(scores),
            fppi=float(len(every) - np.searchsorted(every, threshold)) / len(scores),
            clean_rate=float((highest < threshold).mean()),
            max_score=float(highest.max()),
            mean_max_score=float(highest.mean()),
        )
        for threshold in thresholds
    ]
