"""The same counting by others: hotcoco (Rust) and pycocotools (the original, the judge)."""

from __future__ import annotations

import contextlib
import io
from typing import Any

import numpy as np
import numpy.typing as npt

from detrkit.metrics.matching import MAX_DETECTIONS
from detrkit.metrics.predictions import Predictions
from detrkit.metrics.truth import Truth

Floats = npt.NDArray[np.float64]

#: Position of the greatest limit on detections in their arrays.
_LIMIT_100 = 2


def count_hotcoco(truth: Truth, predictions: Predictions) -> tuple[Floats, Floats]:
    """By hotcoco; arrays as of `accumulate`."""
    from hotcoco import COCO, COCOeval

    boxes = COCO.from_arrays(
        images=_images(truth),
        categories=_categories(truth),
        image_ids=truth.images.astype(np.int64) + 1,
        category_ids=truth.labels.astype(np.int64) + 1,
        boxes=truth.boxes_xywh,
        area=truth.area,
        iscrowd=truth.iscrowd,
    )
    evaluation = COCOeval(boxes, boxes.load_res(_result_rows(predictions)), "bbox")
    evaluation.evaluate()
    evaluation.accumulate()
    counted = evaluation.eval
    assert counted is not None
    return np.asarray(counted["precision"])[..., _LIMIT_100], np.asarray(counted["recall"])


def count_pycocotools(truth: Truth, predictions: Predictions) -> tuple[Floats, Floats]:
    """By pycocotools; arrays as of `accumulate`."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    names = ("id", "image_id", "category_id", "bbox", "area", "iscrowd")
    columns = (
        range(1, len(truth.labels) + 1),
        (truth.images + 1).tolist(),
        (truth.labels + 1).tolist(),
        truth.boxes_xywh.tolist(),
        truth.area.tolist(),
        truth.iscrowd.astype(int).tolist(),
    )
    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools prints its progress
        boxes, results = COCO(), COCO()
        boxes.dataset = {
            "images": _images(truth),
            "categories": _categories(truth),
            "annotations": [
                dict(zip(names, row, strict=True)) for row in zip(*columns, strict=True)
            ],
        }
        boxes.createIndex()
        if len(predictions):
            results = boxes.loadRes(_result_rows(predictions))
        else:  # loadRes fails on an empty list
            results.dataset = {**boxes.dataset, "annotations": []}
            results.createIndex()
        evaluation = COCOeval(boxes, results, "bbox")
        assert evaluation.params.maxDets[_LIMIT_100] == MAX_DETECTIONS
        evaluation.evaluate()
        evaluation.accumulate()
    return evaluation.eval["precision"][..., _LIMIT_100], evaluation.eval["recall"]


# Ids are counted from 1: the data set's may be text, and pycocotools takes an annotation with id 0
# for "not matched".


def _images(truth: Truth) -> list[dict[str, Any]]:
    sizes = enumerate(truth.sizes.tolist(), start=1)
    return [{"id": i, "height": h, "width": w} for i, (h, w) in sizes]


def _categories(truth: Truth) -> list[dict[str, Any]]:
    names = enumerate(truth.class_map.names, start=1)
    return [{"id": k, "name": str(name)} for k, name in names]


def _result_rows(found: Predictions) -> Floats:
    """(N, 7): image id, x, y, w, h, score, category id."""
    return np.column_stack([found.images + 1, found.boxes_xywh, found.scores, found.labels + 1])
