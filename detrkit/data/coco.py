"""COCO JSON: `images`, `annotations` with `bbox` [x, y, w, h], `categories`.

Image, annotation and category ids may be any ints or strings, with gaps. Crowd regions are kept
for evaluation; `DetectionDataset` leaves them out of training targets.

The file is read piece by piece (`json_stream`), so that a file of millions of boxes needs memory
for its boxes and not for its text. The lists may come in any order.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from detrkit.data.builder import IndexBuilder
from detrkit.data.classes import adopt, merge_categories
from detrkit.data.coco_boxes import CocoBoxes
from detrkit.data.coco_entries import ANNOTATIONS, IMAGES, Image, id_of, number_of
from detrkit.data.faults import Fault, FaultKind, FaultReport
from detrkit.data.files import Folders, ImageFinder
from detrkit.data.ids import Lookup
from detrkit.data.image_check import CheckImages
from detrkit.data.index import DatasetIndex
from detrkit.data.index_cache import cached_index, cached_value
from detrkit.data.json_stream import JsonStream, read_either
from detrkit.data.sources import Sources
from detrkit.errors import DataError, did_you_mean
from detrkit.structures import ClassMap

_LISTS = ("images", "annotations", "categories")


def looks_like_coco(ann_file: str | Path) -> bool:
    """Whether a file has the lists of a COCO data set; no more of it is read than that takes.

    Raises:
        DataError: it is missing or, as far as it was read, not JSON.
    """

    def look(stream: JsonStream) -> bool:
        keys: set[str] = set()
        for key in stream:
            keys.add(key)
            if "images" in keys and keys & {"annotations", "categories"}:
                return True
        return False

    return read_either(ann_file, look)


def read_categories(ann_file: str | Path) -> dict[int | str, str]:
    """{category id: name} of a file.

    Raises:
        DataError: the file cannot be read, categories are missing or malformed, or two share an
            id.
    """

    def find(stream: JsonStream) -> dict[int | str, str]:
        keys: list[str] = []
        for key in stream:
            keys.append(key)
            if key == "categories":
                return named_categories(ann_file, stream.value())
        raise not_a_list(ann_file, "categories", keys)

    return read_either(ann_file, find)


def read_coco(
    ann_file: str | Path,
    img_folder: str | Path | Sequence[Path] | None = None,
    *,
    class_map: ClassMap | None = None,
    check_images: CheckImages = "auto",
    folders: Folders | None = None,
) -> DatasetIndex:
    """Reads a COCO annotation file.

    Args:
        ann_file: the JSON file.
        img_folder: folder of the images, or several to look through; None looks in the usual
            places around `ann_file`.
        class_map: classes to use, matched by name; None takes the file's, sorted by id.
        check_images: how thoroughly images are compared with their annotations (see
            `detrkit.data.image_check`).
        folders: knows which files exist.

    Raises:
        DataError: the file is missing, not JSON, not COCO, or none of its images can be found.
    """

    def read(stream: JsonStream) -> _Reader:
        reader = _Reader(ann_file, img_folder, check_images, folders)
        reader.read(stream)
        return reader

    return read_either(ann_file, read).index(class_map)


def open_coco(
    ann_file: str | Path,
    img_folder: str | Path | Sequence[Path] | None = None,
    *,
    class_map: ClassMap | None = None,
    check_images: CheckImages = "auto",
) -> DatasetIndex:
    """`read_coco`, or what it gave the last time if neither file nor folders changed since."""
    folders = [img_folder] if isinstance(img_folder, str | Path) else img_folder
    key = {
        "reader": "coco",
        "path": str(ann_file),
        "img_folder": folders and [[str(f), os.path.abspath(f)] for f in folders],
        "class_map": class_map and class_map.to_dict(),
        "check_images": check_images,
    }

    def read(sources: Sources) -> DatasetIndex:
        sources.add_file(ann_file)
        return read_coco(
            ann_file,
            img_folder,
            class_map=class_map,
            check_images=check_images,
            folders=sources.folders,
        )

    return cached_index(key, read)


def open_categories(ann_file: str | Path) -> dict[int | str, str]:
    """`read_categories`, or what it gave the last time if the file did not change since."""

    def read(sources: Sources) -> list[tuple[int | str, str]]:
        sources.add_file(ann_file)
        return list(read_categories(ann_file).items())

    return dict(cached_value({"reader": "coco categories", "path": str(ann_file)}, read))


class _Reader:
    """Collects the lists of one file; parameters as of `read_coco`."""

    def __init__(
        self,
        ann_file: str | Path,
        img_folder: str | Path | Sequence[Path] | None,
        check_images: CheckImages,
        folders: Folders | None,
    ) -> None:
        self.file = str(ann_file)
        self.finder = ImageFinder.around(ann_file, img_folder, folders)
        self.builder = IndexBuilder(
            self.file, check_images=check_images, folders=self.finder.folders
        )
        self.faults = self.builder.faults
        self.boxes = CocoBoxes(self.file, self.faults)
        self.categories: dict[int | str, str] = {}
        self.names: dict[int | str, str] = {}  # of the files, by image id
        self.positions = 0  # entries of `images` so far
        self.keys: list[str] = []

    def read(self, stream: JsonStream) -> None:
        """Takes all lists of the file."""
        for key in stream:
            if key in _LISTS:
                if key in self.keys:
                    detail = f"`{key}` stands there twice"
                    self.faults.add(FaultKind.BAD_STRUCTURE, self.file, "", detail)
                if not stream.is_list():
                    raise not_a_list(self.file, key, [key])
            self.keys.append(key)
            if key == "categories":
                self.categories = _categories(self.file, stream.value())
            elif key == "images":
                for images in stream.elements(IMAGES):
                    self.add_images(images.typed, images.plain)
            elif key == "annotations":
                for boxes in stream.elements(ANNOTATIONS):
                    self.boxes.add(boxes.typed, boxes.plain)
        for key in _LISTS:
            if key not in self.keys:
                raise not_a_list(self.file, key, self.keys)

    def add_images(self, typed: list[Image] | None, plain: list[Any] | None) -> None:
        """Adds entries of `images`."""
        for entry in typed if typed is not None else self.understood(plain or []):
            self.add_image(entry.id, entry.file_name, entry.height, entry.width)
        self.positions += len(typed or plain or [])

    def understood(self, entries: list[Any]) -> Iterator[Image]:
        """Entries of any content, without those that make no sense."""
        for position, entry in enumerate(entries, self.positions):
            place = f"images[{position}]"
            if not isinstance(entry, Mapping) or not isinstance(entry.get("file_name"), str):
                detail = "needs `id` and `file_name`"
                self.faults.add(FaultKind.WRONG_TYPE, self.file, place, detail)
                continue
            image_id = id_of(entry.get("id"))
            if image_id is None:
                detail = f"`id` is {entry.get('id')!r}"
                self.faults.add(FaultKind.WRONG_TYPE, self.file, place, detail)
                continue
            h, w = number_of(entry.get("height")), number_of(entry.get("width"))
            yield Image(image_id, entry["file_name"], h, w)

    def add_image(
        self, image_id: int | str, name: str, height: float | None, width: float | None
    ) -> None:
        if image_id in self.names:
            self._twice(image_id, self.names[image_id], name)
            return
        self.names[image_id] = name
        if self.builder.check_images == "none":
            path = self.finder.guess(name)
        else:
            path, repaired = self.finder.find(name)
            if repaired:
                where = f"image {image_id}"
                self.faults.add(FaultKind.REPAIRED_PATH, self.file, where, path)
        self.builder.add_image(path, image_id, (_pixels(height), _pixels(width)))

    def _twice(self, image_id: int | str, first: str, second: str) -> None:
        self.faults.add(
            FaultKind.DUPLICATE_IMAGE_ID if first == second else FaultKind.AMBIGUOUS_IMAGE_ID,
            self.file,
            f"image {image_id}",
            f"{first} and {second}",
            hint="give every image its own id: boxes cannot be told apart otherwise",
        )

    def index(self, class_map: ClassMap | None) -> DatasetIndex:
        """Brings images, boxes and classes together."""
        if any(isinstance(i, str) for i in self.names):
            seen: dict[str, str] = {}
            for image_id, name in self.names.items():
                if seen.setdefault(str(image_id), name) is not name:  # 1 and "1"
                    self._twice(image_id, seen[str(image_id)], name)
        found = merge_categories([(self.file, _not_empty(self.file, self.categories))])
        classes, matches = adopt(class_map or found, found)
        images = Lookup(list(self.names))
        self.names.clear()
        for boxes in self.boxes.resolved(images, found, matches):
            self.builder.add_boxes(boxes)
        return self.builder.build(classes)


def _categories(ann_file: str | Path, entries: Any) -> dict[int | str, str]:
    """{category id: name} of the list `categories`."""
    report = FaultReport()
    found: dict[int | str, str] = {}
    if not isinstance(entries, list):
        raise not_a_list(ann_file, "categories", ["categories"])
    for number, entry in enumerate(entries):
        place = f"categories[{number}]"
        category = id_of(entry.get("id")) if isinstance(entry, Mapping) else None
        if category is None:
            report.add(FaultKind.BAD_STRUCTURE, ann_file, place, "needs an `id`, int or str")
            continue
        name = str(entry.get("name", category))
        if found.setdefault(category, name) != name:
            detail = f"`{found[category]}` and `{name}`"
            report.add(FaultKind.DUPLICATE_CATEGORY_ID, ann_file, f"category {category}", detail)
    return found


def named_categories(ann_file: str | Path, entries: Any) -> dict[int | str, str]:
    """{category id: name} of the list `categories`, parsed.

    Raises:
        DataError: as in `read_categories`.
    """
    return _not_empty(ann_file, _categories(ann_file, entries))


def _not_empty(ann_file: str | Path, found: dict[int | str, str]) -> dict[int | str, str]:
    if not found:
        FaultReport().add(FaultKind.BAD_STRUCTURE, ann_file, "categories", "the list is empty")
    return found


def not_a_list(file: str | Path, key: str, keys: Sequence[str]) -> DataError:
    """The error for a list that is missing, or something else."""
    detail = f"`{key}` must be a list"
    if key not in keys:
        detail = f"`{key}` is missing{did_you_mean(key, keys)}"
    return DataError(
        str(Fault(FaultKind.BAD_STRUCTURE, str(file), "", detail)),
        hint="a COCO file has the lists `images`, `annotations` and `categories`",
    )


def _pixels(value: float | None) -> int:
    """A side of an image; 0 where it is not known."""
    return int(value) if value is not None and 0 < value < 1 << 31 else 0
