"""The `annotations` of a COCO file as columns."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from operator import attrgetter
from typing import Any

import numpy as np
import numpy.typing as npt

from detrkit.data.builder import Boxes
from detrkit.data.coco_entries import Annotation, id_of, number_of
from detrkit.data.faults import FaultKind, FaultReport
from detrkit.data.ids import IdColumn, as_column
from detrkit.data.strings import PackedStrings
from detrkit.errors import did_you_mean
from detrkit.structures import ClassMap

_KEYS = ("id", "image_id", "category_id", "bbox", "area", "iscrowd", "segmentation")
_NEEDED = ("image_id", "category_id", "bbox")

#: Annotations with larger ids are numbered anew, like those with text for an id.
_LARGEST = 1 << 62


@dataclass
class _Portion:
    """Some thousand boxes before it is known which images and classes there are.

    Attributes:
        boxes_xywh: (R, 4) float64, as written.
        area: (R,) float64; NaN where there is none.
        iscrowd: (R,) bool.
        ids: (R,) int64, annotation ids.
        has_id: (R,) bool, whether there is one; None for all.
        where: names the annotations, for messages; None where ids do.
    """

    boxes_xywh: npt.NDArray[np.float64]
    area: npt.NDArray[np.float64]
    iscrowd: npt.NDArray[np.bool_]
    ids: npt.NDArray[np.int64]
    has_id: npt.NDArray[np.bool_] | None
    where: PackedStrings | None


class CocoBoxes:
    """Collects annotations; which image and class they mean is settled at the end.

    Args:
        file: the annotation file, for messages.
        faults: report to add to.
    """

    def __init__(self, file: str, faults: FaultReport) -> None:
        self.file = file
        self.faults = faults
        self._images = IdColumn()
        self._categories = IdColumn()
        self._portions: list[_Portion] = []
        self._position = 0  # entries so far

    def add(self, typed: list[Annotation] | None, plain: list[Any] | None) -> None:
        """Adds entries of `annotations`: ordinary ones, or any."""
        entries, positions = typed, None
        if entries is None:
            entries, positions = self._understood(plain or [])
        if entries:
            self._images.extend([e.image_id for e in entries])
            self._categories.extend([e.category_id for e in entries])
            self._portions.append(self._portion(entries, positions))
        self._position += len(typed or plain or [])

    def _portion(self, entries: Sequence[Annotation], positions: Sequence[int] | None) -> _Portion:
        count = len(entries)
        corners = chain.from_iterable(map(attrgetter("bbox"), entries))
        ids = [e.id for e in entries]
        column, has_id, where = as_column(ids), None, None
        if column is None or max(column.max(), -column.min()) > _LARGEST:
            has_id = np.array([isinstance(i, int) and abs(i) <= _LARGEST for i in ids], bool)
            column = np.array(
                [i if has else 0 for i, has in zip(ids, has_id.tolist(), strict=True)], np.int64
            )
            places = positions or range(self._position, self._position + count)
            where = PackedStrings.pack(map(annotation_place, ids, places))
        area = [np.nan if e.area is None else e.area for e in entries]
        return _Portion(
            np.fromiter(corners, np.float64, 4 * count).reshape(-1, 4),
            np.array(area, np.float64),
            np.array([bool(e.iscrowd) for e in entries], bool),
            column,
            has_id,
            where,
        )

    def _understood(self, entries: list[Any]) -> tuple[list[Annotation], list[int]]:
        """Entries of any content with their positions, without those that make no sense."""
        found: list[Annotation] = []
        positions: list[int] = []
        for position, entry in enumerate(entries, self._position):
            try:
                found.append(as_annotation(entry))
                positions.append(position)
            except WrongEntry as wrong:
                where = f"annotations[{position}]"
                if isinstance(entry, Mapping):
                    where = annotation_place(id_of(entry.get("id")), position)
                self.faults.add(wrong.kind, self.file, where, wrong.detail)
        return found, positions

    def resolved(
        self,
        numbers: Mapping[int | str, int],
        found: ClassMap,
        matches: Mapping[int, int],
    ) -> Iterator[Boxes]:
        """The boxes of known images and wanted classes, and reports of the others.

        Args:
            numbers: {image id: number in the builder}.
            found: the classes of the file.
            matches: {index in `found`: index of the wanted class}.
        """
        self._images.finish()
        self._categories.finish()
        images = self._images.find(numbers)
        classes = self._categories.find(found.index_of_id)
        labels = np.full(len(found) + 1, -1, np.int64)  # the last stands for unknown classes
        labels[list(matches)] = list(matches.values())
        start = 0
        left_out = np.zeros(len(found), np.int64)
        self._portions.reverse()
        while self._portions:  # each is let go before the next
            portion = self._portions.pop()
            rows = slice(start, start + len(portion.area))
            boxes = self._boxes(portion, images[rows], labels[classes[rows]])
            lost = boxes.images < 0
            self._report(FaultKind.UNKNOWN_IMAGE, lost, boxes, "image", self._images, start)
            unknown = ~lost & (classes[rows] < 0)
            self._report(
                FaultKind.UNKNOWN_CLASS, unknown, boxes, "category", self._categories, start
            )
            unwanted = ~lost & ~unknown & (boxes.labels < 0)
            left_out += np.bincount(classes[rows][unwanted], minlength=len(found))
            yield boxes.select(~(lost | unknown | unwanted))
            start = rows.stop
        for index in np.flatnonzero(left_out).tolist():
            self.faults.add(
                FaultKind.UNKNOWN_CLASS,
                self.file,
                f"class `{found.names[index]}`",
                f"{left_out[index]} boxes; not in the model",
                count=int(left_out[index]),
            )

    @staticmethod
    def _boxes(
        portion: _Portion, images: npt.NDArray[np.int64], labels: npt.NDArray[np.int64]
    ) -> Boxes:
        corners = portion.boxes_xywh
        with np.errstate(over="ignore", invalid="ignore"):  # not finite: reported later
            corners[:, 2:] += corners[:, :2]
        return Boxes(
            images,
            corners,
            labels,
            portion.iscrowd,
            portion.area,
            portion.ids,
            portion.has_id,
            portion.where,
        )

    def _report(
        self,
        kind: FaultKind,
        cases: npt.NDArray[np.bool_],
        boxes: Boxes,
        what: str,
        ids: IdColumn,
        start: int,
    ) -> None:
        self.faults.add_all(
            kind,
            np.flatnonzero(cases).tolist(),
            lambda row: (self.file, boxes.place(row), f"{what} {ids[start + row]}", ""),
        )


class WrongEntry(Exception):
    """An entry that makes no sense."""

    def __init__(self, kind: FaultKind, detail: str) -> None:
        super().__init__(detail)
        self.kind = kind
        self.detail = detail


def as_annotation(entry: Any) -> Annotation:
    """An entry of any content as an ordinary one.

    Raises:
        WrongEntry: it makes no sense.
    """
    if not isinstance(entry, Mapping):
        raise WrongEntry(FaultKind.WRONG_TYPE, "not an object")
    missing = [k for k in _NEEDED if k not in entry]
    if missing:
        unknown = [k for k in entry if k not in _KEYS]
        near = [f"`{k}`{did_you_mean(k, missing)}" for k in unknown if did_you_mean(k, missing)]
        detail = f"unknown key {near[0]}" if near else f"key `{missing[0]}` is missing"
        raise WrongEntry(FaultKind.UNKNOWN_KEY, detail)
    image_id, category = id_of(entry["image_id"]), id_of(entry["category_id"])
    if image_id is None or category is None:
        raise WrongEntry(FaultKind.WRONG_TYPE, "`image_id` or `category_id`")
    box = entry["bbox"]
    values = [number_of(v) for v in box] if isinstance(box, list) and len(box) == 4 else [None]
    x, y, w, h = values if len(values) == 4 else (None,) * 4
    if x is None or y is None or w is None or h is None:
        raise WrongEntry(FaultKind.WRONG_TYPE, f"`bbox` is {box!r}")
    crowd = entry.get("iscrowd", 0)
    number = number_of(crowd)
    return Annotation(
        image_id,
        category,
        (x, y, w, h),
        id_of(entry.get("id")),
        number_of(entry.get("area")),
        bool(crowd if number is None else number),
    )


def annotation_place(annotation_id: int | str | None, position: int) -> str:
    """Names an annotation in messages."""
    if annotation_id is None:
        return f"annotation number {position}"
    return f"annotation {annotation_id}"
