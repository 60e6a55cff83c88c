"""COCO JSON as documents: every key is kept, and nothing but the images is held in memory."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from detrkit.convert.document import LEFT_OUT, NO_ID, CocoDocument, Columns
from detrkit.data.coco import named_categories, not_a_list
from detrkit.data.coco_boxes import WrongEntry, annotation_place, as_annotation
from detrkit.data.coco_entries import ANNOTATIONS, Annotation, id_of, number_of
from detrkit.data.faults import FaultKind, FaultReport
from detrkit.data.files import ImageFinder
from detrkit.data.ids import as_column, fits
from detrkit.data.json_stream import JsonStream, NotUtf8
from detrkit.data.text import read_json

_OBJECTS = msgspec.json.Decoder(list[dict[str, Any]])
_LISTS = ("images", "annotations", "categories")


@dataclass(frozen=True)
class CocoAnnotations:
    """The annotation entries of a file, read at each iteration.

    Attributes:
        path: the file.
        ordinary: all entries are objects with numbers in `bbox`; otherwise coordinates that are
            written as text become numbers, and an entry that is no object an empty one.
    """

    path: Path
    ordinary: bool

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for part in _entries(self.path, _OBJECTS):
            yield from part if self.ordinary else map(_with_numbers, part)


def _entries(path: Path, decoder: msgspec.json.Decoder[list[Any]]) -> Iterator[list[Any]]:
    """The entries of `annotations`, some thousands at once: as the decoder makes them, or plain."""
    read = 0
    try:
        with JsonStream(path) as stream:
            for key in stream:
                if key == "annotations":
                    for part in stream.elements(decoder):
                        found = part.typed if part.typed is not None else part.plain or []
                        yield found
                        read += len(found)
    except NotUtf8:
        yield read_json(path)["annotations"][read:]


def read_document(path: Path, images: Path | None = None, *, look: bool = True) -> CocoDocument:
    """A COCO file; what cannot be assigned to an image and a category is left out and counted.

    Boxes are kept as they are, empty ones and those outside their image too: readers have their
    rules for them.

    Args:
        path: the JSON file.
        images: folder of the images; None looks in the usual places around `path`.
        look: False believes the file names, which are then below `images`, and looks at no image.

    Raises:
        DataError: the file is missing, not JSON or not COCO.
    """
    content = _content(path)
    names = named_categories(path, content["categories"])
    faults = FaultReport()
    entries = _images(path, content.pop("images"), faults)
    first = {id_of(entry["id"]): entry for entry in reversed(content.pop("categories"))}
    categories = [first[key] | {"id": key, "name": name} for key, name in names.items()]
    if look:
        files = _files(path, entries, ImageFinder.around(path, images), faults)
    else:
        files = [(images or path.parent) / entry["file_name"] for entry in entries]
    assignment = _Assignment(path, entries, categories, faults)
    columns = assignment.columns()
    annotations = CocoAnnotations(path, assignment.ordinary)
    return CocoDocument(
        str(path), entries, files, categories, annotations, *columns, content, faults
    )


def _content(path: Path) -> dict[str, Any]:
    """The members of the file without the annotations, of which it only is sure that they exist."""
    content: dict[str, Any] = {}
    keys: list[str] = []
    try:
        with JsonStream(path) as stream:
            for key in stream:
                keys.append(key)
                if key in _LISTS and not stream.is_list():
                    raise not_a_list(path, key, keys)
                if key != "annotations":
                    content[key] = _list(stream) if key == "images" else stream.value()
    except NotUtf8:
        whole = read_json(path)
        if not isinstance(whole, Mapping):
            FaultReport().add(FaultKind.BAD_STRUCTURE, path, "", "expected a JSON object")
        keys = list(whole)
        for key in _LISTS:
            if key in whole and not isinstance(whole[key], list):
                raise not_a_list(path, key, keys) from None
        content = {key: value for key, value in whole.items() if key != "annotations"}
    for key in _LISTS:
        if key not in keys:
            raise not_a_list(path, key, keys)
    return content


def _list(stream: JsonStream) -> list[Any]:
    found: list[Any] = []
    for part in stream.elements(_OBJECTS):
        found += part.typed if part.typed is not None else part.plain or []
    return found


def _images(path: Path, content: list[Any], faults: FaultReport) -> list[dict[str, Any]]:
    """The usable entries, each id once."""
    found: dict[int | str, dict[str, Any]] = {}
    for position, entry in enumerate(content):
        place = f"images[{position}]"
        if not isinstance(entry, Mapping) or not isinstance(entry.get("file_name"), str):
            faults.add(FaultKind.WRONG_TYPE, path, place, "needs `id` and `file_name`")
            continue
        image_id = id_of(entry.get("id"))
        if image_id is None:
            faults.add(FaultKind.WRONG_TYPE, path, place, f"`id` is {entry.get('id')!r}")
            continue
        if image_id in found:
            first, second = found[image_id]["file_name"], entry["file_name"]
            faults.add(
                FaultKind.DUPLICATE_IMAGE_ID if first == second else FaultKind.AMBIGUOUS_IMAGE_ID,
                path,
                f"image {image_id}",
                f"{first} and {second}",
                hint="give every image its own id: boxes cannot be told apart otherwise",
            )
            continue
        found[image_id] = dict(entry) | {"id": image_id}
    return list(found.values())


def _files(
    path: Path, images: list[dict[str, Any]], finder: ImageFinder, faults: FaultReport
) -> list[Path]:
    files = []
    for entry in images:
        file, repaired = finder.find(entry["file_name"])
        if repaired:
            faults.add(FaultKind.REPAIRED_PATH, path, f"image {entry['id']}", file)
        files.append(Path(file))
    return files


class _Assignment:
    """Finds out which image and category each annotation belongs to."""

    def __init__(
        self,
        path: Path,
        images: list[dict[str, Any]],
        categories: list[dict[str, Any]],
        faults: FaultReport,
    ) -> None:
        self.path = path
        self.faults = faults
        self.rows: dict[int | str, int] = {e["id"]: row for row, e in enumerate(images)}
        self.labels: dict[int | str, int] = {e["id"]: row for row, e in enumerate(categories)}
        self.ordinary = True  # as `CocoAnnotations` means it
        self._text_rows: dict[str, int] | None = None
        self._columns = Columns()
        self._position = 0

    def columns(
        self,
    ) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int32], npt.NDArray[np.int64]]:
        """Owners, labels and ids of all entries."""
        for part in _entries(self.path, ANNOTATIONS):
            if not self._add_clean(part):
                self._add(part)
            self._position += len(part)
        owners, labels, ids = self._columns.arrays()
        numbers, counts = np.unique(ids[ids != NO_ID], return_counts=True)
        repeated = counts > 1
        for number, count in zip(numbers[repeated], counts[repeated], strict=True):
            self.faults.add(
                FaultKind.DUPLICATE_ANNOTATION_ID,
                self.path,
                f"annotation {number}",
                f"{count} times",
                count=int(count) - 1,
            )
        return owners, labels, ids

    def _add_clean(self, entries: list[Any]) -> bool:
        """Adds entries if none of them needs a closer look."""
        if not entries or not isinstance(entries[0], Annotation):
            return False
        rows = [self.rows.get(entry.image_id, LEFT_OUT) for entry in entries]
        labels = [self.labels.get(entry.category_id, LEFT_OUT) for entry in entries]
        ids = as_column([entry.id for entry in entries])
        if LEFT_OUT in rows or LEFT_OUT in labels or ids is None:
            return False
        if not math.isfinite(sum(chain.from_iterable(entry.bbox for entry in entries))):
            return False
        self._columns.extend(np.column_stack([rows, labels, ids]))
        return True

    def _add(self, entries: list[Any]) -> None:
        for position, entry in enumerate(entries, self._position):
            if not isinstance(entry, Annotation) and _with_numbers(entry) is not entry:
                self.ordinary = False
            try:
                self._columns.add(*self._assigned(entry))
            except WrongEntry as wrong:
                self._columns.leave_out()
                where = f"annotations[{position}]"
                if isinstance(entry, Annotation):
                    where = annotation_place(entry.id, position)
                elif isinstance(entry, Mapping):
                    where = annotation_place(id_of(entry.get("id")), position)
                self.faults.add(wrong.kind, self.path, where, wrong.detail)

    def _assigned(self, entry: Any) -> tuple[int, int, int]:
        """Row of the image, row of the category, id.

        Raises:
            WrongEntry: there is no such image or category, or the entry makes no sense.
        """
        if not isinstance(entry, Annotation):
            entry = as_annotation(entry)
        row = self.rows.get(entry.image_id)
        if row is None:
            row = self._row_by_text(entry.image_id)
        label = self.labels.get(entry.category_id)
        if label is None:
            raise WrongEntry(FaultKind.UNKNOWN_CLASS, f"category {entry.category_id}")
        if not all(map(math.isfinite, entry.bbox)):
            raise WrongEntry(FaultKind.NOT_FINITE, f"`bbox` is {list(entry.bbox)}")
        return row, label, entry.id if fits(entry.id) and entry.id != NO_ID else NO_ID

    def _row_by_text(self, image_id: int | str) -> int:
        """Files that write ids here as numbers and there as text."""
        if self._text_rows is None:
            self._text_rows = {str(key): row for key, row in self.rows.items()}
        row = self._text_rows.get(str(image_id))
        if row is None:
            raise WrongEntry(FaultKind.UNKNOWN_IMAGE, f"image {image_id}")
        return row


def _with_numbers(entry: Any) -> dict[str, Any]:
    if not isinstance(entry, dict):
        return {}
    box = entry.get("bbox")
    if isinstance(box, list) and any(isinstance(v, str) for v in box):
        numbers = [number_of(v) for v in box]
        if None not in numbers:
            return entry | {"bbox": numbers}
    return entry
