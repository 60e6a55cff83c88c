"""YOLO: one text file per image, lines of `class cx cy w h` as fractions of the image.

`data.yaml` names the classes and the folders (or list files) of the splits. Lines with more
numbers are polygons, `class x1 y1 x2 y2 …`; their bounding box is used.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from detrkit.data.builder import IndexBuilder
from detrkit.data.classes import adopt
from detrkit.data.faults import FaultKind, FaultReport
from detrkit.data.files import Folders
from detrkit.data.image_check import CheckImages
from detrkit.data.index import DatasetIndex
from detrkit.data.index_cache import cached_index
from detrkit.data.sources import Sources
from detrkit.data.splits import SPLIT_NAMES
from detrkit.data.text import read_text, read_yaml
from detrkit.errors import DataError, did_you_mean
from detrkit.structures import ClassMap

#: More classes than that in `nc` are a mistake, and would need all memory for their names.
_MOST_CLASSES = 100_000


@dataclass
class YoloLayout:
    """A YOLO data set: its classes and where each split's images are.

    Attributes:
        source: `data.yaml`, or the folder where there is none.
        classes: names with their ids 0, 1, …
        images: per split, the folders and list files.
        faults: wrong paths that were repaired.
    """

    source: Path
    classes: ClassMap
    images: dict[str, list[Path]]
    faults: FaultReport = field(default_factory=FaultReport)

    @classmethod
    def from_yaml(cls, path: Path) -> YoloLayout:
        """Reads `data.yaml`.

        Raises:
            DataError: it is not YAML, has no `names`, or none of its folders can be found.
        """
        content = read_yaml(path)
        faults = FaultReport()
        if not isinstance(content, Mapping):
            faults.add(FaultKind.BAD_STRUCTURE, path, "", "expected a mapping with `names`")
        classes = declared_classes(path, content)
        images: dict[str, list[Path]] = {}
        missing = []
        for split, aliases in SPLIT_NAMES.items():
            key = next((k for k in aliases if content.get(k)), None)
            if key is None:
                continue
            values = content[key] if isinstance(content[key], list) else [content[key]]
            for value in values:
                place, repaired = _locate(path.parent, content.get("path"), str(value), split)
                if place is None:
                    missing.append((key, value))
                    continue
                if repaired:
                    faults.add(FaultKind.REPAIRED_PATH, path, f"{key}: {value}", f"{place}")
                images.setdefault(split, []).append(place)
        if not images:
            tried = "; tried " + ", ".join(f"`{k}: {v}`" for k, v in missing) if missing else ""
            raise DataError(
                f"{path}: no image folder found{tried}",
                hint="`train:` and `val:` name folders relative to the file, or to `path:`",
            )
        for key, value in missing:
            faults.add(FaultKind.MISSING_SPLIT, path, f"{key}: {value}")
        return cls(path, classes, images, faults)

    @classmethod
    def from_folder(cls, root: Path, names_file: Path) -> YoloLayout:
        """`images/`, `labels/` and a file with one class name per line."""
        names = [line.strip() for line in read_text(names_file).splitlines() if line.strip()]
        images: dict[str, list[Path]] = {}
        for split, aliases in SPLIT_NAMES.items():
            for alias in aliases:
                for place in (
                    root / "images" / alias,
                    root / alias / "images",
                    root / f"{alias}.txt",
                ):
                    if place.exists():
                        images.setdefault(split, [place])
        return cls(root, ClassMap.from_names(names), images or {"train": [root / "images"]})

    @property
    def splits(self) -> list[str]:
        """Names of the splits."""
        return list(self.images)

    def categories(self) -> ClassMap:
        """The classes of all splits."""
        return self.classes

    def read(
        self,
        split: str,
        class_map: ClassMap | None = None,
        check_images: CheckImages = "auto",
    ) -> DatasetIndex:
        """One split as an index."""
        places = self.images[split]
        key = {
            "reader": "yolo",
            "path": str(self.source),
            "images": [str(place) for place in places],
            "classes": self.classes.to_dict(),
            "class_map": class_map and class_map.to_dict(),
            "check_images": check_images,
            "faults": self.faults.to_dict(),
        }

        def read(sources: Sources) -> DatasetIndex:
            for place in places:
                if place.is_file():
                    sources.add_file(place)
            return read_yolo(
                self.image_files(split, sources.folders),
                self.classes,
                self.source,
                self.faults,
                class_map=class_map,
                check_images=check_images,
                folders=sources.folders,
            )

        return cached_index(key, read, contents=True)

    def image_files(self, split: str, folders: Folders) -> list[Path]:
        """The images of a split."""
        return [image for place in self.images[split] for image in _images_at(place, folders)]


def read_yolo(
    images: Sequence[Path],
    classes: ClassMap,
    source: Path,
    faults: FaultReport | None = None,
    *,
    class_map: ClassMap | None = None,
    check_images: CheckImages = "auto",
    folders: Folders | None = None,
) -> DatasetIndex:
    """Reads the label files of `images`.

    Args:
        images: image files; labels lie beside them, or in the same place below `labels` where
            the path says `images`.
        classes: the classes that the label files number.
        source: data.yaml or folder, for messages and for image ids, which are paths relative
            to it without their ending.
        faults: faults found so far.
        class_map: classes to use, matched by name; None takes `classes`.
        check_images: as in `read_coco`; labels are fractions, so every header is read anyway.
        folders: knows which files exist.

    Raises:
        DataError: none of the images can be read.
    """
    wanted, matches = adopt(class_map or classes, classes)
    folders = folders or Folders()
    builder = IndexBuilder(
        str(source),
        FaultReport.merge([faults] if faults else []),
        check_images=check_images,
        folders=folders,
        fractions=True,
    )
    for image in read_labels(images, source, folders, builder.faults):
        number = builder.add_image(image.path, image.image_id, file=image.labels)
        for where, line in image.lines:
            parsed = parse_line(line, image.labels, where, matches, builder.faults)
            if parsed is not None:
                box, area = parsed.box_xyxy, parsed.area
                builder.add_box(number, box, parsed.label, where=where, area=area)
    return builder.build(wanted)


@dataclass(frozen=True)
class YoloImage:
    """An image and the lines of its label file.

    Attributes:
        path: the image.
        image_id: its path relative to the data set, without the ending.
        labels: the label file; it may be missing.
        lines: pairs of the place for messages and the text.
    """

    path: Path
    image_id: str
    labels: Path
    lines: list[tuple[str, str]]


@dataclass(frozen=True)
class YoloObject:
    """One line of a label file: a box (cx, cy, w, h) or a polygon (x1, y1, x2, y2, …), 0–1."""

    label: int
    values: tuple[float, ...]

    @property
    def is_polygon(self) -> bool:
        """Whether the values are corners."""
        return len(self.values) > 4

    @property
    def box_xyxy(self) -> tuple[float, float, float, float]:
        """Corners as fractions; NaN where a corner of the polygon is not finite."""
        if self.is_polygon:
            if not all(map(math.isfinite, self.values)):  # which `min` may not notice
                return (math.nan,) * 4
            xs, ys = self.values[0::2], self.values[1::2]
            return min(xs), min(ys), max(xs), max(ys)
        cx, cy, w, h = self.values
        return cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2

    @property
    def area(self) -> float:
        """Of the polygon, as a fraction of the image; NaN for a box, which has no other area."""
        if not self.is_polygon:
            return math.nan
        xs, ys = self.values[0::2], self.values[1::2]
        corners = zip(xs, ys, xs[1:] + xs[:1], ys[1:] + ys[:1], strict=True)
        return abs(sum(x1 * y2 - x2 * y1 for x1, y1, x2, y2 in corners)) / 2


def read_labels(
    images: Sequence[Path], source: Path, folders: Folders, faults: FaultReport
) -> Iterator[YoloImage]:
    """The images and their label files.

    Args:
        images, source, folders: as in `read_yolo`.
        faults: report to add to.
    """
    root = source if source.is_dir() else source.parent
    images = list(dict.fromkeys(images))
    used: dict[Path, set[str]] = {}
    for path, image_id in zip(images, _image_ids(images, root), strict=True):
        labels = _label_file(path, folders)
        used.setdefault(labels.parent, set()).add(labels.name)
        lines: list[str] = []
        if not folders.is_file(labels):
            faults.add(FaultKind.IMAGE_WITHOUT_LABELS, path, f"image {image_id}")
        else:
            try:
                lines = read_text(labels).splitlines()
            except DataError as error:
                reason = error.message.removeprefix(f"{labels}: ")
                faults.add(FaultKind.BAD_ANNOTATION_FILE, labels, "", reason)
        places = [(f"line {row}", line) for row, line in enumerate(lines, 1) if line.strip()]
        yield YoloImage(path, image_id, labels, places)
    for folder, names in used.items():
        if "labels" in folder.parts:
            for name in sorted(folders.listing(folder).files):
                if name.endswith(".txt") and name not in names and name != "classes.txt":
                    faults.add(FaultKind.LABEL_WITHOUT_IMAGE, folder / name)


def parse_line(
    line: str, file: Path, where: str, labels: Mapping[int, int], faults: FaultReport
) -> YoloObject | None:
    """One object; None after a fault.

    Args:
        line: `class cx cy w h` or `class x1 y1 x2 y2 …`.
        file: the label file, for messages.
        where: place in it, for messages.
        labels: {class of the file: label}.
        faults: report to add to.
    """
    fields = line.split()
    try:
        category, values = float(fields[0]), tuple(float(v) for v in fields[1:])
    except ValueError:
        faults.add(FaultKind.WRONG_TYPE, file, where, f"not numbers: {line.strip()[:60]!r}")
        return None
    polygon = len(values) >= 6 and len(values) % 2 == 0
    if len(values) != 4 and not polygon:
        detail = f"{len(fields)} numbers in place of 5, or of a polygon's 7, 9, …"
        faults.add(FaultKind.WRONG_TYPE, file, where, detail)
        return None
    if category not in labels:
        faults.add(FaultKind.UNKNOWN_CLASS, file, where, f"class {fields[0]}")
        return None
    if polygon:
        faults.add(FaultKind.POLYGON, file, where, f"{len(values) // 2} corners")
    return YoloObject(labels[int(category)], values)


def declared_classes(path: Path, content: Mapping[str, Any]) -> ClassMap:
    """Classes of data.yaml: `names` as a list or as {id: name}, else `nc` of them.

    Raises:
        DataError: neither is there.
    """
    names, count = content.get("names"), content.get("nc")
    report = FaultReport()
    if isinstance(names, Mapping) and names and all(isinstance(k, int) for k in names):
        ids = sorted(names)
        return ClassMap(tuple(str(names[i]) for i in ids), tuple(ids))
    if names is None and isinstance(count, int) and count > 0:
        if count > _MOST_CLASSES:
            detail = f"`nc` is {count}, more than {_MOST_CLASSES:,} classes"
            report.add(FaultKind.BAD_STRUCTURE, path, "", detail)
        return ClassMap.from_names(f"class_{i}" for i in range(count))
    if not isinstance(names, list) or not names:
        near = did_you_mean("names", [str(k) for k in content])
        detail = "`names` must be a list" if names is not None else f"`names` is missing{near}"
        report.add(FaultKind.BAD_STRUCTURE, path, "", detail)
    assert isinstance(names, list)
    return ClassMap.from_names(str(n) for n in names)


def _locate(here: Path, base: object, value: str, split: str) -> tuple[Path | None, bool]:
    """The folder or list file that `value` means, and whether it had to be repaired."""
    value = value.replace("\\", "/")
    bases = [here]
    if isinstance(base, str) and base.strip():
        bases.insert(0, here / os.path.expanduser(base))
    for root in bases:
        if os.path.exists(root / value):  # also for what cannot be a path
            return root / value, root is not bases[0]
    parts = [p for p in value.split("/") if p not in ("", ".", "..")]
    guesses = [here.joinpath(*parts[i:]) for i in range(len(parts))]
    for alias in SPLIT_NAMES[split]:
        swapped = [alias if p in SPLIT_NAMES[split] else p for p in parts]
        guesses += [here.joinpath(*swapped), here / alias / "images", here / "images" / alias]
    found = list(dict.fromkeys(g for g in guesses if os.path.exists(g) and g != here))
    return (found[0], True) if found else (None, False)


def _images_at(place: Path, folders: Folders) -> list[Path]:
    """Images of a folder, or those that a list file names."""
    if place.is_dir():
        return list(folders.images(place))
    lines = (line.strip().replace("\\", "/") for line in read_text(place).splitlines())
    return [place.parent / line for line in lines if line]


def _label_file(image: Path, folders: Folders) -> Path:
    """`a/images/train/x.jpg` -> `a/labels/train/x.txt`; beside the image where that is missing."""
    beside = Path(_without_ending(image) + ".txt")
    parts = list(beside.parts)
    for i in range(len(parts) - 2, -1, -1):
        if parts[i].lower() == "images":
            mirrored = Path(*parts[:i], "labels", *parts[i + 1 :])
            return mirrored if folders.is_file(mirrored) or not folders.is_file(beside) else beside
    return beside


def _image_ids(images: Sequence[Path], root: Path) -> list[str]:
    """Paths relative to the data set without their ending; with it where two would be equal."""
    names = [_relative(image, root) for image in images]
    stems = [Path(_without_ending(name)).as_posix() for name in names]
    if len(set(stems)) == len(stems):
        return stems
    return [name.as_posix() for name in names]


def _relative(image: Path, root: Path) -> Path:
    try:
        return Path(os.path.relpath(image, root))
    except ValueError:  # on another drive of Windows
        return image


def _without_ending(path: Path) -> str:
    return os.path.splitext(path)[0]
