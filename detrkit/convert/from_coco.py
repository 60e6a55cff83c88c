"""COCO JSON as documents: every key is kept, and nothing but the images is held in memory."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from detrkit.convert.document import NO_ID, CocoDocument, Columns, are_finite
from detrkit.data.coco import read_categories
from detrkit.data.faults import FaultKind, FaultReport
from detrkit.data.files import ImageFinder
from detrkit.data.json_stream import JsonFile, StreamedList
from detrkit.errors import did_you_mean

_NEEDED = ("image_id", "category_id", "bbox")


@dataclass(frozen=True)
class CocoAnnotations:
    """The annotation entries of a file; numbers written as text are read as numbers."""

    file: JsonFile

    def __iter__(self) -> Iterator[Any]:
        for entry in self.file.entries("annotations"):
            if isinstance(entry, dict) and isinstance(entry.get("bbox"), list):
                box = entry["bbox"]
                if any(isinstance(v, str) for v in box):
                    numbers = [_number(v) for v in box]
                    entry["bbox"] = box if None in numbers else numbers
            yield entry


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
    file = JsonFile(path)
    content = file.members(skip=("annotations",))
    faults = FaultReport()
    for key, kind in (("images", list), ("annotations", StreamedList), ("categories", list)):
        if not isinstance(content.get(key), kind):
            near = did_you_mean(key, list(content))
            detail = f"`{key}` must be a list" if key in content else f"`{key}` is missing{near}"
            hint = "a COCO file has the lists `images`, `annotations` and `categories`"
            faults.add(FaultKind.BAD_STRUCTURE, path, "", detail, hint)
    categories = _categories(path, content)
    entries = _images(path, content.pop("images"), faults)
    if look:
        files = _files(path, entries, ImageFinder.around(path, images), faults)
    else:
        files = [(images or path.parent) / entry["file_name"] for entry in entries]
    annotations = CocoAnnotations(file)
    columns = _columns(path, annotations, entries, categories, faults)
    del content["annotations"], content["categories"]
    return CocoDocument(
        str(path), entries, files, categories, annotations, *columns, content, faults
    )


def _categories(path: Path, content: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The entries, each id once, each with a name."""
    names = read_categories(path, content)
    first = {entry["id"]: dict(entry) for entry in reversed(content["categories"])}
    return [first[category] | {"name": name} for category, name in names.items()]


def _images(path: Path, content: list[Any], faults: FaultReport) -> list[dict[str, Any]]:
    """The usable entries, each id once."""
    found: dict[int | str, dict[str, Any]] = {}
    for position, entry in enumerate(content):
        place = f"images[{position}]"
        if not isinstance(entry, Mapping) or not isinstance(entry.get("file_name"), str):
            faults.add(FaultKind.WRONG_TYPE, path, place, "needs `id` and `file_name`")
            continue
        image_id = entry.get("id")
        if not isinstance(image_id, int | str) or isinstance(image_id, bool):
            faults.add(FaultKind.WRONG_TYPE, path, place, f"`id` is {image_id!r}")
            continue
        if image_id in found:
            names = found[image_id]["file_name"], entry["file_name"]
            kind = FaultKind.DUPLICATE_IMAGE_ID
            if names[0] != names[1]:
                kind = FaultKind.AMBIGUOUS_IMAGE_ID
            hint = "give every image its own id: boxes cannot be told apart otherwise"
            faults.add(kind, path, f"image {image_id}", "{} and {}".format(*names), hint)
            continue
        # entries come from single reads, which do not share their keys
        found[image_id] = {sys.intern(key): value for key, value in entry.items()}
    return list(found.values())


def _files(
    path: Path, images: list[dict[str, Any]], finder: ImageFinder, faults: FaultReport
) -> list[Path]:
    files = []
    for entry in images:
        file, repaired = finder.find(entry["file_name"])
        if repaired:
            faults.add(FaultKind.REPAIRED_PATH, path, f"image {entry['id']}", f"{file}")
        files.append(file)
    return files


def _columns(
    path: Path,
    annotations: CocoAnnotations,
    images: list[dict[str, Any]],
    categories: list[dict[str, Any]],
    faults: FaultReport,
) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int32], npt.NDArray[np.int64]]:
    rows = {image["id"]: row for row, image in enumerate(images)}
    text_rows = {str(image_id): row for image_id, row in rows.items()}
    labels = {category["id"]: label for label, category in enumerate(categories)}
    columns = Columns()
    for position, entry in enumerate(annotations):
        if not isinstance(entry, Mapping):
            faults.add(FaultKind.WRONG_TYPE, path, f"annotations[{position}]", "not an object")
            columns.leave_out()
            continue
        number = entry.get("id")
        where = f"annotation {entry.get('id', f'number {position}')}"
        problem = _problem(entry, rows, text_rows, labels)
        if problem is not None:
            faults.add(problem[0], path, where, problem[1])
            columns.leave_out()
            continue
        if not isinstance(number, int) or abs(number) >= 1 << 62:
            number = NO_ID
        image_id = entry["image_id"]
        row = rows[image_id] if image_id in rows else text_rows[str(image_id)]
        columns.add(row, labels[entry["category_id"]], number)
    owners, row_labels, ids = columns.arrays()
    numbers, counts = np.unique(ids[ids != NO_ID], return_counts=True)
    for number, count in zip(numbers[counts > 1], counts[counts > 1], strict=True):
        detail = f"{count} times"
        faults.add(FaultKind.DUPLICATE_ANNOTATION_ID, path, f"annotation {number}", detail)
    return owners, row_labels, ids


def _problem(
    entry: Mapping[str, Any],
    rows: Mapping[int | str, int],
    text_rows: Mapping[str, int],
    labels: Mapping[int | str, int],
) -> tuple[FaultKind, str] | None:
    """Why an annotation cannot be used."""
    missing = [key for key in _NEEDED if key not in entry]
    if missing:
        near = [f"`{key}`{did_you_mean(key, missing)}" for key in entry if key not in _NEEDED]
        near = [text for text in near if "did you mean" in text]
        return FaultKind.UNKNOWN_KEY, (
            f"unknown key {near[0]}" if near else f"key `{missing[0]}` is missing"
        )
    image_id, category, box = entry["image_id"], entry["category_id"], entry["bbox"]
    if not isinstance(image_id, int | str) or not isinstance(category, int | str):
        return FaultKind.WRONG_TYPE, "`image_id` or `category_id`"
    if image_id not in rows and str(image_id) not in text_rows:
        return FaultKind.UNKNOWN_IMAGE, f"image {image_id}"
    if category not in labels:
        return FaultKind.UNKNOWN_CLASS, f"category {category}"
    if not isinstance(box, list) or len(box) != 4 or any(_number(v) is None for v in box):
        return FaultKind.WRONG_TYPE, f"`bbox` is {box!r}"
    if not are_finite(box):
        return FaultKind.NOT_FINITE, f"`bbox` is {box!r}"
    return None


def _number(value: object) -> float | None:
    """A JSON number, also when written as text; None for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        return float(value)
    except (ValueError, OverflowError):
        return None
