"""The labels that a detector doubts, as a COCO file to be corrected in an annotation tool.

The file has the images in which detector and labels disagree, the greatest doubt first, with all
their boxes. What is suspicious about a box stands in its `attributes`, which CVAT, Datumaro and
FiftyOne read and other tools pass over:

    review       "missing_label": a box that the detector added, of a thing that has no label;
                 "wrong_class": a label that it takes for `suggested`;
                 "unsupported": a label where it sees nothing; "": not suspicious
    doubt        0–1, the score of `worst`, by which all are ranked
    confidence   of the detector, where a detection is behind it

Added boxes also have `score`. A reviewer deletes those that are wrong, corrects the rest, and has
corrected labels. Nothing else is changed; masks and key points are not carried over.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from detrkit.data.coco_writer import write_coco
from detrkit.data.index import DatasetIndex
from detrkit.metrics.report import EvaluationReport
from detrkit.metrics.worst import LABEL_ERRORS, Kind

#: Doubt from which a disagreement is worth a reviewer's time.
CONFIDENT = 0.3


@dataclass(frozen=True, slots=True)
class Review:
    """What a review file holds.

    Attributes:
        images: how many have a suspicious label.
        counts: {kind: cases}.
    """

    images: int
    counts: dict[str, int]


@dataclass(frozen=True, slots=True)
class _Doubt:
    """One case; `detection` and `box` are rows, -1: there is none."""

    kind: Kind
    score: float
    image: int
    detection: int
    box: int


def write_review(
    path: Path, report: EvaluationReport, index: DatasetIndex, least: float = CONFIDENT
) -> Review:
    """Writes the file, complete or not at all.

    Args:
        path: of the file.
        report: of the detections on the data set.
        index: the data set.
        least: doubt.

    Raises:
        DetrkitError: it cannot be written.
    """
    doubts = sorted(_doubts(report, least), key=lambda doubt: -doubt.score)
    images = list(dict.fromkeys(doubt.image for doubt in doubts))
    ids = _whole_numbers(report.matches.truth.image_ids)
    write_coco(
        path,
        more={
            "info": {
                "description": "Labels to be reviewed: see `attributes.review` of the annotations",
                "image_folder": _folder(index),
            }
        },
        categories=_categories(index),
        images=_images(report, index, images, ids),
        annotations=_annotations(report, index, doubts, images, ids),
    )
    counts = {kind.value: sum(doubt.kind is kind for doubt in doubts) for kind in LABEL_ERRORS}
    return Review(len(images), counts)


def _doubts(report: EvaluationReport, least: float) -> Iterator[_Doubt]:
    for kind in LABEL_ERRORS:
        cases = report.worst[kind]
        columns = (cases.scores, cases.images, cases.detections, cases.boxes)
        for row in zip(*(column.tolist() for column in columns), strict=True):
            if row[0] >= least:
                yield _Doubt(kind, *row)


def _categories(index: DatasetIndex) -> Iterator[dict[str, Any]]:
    ids = _whole_numbers(index.class_map.category_ids)
    for id_, name in zip(ids, index.class_map.names, strict=True):
        yield {"id": id_, "name": name}


def _images(
    report: EvaluationReport, index: DatasetIndex, images: list[int], ids: list[int]
) -> Iterator[dict[str, Any]]:
    truth, folder = report.matches.truth, _folder(index)
    for image in images:
        position = int(truth.positions[image])
        h, w = index.size(position)
        name = str(index.paths[position])
        if folder:
            name = Path(os.path.relpath(name, folder)).as_posix()
        yield {"id": ids[image], "file_name": name, "height": h, "width": w}


def _annotations(
    report: EvaluationReport,
    index: DatasetIndex,
    doubts: list[_Doubt],
    images: list[int],
    ids: list[int],
) -> Iterator[dict[str, Any]]:
    """All labels of the images, then the boxes that were added."""
    truth, found = report.matches.truth, report.predictions
    categories, names = _whole_numbers(index.class_map.category_ids), index.class_map.names
    doubt_of_box = {doubt.box: doubt for doubt in reversed(doubts) if doubt.box >= 0}
    wanted = set(images)
    for box, image in enumerate(truth.images.tolist()):
        if image not in wanted:
            continue
        doubt = doubt_of_box.get(box)
        attributes: dict[str, Any] = {"review": ""}
        if doubt is not None:
            attributes = {"review": doubt.kind.value, "doubt": round(doubt.score, 4)}
            if doubt.detection >= 0:
                attributes["suggested"] = names[found.labels[doubt.detection]]
                attributes["confidence"] = round(float(found.scores[doubt.detection]), 4)
        yield {
            "id": int(index.annotation_ids[truth.rows[box]]),
            "image_id": ids[image],
            "category_id": categories[truth.labels[box]],
            "bbox": truth.boxes_xywh[box].tolist(),
            "area": float(truth.area[box]),
            "iscrowd": int(truth.iscrowd[box]),
            "attributes": attributes,
        }
    new = int(index.annotation_ids.max(initial=0)) + 1
    added = [doubt for doubt in doubts if doubt.box < 0]
    for number, doubt in enumerate(added, start=new):
        score = round(float(found.scores[doubt.detection]), 4)
        x, y, w, h = found.boxes_xywh[doubt.detection].round(2).tolist()
        yield {
            "id": number,
            "image_id": ids[doubt.image],
            "category_id": categories[found.labels[doubt.detection]],
            "bbox": [x, y, w, h],
            "area": round(w * h, 2),
            "iscrowd": 0,
            "score": score,
            "attributes": {
                "review": doubt.kind.value,
                "doubt": round(doubt.score, 4),
                "confidence": score,
            },
        }


def _whole_numbers(ids: tuple[int | str, ...]) -> list[int]:
    """The ids where they are numbers, else 1, 2, …: COCO's tools know no others."""
    if all(isinstance(id_, int) for id_ in ids):
        return [int(id_) for id_ in ids]
    return list(range(1, len(ids) + 1))


def _folder(index: DatasetIndex) -> str:
    """The folder that holds all images, which their names are relative to; empty without one."""
    try:
        return os.path.commonpath({os.path.dirname(str(path)) for path in index.paths})
    except ValueError:  # on several drives
        return ""
