"""Pascal VOC: one XML file per image, lists of image names in `ImageSets/Main`.

Coordinates are used as written. VOC counts pixels from 1, many tools from 0; nothing in a file
says which, and the difference is one pixel.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path, PureWindowsPath
from xml.etree.ElementTree import Element

from detrkit.data.builder import IndexBuilder
from detrkit.data.classes import adopt
from detrkit.data.faults import FaultKind, FaultReport
from detrkit.data.files import ImageFinder
from detrkit.data.image_check import CheckImages
from detrkit.data.index import DatasetIndex
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
                found: set[str] = set()
                for xml in self.annotations.glob("*.xml"):
                    with suppress(DataError):  # reported when its image is read
                        found.update(_text(o, "name") or "" for o in read_xml(xml).iter("object"))
                names = sorted(found - {""})
            if not names:
                detail = "no annotation file names a class"
                FaultReport().add(FaultKind.BAD_STRUCTURE, self.annotations, "", detail)
            self._classes = ClassMap.from_names(dict.fromkeys(names))
        return self._classes

    def read(
        self,
        split: str,
        class_map: ClassMap | None = None,
        check_images: CheckImages = "auto",
    ) -> DatasetIndex:
        """One split as an index."""
        if split in self.lists:
            source = self.lists[split]
            lines = [line.split() for line in read_text(source).splitlines() if line.strip()]
            # lists of a single class say -1 where the image lacks it
            names = [line[0] for line in lines if line[1:2] != ["-1"]]
        else:
            source = self.annotations
            names = sorted(f.stem for f in source.glob("*.xml"))
        files = [self.annotations / f"{PureWindowsPath(name).stem}.xml" for name in names]
        return read_voc(
            files,
            ImageFinder(self.image_folders),
            self.categories(),
            source,
            class_map=class_map,
            check_images=check_images,
        )


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
    faults = builder.faults
    seen: set[Path] = set()
    for place, file in enumerate(files):
        if file in seen:
            faults.add(FaultKind.DUPLICATE_IMAGE_ID, source, f"image {file.stem}")
            continue
        seen.add(file)
        if not file.is_file():
            image = images[place] if images else Path(finder.find(f"{file.stem}.jpg")[0])
            builder.add_image(image, file.stem, file=file)
            faults.add(FaultKind.IMAGE_WITHOUT_LABELS, image, f"image {file.stem}")
            continue
        try:
            root = read_xml(file)
        except DataError as error:
            reason = error.message.removeprefix(f"{file}: ")
            faults.add(FaultKind.BAD_ANNOTATION_FILE, file, f"image {file.stem}", reason)
            continue
        image = images[place] if images else _image_of(file, root, finder, faults)
        number = builder.add_image(image, file.stem, _size(root), file=file)
        for position, item in enumerate(root.iter("object"), start=1):
            _add_object(builder, str(file), f"object {position}", item, number, classes, matches)
    return builder.build(wanted)


def _add_object(
    builder: IndexBuilder,
    file: str,
    where: str,
    item: Element,
    image: int,
    classes: ClassMap,
    matches: Mapping[int, int],
) -> None:
    name = _text(item, "name")
    box = item.find("bndbox")
    keys = ("xmin", "ymin", "xmax", "ymax")
    texts = [None if box is None else _text(box, key) for key in keys]
    if name is None or None in texts:
        have = [e.tag for e in (*item, *(box if box is not None else ()))]
        needed = ("name", "bndbox", *keys)
        missing = next((k for k in needed if k not in have), None)
        detail = f"`{missing}` is missing{did_you_mean(missing, have)}" if missing else "no value"
        builder.faults.add(FaultKind.UNKNOWN_KEY, file, where, detail)
        return
    if classes.index_of_name.get(name) not in matches:
        builder.faults.add(FaultKind.UNKNOWN_CLASS, file, where, f"class `{name}`")
        return
    try:
        x1, y1, x2, y2 = (float(t) for t in texts if t is not None)
    except ValueError:
        builder.faults.add(FaultKind.WRONG_TYPE, file, where, f"box {texts}")
        return
    label = matches[classes.index_of_name[name]]
    builder.add_box(image, (x1, y1, x2, y2), label, where=f"{where} `{name}`")


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


def _size(root: Element) -> tuple[int, int] | None:
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
