"""COCO average precision and recall of boxes: the field's twelve numbers.

Lin et al., "Microsoft COCO", ECCV 2014; https://cocodataset.org/#detection-eval. The counting is
done by hotcoco where it is installed, by pycocotools, or here (`matching`, `average_precision`).
All get the same columns and end in the same precision and recall arrays, from which all numbers
here are taken; they agree to the last digits (`tests/metrics/test_coco.py`).

Semantics worth knowing, the same as pycocotools':

* A number without anything to count is -1, never 0 and never NaN: AP of a class without boxes,
  `APs` when no box is small, every number of a data set without boxes. Averages leave -1 out.
* Small, medium and large follow the annotation's `area` (the mask's, if there is one), with
  borders at 32² and 96² pixels.
* Crowd boxes are never missed and never punished.
* Per image and class the 100 best detections count.
* Images without a single detection count: their boxes are missed.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from detrkit.errors import DataError, UsageError
from detrkit.metrics.average_precision import LIMITS, accumulate
from detrkit.metrics.backends import count_hotcoco, count_pycocotools
from detrkit.metrics.matching import AREAS, Matches, match
from detrkit.metrics.predictions import Predictions
from detrkit.metrics.truth import GroundTruth, Truth, plain
from detrkit.structures import ClassMap, Detections

log = logging.getLogger("detrkit.metrics")

Backend = Literal["detrkit", "hotcoco", "pycocotools"]
Floats = npt.NDArray[np.float64]
Rows = npt.NDArray[np.float64]  # (N, 6): x, y, w, h in pixels, score, class index

BACKENDS: tuple[Backend, ...] = get_args(Backend)


def default_backend() -> Backend:
    """What counts where nothing else is said.

    Counting here is as exact and needs less time and memory (`tests/benchmarks/evaluation.py`), but
    numbers that are published should come from a counter that others use as well.
    """
    return "hotcoco" if find_spec("hotcoco") else "detrkit"


DEFAULT_BACKEND = default_backend()

#: The others; (truth, predictions) -> precision and recall as of `accumulate`.
_OTHERS: Mapping[str, Callable[[Truth, Predictions], tuple[Floats, Floats]]] = {
    "hotcoco": count_hotcoco,
    "pycocotools": count_pycocotools,
}

#: The twelve numbers in COCO's order.
METRIC_NAMES = (
    "AP", "AP50", "AP75", "APs", "APm", "APl",
    "AR1", "AR10", "AR100", "ARs", "ARm", "ARl",
)  # fmt: skip

#: What each number means; used by tables and `--help`.
METRIC_MEANINGS: Mapping[str, str] = {
    "AP": "average precision, mean over IoU 0.50–0.95",
    "AP50": "average precision at IoU 0.50",
    "AP75": "average precision at IoU 0.75",
    "APs": "AP of small boxes, area < 32²",
    "APm": "AP of medium boxes, 32² to 96²",
    "APl": "AP of large boxes, area > 96²",
    "AR1": "average recall with 1 detection per image and class",
    "AR10": "average recall with 10",
    "AR100": "average recall with 100",
    "ARs": "AR100 of small boxes",
    "ARm": "AR100 of medium boxes",
    "ARl": "AR100 of large boxes",
}

# Positions in the arrays.
_IOU_50, _IOU_75 = 0, 5
_AREAS = {name: place for place, name in enumerate(AREAS)}
_LIMITS = {limit: place for place, limit in enumerate(LIMITS)}


@dataclass(frozen=True, slots=True)
class ClassMetrics:
    """The numbers of one class; -1 where there is nothing to count.

    Attributes:
        name: class name.
        category_id: the data set's id.
        images: images with at least one box of it, crowds left out.
        boxes: boxes of it, crowds left out.
        detections: detections of it, at any score.
        ap, ap50, ap75, ap_small, ap_medium, ap_large, ar100: 0–1.
    """

    name: str
    category_id: int | str
    images: int
    boxes: int
    detections: int
    ap: float
    ap50: float
    ap75: float
    ap_small: float
    ap_medium: float
    ap_large: float
    ar100: float

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON, under COCO's names."""
        return {
            "name": self.name,
            "category_id": self.category_id,
            "images": self.images,
            "boxes": self.boxes,
            "detections": self.detections,
            "AP": self.ap,
            "AP50": self.ap50,
            "AP75": self.ap75,
            "APs": self.ap_small,
            "APm": self.ap_medium,
            "APl": self.ap_large,
            "AR100": self.ar100,
        }


@dataclass(frozen=True, slots=True)
class Metrics:
    """What an evaluation found.

    Attributes:
        values: METRIC_NAMES -> 0–1, or -1 where there is nothing to count.
        classes: one row per class, in index order.
        images: images evaluated.
        boxes: ground-truth boxes, crowds left out.
        detections: detections counted, at any score.
        backend: what counted.
        precision_50: (K, 101) the precision-recall curves at IoU 0.5 over recall 0, 0.01, …, 1; -1
            for classes without boxes.
    """

    values: dict[str, float]
    classes: tuple[ClassMetrics, ...] = ()
    images: int = 0
    boxes: int = 0
    detections: int = 0
    backend: str = DEFAULT_BACKEND
    precision_50: Floats = field(
        default_factory=lambda: np.empty((0, 101)), repr=False, compare=False
    )

    def __getitem__(self, name: str) -> float:
        return self.values[name]

    @property
    def ap(self) -> float:
        """AP, mean over IoU 0.50–0.95."""
        return self.values["AP"]

    @property
    def ap50(self) -> float:
        """AP at IoU 0.50."""
        return self.values["AP50"]

    @property
    def coco_numbers(self) -> list[float]:
        """The twelve numbers in COCO's order, as the authors' logs store them."""
        return [self.values[name] for name in METRIC_NAMES]

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "metrics": dict(self.values),
            "classes": [row.to_dict() for row in self.classes],
            "images": self.images,
            "boxes": self.boxes,
            "detections": self.detections,
            "backend": self.backend,
        }


def checked_backend(name: str | None) -> Backend:
    """What counts, by its name; None: the default.

    Raises:
        UsageError: there is no such backend, or it is not installed.
    """
    if name is None:
        return DEFAULT_BACKEND
    for backend in BACKENDS:
        if name == backend:
            if not find_spec(backend):
                raise UsageError(f"{name} is not installed", hint=f"pip install {name}")
            return backend
    raise UsageError(
        f"unknown evaluation backend `{name}`", hint=f"choose one of: {', '.join(BACKENDS)}"
    )


@dataclass(frozen=True, slots=True)
class CollectedState:
    """Detections that one process collected.

    Attributes:
        rows: number of the image -> (N, 6).
        dropped: detections left out because they were not finite.
    """

    rows: Mapping[int, Rows]
    dropped: int = 0


@dataclass
class CocoEvaluator:
    """Collects detections image by image and counts them against a data set.

    An image that comes twice counts once, with its last detections, so that padded shards of a
    distributed evaluation can simply be merged. Detections with a value that is not finite
    (a diverged model) are left out, with one warning.

    Args:
        index: the ground truth.
        class_map: classes of the detections' labels; default the data set's. Both must agree in
            length and order.
        backend: what counts.
    """

    index: GroundTruth
    class_map: ClassMap | None = None
    backend: Backend = DEFAULT_BACKEND
    truth: Truth = field(init=False, repr=False)
    _rows: dict[int, Rows] = field(default_factory=dict, init=False, repr=False)
    _dropped: int = field(default=0, init=False, repr=False)

    def __post_init__(self) -> None:
        checked_backend(self.backend)
        if self.class_map is None:
            self.class_map = self.index.class_map
        if self.class_map.names != self.index.class_map.names:
            raise DataError(
                f"the model's classes ({_listed(self.class_map.names)}) are not the data set's "
                f"({_listed(self.index.class_map.names)})",
                hint="evaluate on data with the classes that the model was trained on",
            )
        self.truth = Truth.of(self.index)

    def update(self, detections: Iterable[Detections]) -> None:
        """Adds the detections of some images.

        Raises:
            DataError: an image id is not in the data set, or a label is not a class of it.
        """
        for found in detections:
            position = self.truth.image_of_id.get(plain(found.image_id))
            if position is None:
                raise DataError(f"detections for image {found.image_id!r}, not in the data set")
            self._rows[position] = self._rows_of(found)

    def _rows_of(self, found: Detections) -> Rows:
        if (
            len(found)
            and not 0 <= found.labels.min() <= found.labels.max() < self.truth.num_classes
        ):
            raise DataError(
                f"image {found.image_id!r}: label {found.labels.max()} is outside the "
                f"{self.truth.num_classes} classes of the data set"
            )
        rows = np.empty((len(found), 6), np.float64)
        rows[:, :4] = found.boxes_xyxy
        rows[:, 2:4] -= rows[:, :2]
        rows[:, 4] = found.scores
        rows[:, 5] = found.labels
        finite = np.isfinite(rows).all(1)
        self._dropped += int((~finite).sum())
        return rows if finite.all() else rows[finite]

    def reset(self) -> None:
        """Forgets all detections."""
        self._rows.clear()
        self._dropped = 0

    def state(self) -> CollectedState:
        """What was collected, picklable: to be sent to another process's `merge`."""
        return CollectedState(self._rows, self._dropped)

    def merge(self, states: Iterable[CollectedState]) -> None:
        """Adds what other processes collected (their `state()`)."""
        for state in states:
            self._rows.update(state.rows)
            self._dropped += state.dropped

    def predictions(self) -> Predictions:
        """What was collected, in the order of the images; warns of what is missing."""
        self._warn()
        order = sorted(self._rows)
        lengths = [len(self._rows[i]) for i in order]
        rows = np.concatenate([self._rows[i] for i in order]) if order else np.empty((0, 6))
        return Predictions(
            np.repeat(np.array(order, np.int32), lengths),
            rows[:, 5].astype(np.int32),
            rows[:, 4].copy(),
            rows[:, :4].copy(),
        )

    def compute(self) -> Metrics:
        """COCO's numbers. May be called again after more updates."""
        return count(self.truth, self.predictions(), self.backend)

    def _warn(self) -> None:
        missing = len(self.truth) - len(self._rows)
        if missing:
            log.warning(
                "%d of %d images were not evaluated; their boxes count as missed",
                missing,
                len(self.truth),
            )
        if self._dropped:
            log.warning("%d detections with NaN or infinite values were left out", self._dropped)


def count(
    truth: Truth,
    predictions: Predictions,
    backend: Backend = DEFAULT_BACKEND,
    matches: Matches | None = None,
) -> Metrics:
    """The numbers of detections.

    Args:
        truth: the boxes.
        predictions: finite, with labels of the truth's classes.
        backend: what counts.
        matches: of both, where they are known already; "detrkit" counts from them.
    """
    if backend == "detrkit":
        precision, recall = accumulate(matches or match(truth, predictions))
    else:
        precision, recall = _OTHERS[backend](truth, predictions)
    boxes = int(truth.boxes_per_class.sum())
    if not boxes:
        log.warning("the data set has no boxes to find: AP and AR are undefined, shown as -1")
    return Metrics(
        values=_twelve_numbers(precision, recall),
        classes=tuple(_class_rows(truth, predictions, precision, recall)),
        images=len(truth),
        boxes=boxes,
        detections=len(predictions),
        backend=backend,
        precision_50=precision[_IOU_50, :, :, 0].T,
    )


def _class_rows(
    truth: Truth, predictions: Predictions, precision: Floats, recall: Floats
) -> Iterable[ClassMetrics]:
    found = np.bincount(predictions.labels, minlength=truth.num_classes)
    for k, name in enumerate(truth.class_map.names):
        ap = precision[:, :, k]  # (10 IoU, 101 recalls, 4 sizes)
        yield ClassMetrics(
            name=name,
            category_id=plain(truth.class_map.category_ids[k]),
            images=int(truth.images_per_class[k]),
            boxes=int(truth.boxes_per_class[k]),
            detections=int(found[k]),
            ap=_mean(ap[..., 0]),
            ap50=_mean(ap[_IOU_50, :, 0]),
            ap75=_mean(ap[_IOU_75, :, 0]),
            ap_small=_mean(ap[..., _AREAS["small"]]),
            ap_medium=_mean(ap[..., _AREAS["medium"]]),
            ap_large=_mean(ap[..., _AREAS["large"]]),
            ar100=_mean(recall[:, k, 0, _LIMITS[100]]),
        )


def _twelve_numbers(precision: Floats, recall: Floats) -> dict[str, float]:
    """COCO's summary of the arrays of `accumulate`."""
    numbers = [
        precision[..., 0],
        precision[_IOU_50, ..., 0],
        precision[_IOU_75, ..., 0],
        *(precision[..., _AREAS[area]] for area in ("small", "medium", "large")),
        *(recall[:, :, 0, _LIMITS[limit]] for limit in (1, 10, 100)),
        *(recall[:, :, _AREAS[area], _LIMITS[100]] for area in ("small", "medium", "large")),
    ]
    return dict(zip(METRIC_NAMES, map(_mean, numbers), strict=True))


def _mean(values: Floats) -> float:
    """Mean of the defined values; -1 if there are none."""
    defined = values[values > -1]
    return float(defined.mean()) if defined.size else -1.0


def shown(value: float) -> str:
    """A number for people; -1, "nothing to count", is a dash."""
    return "–" if value < 0 else f"{value:.3f}"


def _listed(names: Sequence[str], limit: int = 5) -> str:
    shown = ", ".join(names[:limit])
    return f"{len(names)}: {shown}, …" if len(names) > limit else f"{len(names)}: {shown}"
