"""The `annotations` of a COCO file as columns."""

from __future__ import annotations

import mmap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from operator import attrgetter
from typing import Any

import numpy as np
import numpy.typing as npt

from detrkit.data.builder import Boxes
from detrkit.data.coco_entries import Annotation, id_of, number_of
from detrkit.data.faults import FaultKind, FaultReport
from detrkit.data.ids import Lookup, References, as_column, narrow
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
        images: (R,) ids of images.
        categories: (R,) ids of categories.
        boxes_xyxy: (R, 4) float32, as written.
        area: (R,) float64, as annotated, else the box's.
        iscrowd: (R,) bool.
        ids: (R,) int64, annotation ids.
        has_id: (R,) bool, whether there is one; None for all.
        where: names the annotations, for messages; None where ids do.
    """

    images: References
    categories: References
    boxes_xyxy: npt.NDArray[np.float32]
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
        self._portions: list[_Portion] = []
        self._position = 0  # entries so far

    def add(self, typed: list[Annotation] | None, plain: list[Any] | None) -> None:
        """Adds entries of `annotations`: ordinary ones, or any."""
        entries, positions = typed, None
        if entries is None:
            entries, positions = self._understood(plain or [])
        if entries:
            self._portions.append(self._portion(entries, positions))
        self._position += len(typed or plain or [])

    def _portion(self, entries: Sequence[Annotation], positions: Sequence[int] | None) -> _Portion:
        count = len(entries)
        corners = chain.from_iterable(map(attrgetter("bbox"), entries))
        boxes, area = _corners(np.fromiter(corners, np.float64, 4 * count).reshape(-1, 4))
        annotated = np.array([np.nan if e.area is None else e.area for e in entries], np.float64)
        ids = [e.id for e in entries]
        column, has_id, where = as_column(ids), None, None
        if column is None or max(int(column.max()), -int(column.min())) > _LARGEST:
            has_id = np.array([isinstance(i, int) and abs(i) <= _LARGEST for i in ids], bool)
            column = np.array(
                [i if has else 0 for i, has in zip(ids, has_id.tolist(), strict=True)], np.int64
            )
            places = positions or range(self._position, self._position + count)
            where = PackedStrings.pack(map(annotation_place, ids, places))
        images = References.of([e.image_id for e in entries])
        categories = References.of([e.category_id for e in entries])
        area = np.where(np.isfinite(annotated) & (annotated > 0), annotated, area)
        iscrowd = np.array([bool(e.iscrowd) for e in entries], bool)
        image_ids, category_ids, boxes, area, column, iscrowd = _apart(
            narrow(images.values), narrow(categories.values), boxes, area, column, iscrowd
        )
        return _Portion(
            replace(images, values=image_ids),
            replace(categories, values=category_ids),
            boxes,
            area,
            iscrowd,
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
        images: Lookup,
        found: ClassMap,
        matches: Mapping[int, int],
    ) -> Iterator[Boxes]:
        """The boxes of known images and wanted classes, and reports of the others.

        Args:
            images: knows the number of an image in the builder.
            found: the classes of the file.
            matches: {index in `found`: index of the wanted class}.
        """
        categories = Lookup(found.category_ids)
        labels = np.full(len(found) + 1, -1, np.int32)  # the last stands for unknown classes
        labels[list(matches)] = list(matches.values())
        left_out = np.zeros(len(found), np.int64)
        self._portions.reverse()
        while self._portions:  # each is let go before the next
            portion = self._portions.pop()
            classes = categories.find(portion.categories)
            boxes = Boxes(
                images.find(portion.images),
                portion.boxes_xyxy,
                labels[classes],
                portion.iscrowd,
                portion.area,
                portion.ids,
                portion.has_id,
                portion.where,
            )
            lost = boxes.images < 0
            self._report(FaultKind.UNKNOWN_IMAGE, lost, boxes, "image", portion.images)
            unknown = ~lost & (classes < 0)
            self._report(FaultKind.UNKNOWN_CLASS, unknown, boxes, "category", portion.categories)
            unwanted = ~lost & ~unknown & (boxes.labels < 0)
            left_out += np.bincount(classes[unwanted], minlength=len(found))
            yield boxes.select(~(lost | unknown | unwanted))
        for index in np.flatnonzero(left_out).tolist():
            self.faults.add(
                FaultKind.UNKNOWN_CLASS,
                self.file,
                f"class `{found.names[index]}`",
                f"{left_out[index]} boxes; not in the model",
                count=int(left_out[index]),
            )

    def _report(
        self,
        kind: FaultKind,
        cases: npt.NDArray[np.bool_],
        boxes: Boxes,
        what: str,
        ids: References,
    ) -> None:
        self.faults.add_all(
            kind,
            np.flatnonzero(cases).tolist(),
            lambda row: (self.file, boxes.place(row), f"{what} {ids[row]}", ""),
        )


def _apart(*columns: npt.NDArray[Any]) -> list[npt.NDArray[Any]]:
    """Copies of columns in pages of their own.

    Small arrays are cut from memory that Python keeps when they go; these pages are given back.
    """
    pages = mmap.mmap(-1, sum(column.nbytes for column in columns))
    copies, at = [], 0
    for column in columns:
        copy = np.frombuffer(pages, column.dtype, column.size, at).reshape(column.shape)
        copy[...] = column
        copies.append(copy)
        at += column.nbytes
    return copies


def _corners(
    boxes_xywh: npt.NDArray[np.float64],
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float64]]:
    """Corners x1, y1, x2, y2, and areas, of boxes as written."""
    with np.errstate(over="ignore", invalid="ignore"):  # not finite: reported later
        area = boxes_xywh[:, 2] * boxes_xywh[:, 3]
        boxes_xywh[:, 2:] += boxes_xywh[:, :2]
        return _far_away(boxes_xywh).astype(np.float32), area


def _far_away(corners: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Finite numbers stay finite in float32."""
    return np.where(np.isfinite(corners), corners.clip(-1e30, 1e30), corners)


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
