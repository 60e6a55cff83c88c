"""The errors worth looking at, as pictures with links and as tables."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cached_property
from pathlib import Path, PurePath

import numpy as np

from detrkit.data.index import DatasetIndex
from detrkit.drawing.thumbnails import Mark, Thumbnails
from detrkit.metrics import EvaluationReport
from detrkit.metrics.schema import CaseJson
from detrkit.metrics.worst import Cases, Kind
from detrkit.report import (
    Cell,
    Column,
    Html,
    Thumbnail,
    details,
    gallery,
    join,
    key,
    link,
    relative_url,
    table,
    tag,
)

#: Of each kind, cases in the table and among them such with a picture. At 200 pixels a picture
#: takes at most 30 kB, so that all of them fit into 4 MB whatever they show.
_LISTED, _PICTURES = 100, 20

#: Orange and sky blue of Okabe and Ito, which colour-blind people tell apart; fixed, as pictures
#: look the same in light and dark.
_DETECTED, _LABELLED, _OTHERS = (230, 159, 0), (86, 180, 233), (255, 255, 255)

_TITLES = {
    Kind.FALSE_POSITIVE: ("False positives", "sure, and on nothing that is annotated"),
    Kind.MISS: ("Misses", "boxes on which nothing is detected, the largest and least hinted first"),
    Kind.CONFUSION: ("Confusions", "sure of another class, on a box of this one"),
    Kind.MISSING_LABEL: (
        "Label missing?",
        "detected where nothing is annotated; first of classes that are right elsewhere",
    ),
    Kind.WRONG_CLASS: (
        "Wrong class?",
        "detected as another class; first of those that are right elsewhere",
    ),
    Kind.UNSUPPORTED: (
        "Nothing there?",
        "annotated, hardly hinted at by any detection; first where such boxes are mostly found",
    ),
}


class Gallery:
    """Cases with pictures.

    Args:
        found: by the evaluation.
        index: of the data set.
        folder: where the page will lie.
    """

    def __init__(self, found: EvaluationReport, index: DatasetIndex, folder: Path) -> None:
        self.found, self.index, self.folder = found, index, folder
        self.truth = found.matches.truth
        self._pictures = Thumbnails({"": index})

    @cached_property
    def has_pictures(self) -> bool:
        """Whether any image that is to be shown is there."""
        return any(
            Path(self.index.paths[position]).is_file() for position in self._positions.tolist()
        )

    @cached_property
    def _positions(self) -> np.ndarray:
        """Where in the index the images to be shown are."""
        cases = [cases.first(_PICTURES).images for cases in self.found.worst.values()]
        return self.truth.positions[np.unique(np.concatenate(cases))]

    @property
    def lead(self) -> str:
        """What is shown, and what cannot be."""
        words = f"At confidence {self.found.confusion.confidence:.3f}, worst first."
        if self.has_pictures or not len(self._positions):
            return words
        example = self.index.paths[int(self._positions[0])]
        return f"{words} Without pictures: the images are not where they should be, e.g. {example}."

    def of(self, kind: Kind) -> Iterable[Html]:
        """Heading, pictures and table; nothing without cases."""
        all_cases = self.found.worst[kind]
        if not len(all_cases):
            return
        cases = all_cases.first(_LISTED)
        described = cases.describe(self.truth, self.found.predictions, self.index)
        title, meaning = _TITLES[kind]
        yield tag("h3", f"{title} ({len(all_cases):,})")
        yield tag("p", f"{meaning[0].upper()}{meaning[1:]}.", class_="lead")
        if self.has_pictures:
            yield gallery(
                self._picture(cases, number, case)
                for number, case in enumerate(described[:_PICTURES])
            )
        some = "" if len(cases) == len(all_cases) else f"The first {len(cases)} of them"
        yield details(some or "All of them", self._table(described, title))

    def _picture(self, cases: Cases, number: int, case: CaseJson) -> Thumbnail:
        image = int(cases.images[number])
        position = int(self.truth.positions[image])
        marks: list[Mark] = []
        for box, color in ((case["detected_box"], _DETECTED), (case["label_box"], _LABELLED)):
            if box is not None:
                marks.append((_corners(box), color))
        others = self.index.boxes_xyxy[self.index.boxes_of(position)].tolist()
        words = _words(case)
        file = PurePath(case["file"] or "").name
        return Thumbnail(
            self._pictures.crop("", position, marks, [(box, _OTHERS) for box in others]),
            join([tag("strong", words), f" {file}"]),
            f"{words}, in {file}",
            relative_url(case["file"] or "", self.folder),
        )

    def _table(self, described: list[CaseJson], title: str) -> Html:
        columns = [
            Column("file"),
            Column("score", True, "by which they are ranked"),
            Column("annotated"),
            Column("detected"),
            Column("confidence", True),
            Column("IoU", True),
            Column("box: x, y, w, h", help="annotated; else detected"),
            Column("annotation"),
        ]
        return table(columns, [self._row(case) for case in described], caption=title)

    def _row(self, case: CaseJson) -> list[object]:
        file = case["file"] or ""
        box = case["label_box"] or case["detected_box"] or []
        return [
            Cell(link(PurePath(file).name, relative_url(file, self.folder)), PurePath(file).name),
            Cell(f"{case['score']:.3f}", case["score"]),
            case["label"] or "–",
            case["detected"] or "–",
            _optional(case["confidence"]),
            _optional(case["iou"]),
            ", ".join(f"{value:.0f}" for value in box),
            "–" if case["annotation_id"] is None else str(case["annotation_id"]),
        ]


def detector_errors(cases: Gallery) -> Iterable[Html]:
    """Of the detector."""
    parts = [cases.of(kind) for kind in (Kind.FALSE_POSITIVE, Kind.MISS, Kind.CONFUSION)]
    yield from _with_key(cases, [html for part in parts for html in part])


def label_errors(cases: Gallery) -> Iterable[Html]:
    """Perhaps of the labels."""
    parts = [cases.of(kind) for kind in (Kind.MISSING_LABEL, Kind.WRONG_CLASS, Kind.UNSUPPORTED)]
    yield from _with_key(cases, [html for part in parts for html in part])


def _with_key(cases: Gallery, content: list[Html]) -> Iterable[Html]:
    if content and cases.has_pictures:
        yield key(
            [
                (_DETECTED, "detected"),
                (_LABELLED, "annotated"),
                (_OTHERS, "thin: other annotated boxes"),
            ]
        )
    yield from content


def _words(case: CaseJson) -> str:
    """`dog 0.93`, `cat, 120 × 80 px`, `cat taken for dog 0.88`."""
    detected = f"{case['detected']} {case['confidence']:.2f}" if case["detected"] else ""
    if not case["label"]:
        return detected
    if detected:
        return f"{case['label']} taken for {detected}"
    box = case["label_box"] or [0, 0, 0, 0]
    return f"{case['label']}, {box[2]:.0f} × {box[3]:.0f} px"


def _optional(value: float | None) -> Cell:
    return Cell("–", -1.0) if value is None else Cell(f"{value:.3f}", value)


def _corners(box_xywh: list[float]) -> list[float]:
    x, y, w, h = box_xywh
    return [x, y, x + w, y + h]
