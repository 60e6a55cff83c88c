"""Pascal VOC: one XML file per image, lists of image names in `ImageSets/Main`.

Coordinates are used as written. VOC counts pixels from 1, many tools from 0; nothing in a file
says which, and the difference is one pixel.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path, PureWindowsPath
from xml.etree.ElementTree import Element

from detrkit.data.builder import IndexBuilder
from detrkit.data.classes import adopt
from detrkit.data.faults import FaultKind, FaultReport
from detrkit.data.files import Folders, ImageFinder, Listing
from detrkit.data.image_check import CheckImages
from detrkit.data.index import DatasetIndex
from detrkit.data.index_cache import cached_index, cached_value
from detrkit.data.sources import Sources
from detrkit.data.splits import split_of
from detrkit.data.text import read_text, read_xml
from detrkit.errors import DataError, did_you_mean
from detrkit.structures import ClassMap

_CLASS_FILES = ("label_list.txt", "labels.txt", "classes.txt")


@dataclass
class VocLayout:
    """A VOC data set: annotation files, image folders and lists.

    Attributes:
        root: the data set's folder.
        annotations: folder of the XML files.
        image_folders: where images may be.
        lists: {split: list file}; empty when there are no lists.
    """

    root: Path
    annotations: Path
    image_folders: list[Path]
    lists: dict[str, Path]
    _classes: ClassMap | None = field(default=None, repr=False)

    @classmethod
    def find(cls, root: Path, chosen: Mapping[str, str] | None = None) -> VocLayout | None:
        """The VOC data set at `root`, or None."""
        folders = [root / name for name in ("Annotations", "annotations", "xmls", ".")]
        annotations = next((f for f in folders if f.is_dir() and any(f.glob("*.xml"))), None)
        if annotations is None:
            return None
        names = ("JPEGImages", "images", "Images", "imgs", ".")
        images = [root / name for name in names if (root / name).is_dir()]
        available: dict[str, Path] = {}
        for folder in (root / "ImageSets" / "Main", root / "ImageSets", root):
            if folder.is_dir():
                for file in sorted(folder.glob("*.txt")):
                    available.setdefault(file.stem, file)
        lists: dict[str, Path] = {
            name: available[name] for name in ("train", "val", "test") if name in available
        }
        for name, file in available.items():
            split = split_of(name)
            if split and name.lower() in (split, "valid", "validation"):
                lists.setdefault(split, file)
        for split, name in (chosen or {}).items():
            if name not in available:
                raise DataError(
                    f"{root}: there is no list `{name}.txt` for the split `{split}`"
                    f"{did_you_mean(name, available)}",
                    hint="lists found: " + (", ".join(sorted(available)) or "none"),
                )
            lists[split] = available[name]
        if "train" not in lists and "trainval" in available:
            lists["train"] = available["trainval"]
        return cls(root, annotations, images, lists)

    @property
    def splits(self) -> list[str]:
        """Names of the splits; a set without lists is all "train"."""
        return [s for s in ("train", "val", "test") if s in self.lists] or ["train"]

    def categories(self) -> ClassMap:
        """Classes of all annotation files: from a list of labels if there is one, else sorted."""
        if self._classes is None:
            file = next((f for f in (self.root / n for n in _CLASS_FILES) if f.is_file()), None)
            if file is not None:
                names = [line.strip() for line in read_text(file).splitlines() if line.strip()]
            else:
                names = cached_value(
                    {"reader": "voc classes", "path": str(self.annotations)},
                    self._names,
                    contents=True,
                )
            if not names:
                detail = "no annotation file names a class"
                FaultReport().add(FaultKind.BAD_STRUCTURE, self.annotations, "", detail)
            self._classes = ClassMap.from_names(dict.fromkeys(names))
        return self._classes

    def annotation_files(self, split: str, folders: Folders) -> tuple[Path, list[Path]]:
        """The list file (or folder) of a split, and its annotation files, which may be missing."""
        if split not in self.lists:
            names = _xml_files(folders.listing(self.annotations))
            return self.annotations, [self.annotations / name for name in names]
        source = self.lists[split]
        listed = [self._listed(line.strip(), folders) for line in read_text(source).splitlines()]
        return source, [self._annotation_file(name, folders) for name in listed if name]

    def _listed(self, line: str, folders: Folders) -> str:
        """The name in a line `name`, or `name 1`; empty for `name -1`.

        Lists of a single class say -1 where the image lacks it. A name may have spaces.
        """
        flagged = re.fullmatch(r"(.*\S)\s+(-1|0|1)", line)
        if flagged is None or folders.is_file(self._annotation_file(line, folders)):
            return line
        return "" if flagged[2] == "-1" else flagged[1]

    def _annotation_file(self, name: str, folders: Folders) -> Path:
        """The file of an image, which lists name with or without its ending."""
        base = PureWindowsPath(name)
        whole = self.annotations / f"{base.name}.xml"
        return whole if folders.is_file(whole) else self.annotations / f"{base.stem}.xml"

    def read(
        self,
        split: str,
        class_map: ClassMap | None = None,
        check_images: CheckImages = "auto",
    ) -> DatasetIndex:
        """One split as an index."""
        classes = self.categories()
        source = self.lists.get(split, self.annotations)
        key = {
            "reader": "voc",
            "path": str(source),
            "annotations": str(self.annotations),
            "images": [str(folder) for folder in self.image_folders],
            "classes": classes.to_dict(),
            "class_map": class_map and class_map.to_dict(),
            "check_images": check_images,
        }

        def read(sources: Sources) -> DatasetIndex:
            if split in self.lists:
                sources.add_file(source)
            _, files = self.annotation_files(split, sources.folders)
            return read_voc(
                files,
                ImageFinder(self.image_folders, sources.folders),
                classes,
                source,
                class_map=class_map,
                check_images=check_images,
            )

        return cached_index(key, read, contents=True)

    def _names(self, sources: Sources) -> list[str]:
        """The names of the classes of all annotation files, sorted."""
        found: set[str] = set()
        for name in _xml_files(sources.folders.listing(self.annotations)):
            with suppress(DataError):  # reported when its image is read
                root = read_xml(self.annotations / name)
                found.update(_text(o, "name") or "" for o in root.iter("object"))
        return sorted(found - {""})


def _xml_files(listing: Listing) -> list[str]:
    return sorted(name for name in listing.files if name.endswith(".xml"))


def read_voc(
    files: Sequence[Path],
    finder: ImageFinder,
    classes: ClassMap,
    source: Path,
    *,
    images: Sequence[Path] | None = None,
    class_map: ClassMap | None = None,
    check_images: CheckImages = "auto",
) -> DatasetIndex:
    """Reads VOC annotation files; image ids are their names without ending.

    Args:
        files: XML files.
        finder: knows where images are.
        classes: the classes of the whole data set.
        source: list file or folder, for messages.
        images: the image of each file; None finds them by what the file says.
        class_map: classes to use, matched by name; None takes `classes`.
        check_images: as in `read_coco`.

    Raises:
        DataError: none of the images can be read.
    """
    wanted, matches = adopt(class_map or classes, classes)
    builder = IndexBuilder(str(source), check_images=check_images, folders=finder.folders)
    labels = {name: matches[i] for name, i in classes.index_of_name.items() if i in matches}
    for found in read_images(files, finder, source, builder.faults, images=images):
        size = None if found.root is None else annotated_size(found.root)
        number = builder.add_image(found.path, found.file.stem, size, file=found.file)
        for where, item in found.objects():
            parsed = parse_object(item, found.file, where, labels, builder.faults)
            if parsed is not None:
                label, corners = parsed
                builder.add_box(number, corners, label, where=f"{where} `{wanted.names[label]}`")
    return builder.build(wanted)


@dataclass(frozen=True)
class VocImage:
    """An image and its annotation file, of which `root` is the parsed content, if there is one."""

    path: Path
    file: Path
    root: Element | None

    def objects(self) -> Iterator[tuple[str, Element]]:
        """Pairs of the place for messages and the element."""
        items = () if self.root is None else self.root.iter("object")
        return ((f"object {number}", item) for number, item in enumerate(items, start=1))


def read_images(
    files: Sequence[Path],
    finder: ImageFinder,
    source: Path,
    faults: FaultReport,
    *,
    images: Sequence[Path] | None = None,
) -> Iterator[VocImage]:
    """The images of VOC annotation files; files that cannot be read are left out.

    Args:
        files, finder, source, images: as in `read_voc`.
        faults: report to add to.
    """
    seen: set[Path] = set()
    for place, file in enumerate(files):
        if file in seen:
            faults.add(FaultKind.DUPLICATE_IMAGE_ID, source, f"image {file.stem}")
            continue
        seen.add(file)
        if not finder.folders.is_file(file):
            image = images[place] if images else Path(finder.find(f"{file.stem}.jpg")[0])
            faults.add(FaultKind.IMAGE_WITHOUT_LABELS, image, f"image {file.stem}")
            yield VocImage(image, file, None)
            continue
        try:
            root = read_xml(file)
        except DataError as error:
            reason = error.message.removeprefix(f"{file}: ")
            faults.add(FaultKind.BAD_ANNOTATION_FILE, file, f"image {file.stem}", reason)
            continue
        image = images[place] if images else _image_of(file, root, finder, faults)
        yield VocImage(image, file, root)


def parse_object(
    item: Element, file: Path, where: str, labels: Mapping[str, int], faults: FaultReport
) -> tuple[int, tuple[float, float, float, float]] | None:
    """The label and the corners (x1, y1, x2, y2) of an `<object>`; None after a fault.

    Args:
        item: the element.
        file: annotation file, for messages.
        where: place in it, for messages.
        labels: {class name: label}.
        faults: report to add to.
    """
    name = _text(item, "name")
    box = item.find("bndbox")
    keys = ("xmin", "ymin", "xmax", "ymax")
    texts = [None if box is None else _text(box, key) for key in keys]
    if name is None or None in texts:
        have = [e.tag for e in (*item, *(box if box is not None else ()))]
        needed = ("name", "bndbox", *keys)
        missing = next((k for k in needed if k not in have), None)
        detail = f"`{missing}` is missing{did_you_mean(missing, have)}" if missing else "no value"
        faults.add(FaultKind.UNKNOWN_KEY, file, where, detail)
        return None
    if name not in labels:
        faults.add(FaultKind.UNKNOWN_CLASS, file, where, f"class `{name}`")
        return None
    try:
        x1, y1, x2, y2 = (float(t) for t in texts if t is not None)
    except ValueError:
        faults.add(FaultKind.WRONG_TYPE, file, where, f"box {texts}")
        return None
    return labels[name], (x1, y1, x2, y2)


def _image_of(file: Path, root: Element, finder: ImageFinder, faults: FaultReport) -> Path:
    """The image of an annotation file: as it says, else the one of the same name."""
    name = PureWindowsPath(_text(root, "filename") or "").name
    found, repaired = finder.find(name) if name else ("", True)
    path = Path(found)
    if finder.folders.is_file(path) and (not repaired or path.stem == file.stem):
        if repaired:
            faults.add(FaultKind.REPAIRED_PATH, file, f"`{name}`", f"{path.name}")
        return path
    same = Path(finder.find(f"{file.stem}.jpg")[0])
    if finder.folders.is_file(same) and name:
        faults.add(FaultKind.REPAIRED_PATH, file, f"`{name}`", f"{same.name}")
    return same


def annotated_size(root: Element) -> tuple[int, int] | None:
    """(h, w) as an annotation file says, zeros included; None where it does not."""
    size = root.find("size")
    if size is None:
        return None
    try:
        return int(float(_text(size, "height") or 0)), int(float(_text(size, "width") or 0))
    except (ValueError, OverflowError):
        return None


def _text(element: Element, tag: str) -> str | None:
    child = element.find(tag)
    return child.text.strip() if child is not None and child.text and child.text.strip() else None
