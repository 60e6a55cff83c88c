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

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from detrkit.data.index import DatasetIndex
from detrkit.errors import DataError
from detrkit.metrics.schema import FalseImageJson, OverActivationJson, OverActivationLevelJson
from detrkit.structures import Detections

#: Names of `OverActivation.values`.
OA_NAMES = ("oa_fppi", "oa_clean_rate", "oa_max_score", "oa_mean_max_score")

#: Thresholds of a report; the evaluation's own, the best for F1, joins them.
THRESHOLDS = (0.1, 0.3, 0.5, 0.7, 0.9)
#: Of so many images `metrics.json` says what was found in them.
_IMAGES = 100


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


@dataclass(frozen=True)
class FalseDetections:
    """What was found where there is nothing. The lists run in parallel.

    Attributes:
        scores: of each image that could be read, (number of detections,), best first.
        paths: of these images.
        shown: their finite detections from the lowest of THRESHOLDS on.
        broken: why the others could not be read, by path.
    """

    scores: list[npt.NDArray[np.float32]] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)
    shown: list[Detections] = field(default_factory=list)
    broken: dict[str, str] = field(default_factory=dict)

    @classmethod
    def joined(cls, parts: Iterable[FalseDetections]) -> FalseDetections:
        """Those of several processes, in the order of the paths."""
        every: list[tuple[str, npt.NDArray[np.float32], Detections]] = []
        broken: dict[str, str] = {}
        for part in parts:
            every += zip(part.paths, part.scores, part.shown, strict=True)
            broken |= part.broken
        every.sort(key=lambda row: row[0])
        paths, scores, shown = zip(*every, strict=True) if every else ((), (), ())
        return cls(list(scores), list(paths), list(shown), dict(sorted(broken.items())))

    def add(self, path: str, found: Detections) -> None:
        """An image that could be read, and all that was found in it."""
        self.paths.append(path)
        self.scores.append(found.scores)
        shown = np.isfinite(found.scores) & (found.scores >= THRESHOLDS[0])
        self.shown.append(found.select(shown))

    def at(self, threshold: float) -> OverActivation:
        """Their numbers from a score on.

        Raises:
            DataError: no image could be read.
        """
        return self.levels([threshold])[0]

    def levels(self, thresholds: Sequence[float]) -> list[OverActivation]:
        """Their numbers from several scores on.

        Raises:
            DataError: no image could be read.
        """
        if not self.scores:
            raise DataError(
                f"none of the {len(self.broken)} images without targets can be read, "
                f"e.g. {next(iter(self.broken.values()), 'there are none')}"
            )
        return over_activation(self.scores, thresholds)

    def worst(self, limit: int = _IMAGES) -> list[int]:
        """Numbers of the images with the highest scores; none without a detection that is shown."""
        some = [number for number, found in enumerate(self.shown) if len(found)]
        return sorted(some, key=lambda number: -float(self.shown[number].scores[0]))[:limit]

    def of_classes(self, threshold: float) -> dict[str, int]:
        """How many detections of each class score so much, most first; only classes with any.

        Args:
            threshold: not below the lowest of THRESHOLDS.
        """
        counts: dict[str, int] = {}
        for found in self.shown:
            for name in found.above(threshold).names:
                counts[name] = counts.get(name, 0) + 1
        return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))


@dataclass(frozen=True)
class Negatives:
    """Images without targets, and what was found in them.

    Attributes:
        index: the images.
        found: in those that could be read.
    """

    index: DatasetIndex
    found: FalseDetections

    def to_dict(self, confidence: float | None = None) -> OverActivationJson:
        """Plain values for JSON.

        Args:
            confidence: a threshold to report beside the others: the one that is best for F1.

        Raises:
            DataError: no image could be read.
        """
        thresholds = sorted({*THRESHOLDS, *([] if confidence is None else [confidence])})
        levels = self.found.levels(thresholds)
        return {
            "source": self.index.source,
            "images": len(self.found.paths),
            "broken": sorted(self.found.broken),
            "confidence": confidence,
            "max_score": levels[0].max_score,
            "mean_max_score": levels[0].mean_max_score,
            "levels": [_level(each) for each in levels],
            "classes": [
                {"name": name, "detections": count}
                for name, count in self.found.of_classes(THRESHOLDS[0]).items()
            ],
            "worst": [self._image(number) for number in self.found.worst()],
        }

    def _image(self, number: int) -> FalseImageJson:
        best = self.found.shown[number]
        x1, y1, x2, y2 = best.boxes_xyxy[0].tolist()
        return {
            "file": self.found.paths[number],
            "score": float(best.scores[0]),
            "detected": best.names[0],
            "detected_box": [x1, y1, x2 - x1, y2 - y1],
            "detections": len(best),
        }


def _level(found: OverActivation) -> OverActivationLevelJson:
    return {
        "threshold": found.threshold,
        "fppi": found.fppi,
        "clean_rate": found.clean_rate,
        "detections": round(found.fppi * found.images),
        "images_with_detections": round((1 - found.clean_rate) * found.images),
    }
