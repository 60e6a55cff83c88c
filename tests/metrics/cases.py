"""Small data sets in columns, for tests of metrics, drawing and the evaluator."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from detrkit.structures import ClassMap, Detections


@dataclass
class Columns:
    """The columns that the evaluator reads."""

    image_ids: list[Any]
    sizes: npt.NDArray[np.int64]
    offsets: npt.NDArray[np.int64]
    boxes_xyxy: npt.NDArray[np.float64]
    labels: npt.NDArray[np.int64]
    iscrowd: npt.NDArray[np.bool_]
    area: npt.NDArray[np.float64]
    class_map: ClassMap


def from_coco(truth: dict[str, Any]) -> Columns:
    """A COCO dictionary as columns, nothing cleaned."""
    categories = truth["categories"]
    class_map = ClassMap(tuple(c["name"] for c in categories), tuple(c["id"] for c in categories))
    ids = [image["id"] for image in truth["images"]]
    rows = sorted(truth["annotations"], key=lambda a: ids.index(a["image_id"]))
    boxes = np.array([a["bbox"] for a in rows], np.float64).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    counts = [sum(a["image_id"] == i for a in rows) for i in ids]
    return Columns(
        image_ids=ids,
        sizes=np.array([[i["height"], i["width"]] for i in truth["images"]]).reshape(-1, 2),
        offsets=np.cumsum([0, *counts]),
        boxes_xyxy=boxes,
        labels=np.array([class_map.index_of_id[a["category_id"]] for a in rows], np.int64),
        iscrowd=np.array([a.get("iscrowd", 0) for a in rows], bool),
        area=np.array([a["area"] for a in rows], np.float64),
        class_map=class_map,
    )


def detections(
    class_map: ClassMap, image_id: Any, boxes: Any, scores: Any, labels: Any
) -> Detections:
    """Detections of one image from lists; `boxes` are xyxy."""
    return Detections(
        np.asarray(boxes, np.float32).reshape(-1, 4),
        np.asarray(scores, np.float32),
        np.asarray(labels, np.int64),
        class_map,
        image_id=image_id,
    )


def detections_from_results(columns: Columns, results: list[dict[str, Any]]) -> list[Detections]:
    """COCO result entries as one `Detections` per image of the data set."""
    found = []
    for image_id in columns.image_ids:
        rows = [r for r in results if r["image_id"] == image_id]
        boxes = np.array([r["bbox"] for r in rows], np.float64).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        labels = [columns.class_map.index_of_id[r["category_id"]] for r in rows]
        item = detections(columns.class_map, image_id, [], [], [])
        item.boxes_xyxy, item.labels = boxes, np.array(labels, np.int64)  # type: ignore[assignment]
        item.scores = np.array([r["score"] for r in rows])
        found.append(item)
    return found


def load(path: Path) -> Any:
    """A JSON file."""
    return json.loads(path.read_text(encoding="utf-8"))
