"""COCO average precision and recall of boxes: the field's twelve numbers.

Lin et al., "Microsoft COCO", ECCV 2014; https://cocodataset.org/#detection-eval. The counting is
done by hotcoco (Rust, fast) or by pycocotools (the original, its judge); both get the same
columns and end in the same precision and recall arrays, from which all numbers here are taken.

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

import contextlib
import io
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, get_args

import numpy as np
import numpy.typing as npt

from detrkit.errors import DataError, UsageError
from detrkit.structures import ClassMap, Detections

log = logging.getLogger("detrkit.metrics")

Backend = Literal["hotcoco", "pycocotools"]
Floats = npt.NDArray[np.float64]
Rows = npt.NDArray[np.float64]  # (N, 6): x, y, w, h in pixels, score, class index

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

# Positions in COCO's parameter grid.
_IOU_50, _IOU_75 = 0, 5
_AREAS = {"all": 0, "small": 1, "medium": 2, "large": 3}
_MAX_DETS = {1: 0, 10: 1, 100: 2}


class GroundTruth(Protocol):
    """The columns of a data set that the evaluation reads; `DatasetIndex` has them.

    Attributes:
        image_ids: N ids, int or str.
        sizes: (N, 2) int, (h, w) in pixels.
        offsets: (N + 1,) int; the boxes of image i are rows offsets[i]:offsets[i + 1].
        boxes_xyxy: (M, 4) float, corners in pixels.
        labels: (M,) int, contiguous class indices.
        iscrowd: (M,) bool.
        area: (M,) float, square pixels.
        class_map: names of the classes.
    """

    @property
    def image_ids(self) -> Iterable[Any]: ...
    @property
    def sizes(self) -> npt.NDArray[Any]: ...
    @property
    def offsets(self) -> npt.NDArray[Any]: ...
    @property
    def boxes_xyxy(self) -> npt.NDArray[Any]: ...
    @property
    def labels(self) -> npt.NDArray[Any]: ...
    @property
    def iscrowd(self) -> npt.NDArray[Any]: ...
    @property
    def area(self) -> npt.NDArray[Any]: ...
    @property
    def class_map(self) -> ClassMap: ...


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
    """

    values: dict[str, float]
    classes: tuple[ClassMetrics, ...] = ()
    images: int = 0
    boxes: int = 0
    detections: int = 0
    backend: str = "hotcoco"

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


@dataclass(frozen=True, slots=True)
class CollectedState:
    """Detections that one process collected.

    Attributes:
        rows: position of the image in the order of the ids -> (N, 6).
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
        backend: "hotcoco" or "pycocotools".
    """

    index: GroundTruth
    class_map: ClassMap | None = None
    backend: Backend = "hotcoco"
    _rows: dict[int, Rows] = field(default_factory=dict, init=False, repr=False)
    _dropped: int = field(default=0, init=False, repr=False)

    def __post_init__(self) -> None:
        if self.backend not in get_args(Backend):
            raise UsageError(
                f"unknown evaluation backend `{self.backend}`",
                hint=f"choose one of: {', '.join(get_args(Backend))}",
            )
        if self.class_map is None:
            self.class_map = self.index.class_map
        if self.class_map.names != self.index.class_map.names:
            raise DataError(
                f"the model's classes ({_listed(self.class_map.names)}) are not the data set's "
                f"({_listed(self.index.class_map.names)})",
                hint="evaluate on data with the classes that the model was trained on",
            )
        ids = [_plain(id_) for id_ in self.index.image_ids]
        # Equal scores of different images are counted in the order of the ids, as pycocotools does.
        order = sorted(range(len(ids)), key=lambda i: (isinstance(ids[i], str), ids[i]))
        self._order = np.asarray(order, np.int64)
        self._position = {ids[i]: rank for rank, i in enumerate(order)}

    def update(self, detections: Iterable[Detections]) -> None:
        """Adds the detections of some images.

        Raises:
            DataError: an image id is not in the data set, or a label is not a class of it.
        """
        for found in detections:
            position = self._position.get(_plain(found.image_id))
            if position is None:
                raise DataError(f"detections for image {found.image_id!r}, not in the data set")
            self._rows[position] = self._rows_of(found)

    def _rows_of(self, found: Detections) -> Rows:
        if len(found) and not 0 <= found.labels.min() <= found.labels.max() < self._num_classes:
            raise DataError(
                f"image {found.image_id!r}: label {found.labels.max()} is outside the "
                f"{self._num_classes} classes of the data set"
            )
        rows = np.empty((len(found), 6), np.float64)
        rows[:, :4] = found.boxes_xyxy
        rows[:, 2:4] -= rows[:, :2]
        rows[:, 4] = found.scores
        rows[:, 5] = found.labels
        finite = np.isfinite(rows).all(1)
        self._dropped += int((~finite).sum())
        return rows if finite.all() else rows[finite]

    @property
    def _num_classes(self) -> int:
        return len(self.index.class_map)

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

    def compute(self) -> Metrics:
        """Counts. May be called again after more updates."""
        index = self.index
        images, rows = self._detection_columns()
        missing = len(self._position) - len(self._rows)
        if missing:
            log.warning(
                "%d of %d images were not evaluated; their boxes count as missed",
                missing,
                len(self._position),
            )
        if self._dropped:
            log.warning("%d detections with NaN or infinite values were left out", self._dropped)
        crowd = np.asarray(index.iscrowd, bool)
        boxes = int((~crowd).sum())
        if not boxes:
            log.warning("the data set has no boxes to find: AP and AR are undefined, shown as -1")

        count = _count_hotcoco if self.backend == "hotcoco" else _count_pycocotools
        precision, recall = count(_truth_columns(index, self._order), images, rows)
        return Metrics(
            values=_twelve_numbers(precision, recall),
            classes=tuple(self._class_rows(precision, recall, rows, crowd)),
            images=len(self._position),
            boxes=boxes,
            detections=len(rows),
            backend=self.backend,
        )

    def _detection_columns(self) -> tuple[npt.NDArray[np.int64], Rows]:
        """Image rank (N,) and rows (N, 6) of all detections, in the order of the images."""
        order = sorted(self._rows)
        lengths = [len(self._rows[i]) for i in order]
        images = np.repeat(np.asarray(order, np.int64), lengths)
        rows = np.concatenate([self._rows[i] for i in order]) if order else np.empty((0, 6))
        return images, rows

    def _class_rows(
        self, precision: Floats, recall: Floats, rows: Rows, crowd: npt.NDArray[np.bool_]
    ) -> Iterable[ClassMetrics]:
        index = self.index
        labels = np.asarray(index.labels, np.int64)
        image_of_box = np.repeat(np.arange(len(index.offsets) - 1), np.diff(index.offsets))
        kept = ~crowd
        boxes = np.bincount(labels[kept], minlength=self._num_classes)
        pairs = np.unique(labels[kept] * len(index.offsets) + image_of_box[kept])
        images = np.bincount(pairs // len(index.offsets), minlength=self._num_classes)
        found = np.bincount(rows[:, 5].astype(np.int64), minlength=self._num_classes)
        best = _MAX_DETS[100]
        for k, name in enumerate(index.class_map.names):
            ap = precision[:, :, k, :, best]  # (10 IoU, 101 recall, 4 areas)
            yield ClassMetrics(
                name=name,
                category_id=_plain(index.class_map.category_ids[k]),
                images=int(images[k]),
                boxes=int(boxes[k]),
                detections=int(found[k]),
                ap=_mean(ap[..., 0]),
                ap50=_mean(ap[_IOU_50, :, 0]),
                ap75=_mean(ap[_IOU_75, :, 0]),
                ap_small=_mean(ap[..., _AREAS["small"]]),
                ap_medium=_mean(ap[..., _AREAS["medium"]]),
                ap_large=_mean(ap[..., _AREAS["large"]]),
                ar100=_mean(recall[:, k, 0, best]),
            )


def _twelve_numbers(precision: Floats, recall: Floats) -> dict[str, float]:
    """COCO's summary.

    Args:
        precision: (10 IoU, 101 recall, K classes, 4 areas, 3 limits), -1 where undefined.
        recall: (10 IoU, K classes, 4 areas, 3 limits), likewise.
    """
    ap, ar = precision[..., _MAX_DETS[100]], recall[..., _MAX_DETS[100]]
    numbers = [
        ap[..., 0],
        ap[_IOU_50, ..., 0],
        ap[_IOU_75, ..., 0],
        *(ap[..., _AREAS[area]] for area in ("small", "medium", "large")),
        *(recall[:, :, 0, _MAX_DETS[limit]] for limit in (1, 10, 100)),
        *(ar[..., _AREAS[area]] for area in ("small", "medium", "large")),
    ]
    return dict(zip(METRIC_NAMES, map(_mean, numbers), strict=True))


def _mean(values: Floats) -> float:
    """Mean of the defined values; -1 if there are none."""
    defined = values[values > -1]
    return float(defined.mean()) if defined.size else -1.0


def _truth_columns(index: GroundTruth, order: npt.NDArray[np.int64]) -> dict[str, Any]:
    """Images, categories and annotation columns with ids counted from 1.

    Own ids, because the data set's may be text, and because pycocotools takes an annotation with
    id 0 for "not matched".

    Args:
        index: the data set.
        order: (N,) positions of the images, sorted by their id.
    """
    boxes = np.asarray(index.boxes_xyxy, np.float64).reshape(-1, 4).copy()
    boxes[:, 2:] -= boxes[:, :2]
    rank = np.empty_like(order)
    rank[order] = np.arange(len(order))
    return {
        "images": [
            {"id": i + 1, "height": int(h), "width": int(w)}
            for i, (h, w) in enumerate(np.asarray(index.sizes).reshape(-1, 2)[order])
        ],
        "categories": [{"id": k + 1, "name": str(n)} for k, n in enumerate(index.class_map.names)],
        "image_ids": np.repeat(rank, np.diff(index.offsets)) + 1,
        "category_ids": np.asarray(index.labels, np.int64) + 1,
        # Corners in float32 lose the last digits of the annotated width and height, and a box can
        # lie exactly on an IoU threshold: a thousandth of a pixel restores what was written.
        "boxes": boxes.round(3),
        "area": np.asarray(index.area, np.float64),
        "iscrowd": np.asarray(index.iscrowd, bool),
    }


def _result_rows(images: npt.NDArray[np.int64], rows: Rows) -> Floats:
    """(N, 7): image id, x, y, w, h, score, category id, ids counted from 1."""
    return np.column_stack([images + 1, rows[:, :5], rows[:, 5] + 1])


def _count_hotcoco(
    columns: Mapping[str, Any], images: npt.NDArray[np.int64], rows: Rows
) -> tuple[Floats, Floats]:
    from hotcoco import COCO, COCOeval

    truth = COCO.from_arrays(**columns)
    evaluation = COCOeval(truth, truth.load_res(_result_rows(images, rows)), "bbox")
    evaluation.evaluate()
    evaluation.accumulate()
    counted = evaluation.eval
    assert counted is not None
    return np.asarray(counted["precision"]), np.asarray(counted["recall"])


def _count_pycocotools(
    columns: Mapping[str, Any], images: npt.NDArray[np.int64], rows: Rows
) -> tuple[Floats, Floats]:
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    names = ("image_id", "category_id", "bbox", "area", "iscrowd")
    values = (
        columns["image_ids"].tolist(),
        columns["category_ids"].tolist(),
        columns["boxes"].tolist(),
        columns["area"].tolist(),
        columns["iscrowd"].astype(int).tolist(),
    )
    annotations = [
        {"id": i + 1, **dict(zip(names, row, strict=True))}
        for i, row in enumerate(zip(*values, strict=True))
    ]
    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools prints its progress
        truth, results = COCO(), COCO()
        truth.dataset = {
            "images": columns["images"],
            "categories": columns["categories"],
            "annotations": annotations,
        }
        truth.createIndex()
        if len(rows):
            results = truth.loadRes(_result_rows(images, rows))
        else:  # loadRes fails on an empty list
            results.dataset = {**truth.dataset, "annotations": []}
            results.createIndex()
        evaluation = COCOeval(truth, results, "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
    return evaluation.eval["precision"], evaluation.eval["recall"]


def _plain(value: Any) -> Any:
    """NumPy scalars as Python's, so that ids compare and serialise."""
    return value.item() if isinstance(value, np.generic) else value


def _listed(names: Sequence[str], limit: int = 5) -> str:
    shown = ", ".join(names[:limit])
    return f"{len(names)}: {shown}, …" if len(names) > limit else f"{len(names)}: {shown}"
