"""`--fix`: the data set as training sees it, written as a new COCO data set.

Clipped boxes, unique ids, the sizes that the files have, boxes of EXIF-rotated images for the
upright picture; what is skipped is left out, and so are images that cannot be decoded. Images stay
where they are and are named by paths relative to the new folder. `changes.json` beside the
annotations lists what was changed. Nothing of the original is touched.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from detrkit.data.coco_writer import write_coco
from detrkit.data.detect import open_splits
from detrkit.data.faults import FaultReport, Policy
from detrkit.data.images import read_header
from detrkit.data.index import DatasetIndex
from detrkit.engine.doctor.report import Check, ok, problem
from detrkit.engine.overheard import overheard
from detrkit.files import write_bytes
from detrkit.structures import ClassMap
from detrkit.words import count

#: Digits behind the point of coordinates: pixels.
_DIGITS = 4


@dataclass(frozen=True)
class Cleaned:
    """A copy that was written.

    Attributes:
        folder: with `annotations/` and `changes.json`.
        parts: what each file should hold.
        changes: faults that were dealt with, by kind.
    """

    folder: Path
    parts: Mapping[str, DatasetIndex]
    changes: Mapping[str, int]


def write_cleaned(
    parts: Mapping[str, DatasetIndex], broken: Mapping[str, list[int]], folder: Path
) -> Cleaned:
    """Writes a clean copy of the annotations.

    Args:
        parts: {"train": …, "val": …}, as read.
        broken: per part the numbers of images that cannot be decoded.
        folder: new and empty.

    Raises:
        DetrkitError: it cannot be written.
    """
    clean: dict[str, DatasetIndex] = {}
    listed: dict[str, Any] = {}
    for name, part in parts.items():
        keep = np.setdiff1d(np.arange(len(part)), np.asarray(broken.get(name, []), np.int64))
        clean[name] = upright(part.subset(keep))
        _write_part(clean[name], folder / "annotations" / f"instances_{name}.json", folder)
        listed[name] = {
            "source": part.source,
            "file": f"annotations/instances_{name}.json",
            "images": {"read": len(part), "written": len(clean[name])},
            "boxes": {"read": part.num_boxes, "written": clean[name].num_boxes},
            "undecodable": [part.paths[i] for i in broken.get(name, [])],
            **part.faults.to_dict(),
        }
    text = json.dumps(listed, indent=2, ensure_ascii=False) + "\n"
    write_bytes(folder / "changes.json", text.encode())
    merged = FaultReport.merge(part.faults for part in parts.values())
    return Cleaned(
        folder,
        clean,
        {k.name.lower(): n for k, n in merged.counts.items() if k.policy is not Policy.KEEP},
    )


def cleaned_check(cleaned: Cleaned) -> Check:
    """Reads the copy again: no fault, and the same images, boxes and classes."""
    with overheard():
        again = open_splits(cleaned.folder, check_images="all")
    faults = FaultReport.merge(part.faults for part in again.values())
    left = {k.name.lower(): n for k, n in faults.counts.items() if k.policy is not Policy.KEEP}
    different = [name for name, part in cleaned.parts.items() if not same(part, again.get(name))]
    written = ", ".join(
        f"{name} {count(len(part), 'image')} with {count(part.num_boxes, 'box')}"
        for name, part in cleaned.parts.items()
    )
    values = {
        "folder": str(cleaned.folder), "changes": dict(cleaned.changes), "left": left,
        "parts": {n: {"images": len(p), "boxes": p.num_boxes} for n, p in cleaned.parts.items()},
    }  # fmt: skip
    if left or different:
        return problem(
            "fix",
            f"{cleaned.folder} was written, but reads back with faults: "
            + (", ".join(f"{n} × {kind}" for kind, n in left.items()) or "other content"),
            "please report it",
            values=values,
        )
    return ok(
        "fix",
        f"{cleaned.folder}: {written}; read again without a fault. "
        "changes.json lists what was changed",
        details=(f"next: detrkit train CFG --data {cleaned.folder}",),
        values=values,
    )


def same(one: DatasetIndex, other: DatasetIndex | None) -> bool:
    """Whether two data sets have the same images, boxes and class names."""
    return (
        other is not None
        and len(one) == len(other)
        and one.class_map.names == other.class_map.names
        and bool(np.array_equal(one.sizes, other.sizes))
        and bool(np.array_equal(one.offsets, other.offsets))
        and bool(np.array_equal(one.labels, other.labels))
        and bool(np.array_equal(one.iscrowd, other.iscrowd))
        and bool(np.allclose(one.boxes_xyxy, other.boxes_xyxy, atol=2 * 10**-_DIGITS))
        and all(
            Path(a).resolve() == Path(b).resolve()
            for a, b in zip(one.paths, other.paths, strict=True)
        )
    )


def upright(part: DatasetIndex) -> DatasetIndex:
    """The same with every image turned as its EXIF orientation says, and its boxes with it."""
    stored = np.flatnonzero(~part.apply_exif)
    if not len(stored):
        return part
    sizes, boxes = part.sizes.copy(), part.boxes_xyxy.copy()
    for number in stored.tolist():
        orientation = read_header(part.paths[number]).orientation
        rows = part.boxes_of(number)
        height, width = part.size(number)
        sizes[number] = (width, height) if orientation >= 5 else (height, width)
        boxes[rows] = _turned(boxes[rows], (height, width), orientation)
    return replace(part, sizes=sizes, boxes_xyxy=boxes, apply_exif=np.ones_like(part.apply_exif))


def _turned(boxes_xyxy: np.ndarray, size: tuple[int, int], orientation: int) -> np.ndarray:
    """Boxes on stored pixels of (h, w) -> boxes on the picture as it is shown."""
    x1, y1, x2, y2 = boxes_xyxy.T
    height, width = size
    if orientation >= 5:
        x1, y1, x2, y2 = y1, x1, y2, x2
        height, width = width, height
    if orientation in (2, 3, 6, 7):
        x1, x2 = width - x2, width - x1
    if orientation in (3, 4, 7, 8):
        y1, y2 = height - y2, height - y1
    return np.stack([x1, y1, x2, y2], 1)


def _write_part(part: DatasetIndex, path: Path, folder: Path) -> None:
    image_ids = _numbers([part.image_id(i) for i in range(len(part))])
    categories = _numbers(list(part.class_map.category_ids))
    write_coco(
        path,
        images=_images(part, image_ids, folder.resolve()),
        annotations=_annotations(part, image_ids, categories),
        categories=_categories(part.class_map, categories),
        more={"info": {"description": f"cleaned by detrkit doctor, from {part.source}"}},
    )


def _numbers(ids: list[int | str]) -> list[int]:
    """The ids where they are numbers, else counted from 1: most programs want numbers."""
    numbers = [value for value in ids if isinstance(value, int)]
    return numbers if len(numbers) == len(ids) else list(range(1, len(ids) + 1))


def _images(part: DatasetIndex, ids: list[int], folder: Path) -> Iterator[dict[str, Any]]:
    for number, image_id in enumerate(ids):
        height, width = part.size(number)
        path = Path(part.paths[number]).resolve()
        try:
            name = Path(os.path.relpath(path, folder)).as_posix()
        except ValueError:  # another drive of Windows
            name = path.as_posix()
        yield {"id": image_id, "file_name": name, "height": height, "width": width}


def _annotations(
    part: DatasetIndex, ids: list[int], categories: list[int]
) -> Iterator[dict[str, Any]]:
    least = 10**-_DIGITS
    for number, image_id in enumerate(ids):
        for row in range(part.offsets[number], part.offsets[number + 1]):
            x1, y1, x2, y2 = (float(v) for v in part.boxes_xyxy[row])
            yield {
                "id": int(part.annotation_ids[row]),
                "image_id": image_id,
                "category_id": categories[int(part.labels[row])],
                "bbox": [
                    round(x1, _DIGITS),
                    round(y1, _DIGITS),
                    max(round(x2 - x1, _DIGITS), least),
                    max(round(y2 - y1, _DIGITS), least),
                ],
                "area": round(float(part.area[row]), _DIGITS),
                "iscrowd": int(part.iscrowd[row]),
            }


def _categories(class_map: ClassMap, ids: list[int]) -> Iterator[dict[str, Any]]:
    for category, name in zip(ids, class_map.names, strict=True):
        yield {"id": category, "name": name}
