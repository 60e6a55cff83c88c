"""`data: DIR`: finds out what kind of data set lies at a path, and reads it.

Recognised, in this order:

    a COCO JSON file, or a `data.yaml`
    train|valid|test/_annotations.coco.json          Roboflow's COCO
    annotations/*.json or *.json                     COCO; the split is read off the file name
    data.yaml, dataset.yaml, …                       YOLO
    Annotations/*.xml with JPEGImages or images      Pascal VOC, lists in ImageSets/Main
    images/, labels/ and classes.txt or *.names      YOLO without a YAML file
    a folder that holds nothing but one of the above
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Protocol

from detrkit.data import shapes
from detrkit.data.classes import merge_categories
from detrkit.data.coco import looks_like_coco, open_categories, open_coco
from detrkit.data.faults import FaultReport
from detrkit.data.image_check import CheckImages
from detrkit.data.index import DatasetIndex
from detrkit.data.splits import SPLIT_NAMES, split_of
from detrkit.data.text import read_yaml
from detrkit.data.voc import VocLayout
from detrkit.data.yolo import YoloLayout
from detrkit.errors import DataError, UsageError
from detrkit.structures import ClassMap

logger = logging.getLogger("detrkit")


class Layout(Protocol):
    """A data set that was recognised but not read yet."""

    @property
    def splits(self) -> list[str]:
        """Names of the splits, "train" first."""

    def categories(self) -> ClassMap:
        """The classes of all splits together."""

    def read(
        self,
        split: str,
        class_map: ClassMap | None = None,
        check_images: CheckImages = "auto",
    ) -> DatasetIndex:
        """Reads one split with the given classes."""


@dataclass
class CocoLayout:
    """One COCO file per split.

    Attributes:
        files: {split: JSON file}.
    """

    files: dict[str, Path]

    @property
    def splits(self) -> list[str]:
        """Names of the splits."""
        return list(self.files)

    def categories(self) -> ClassMap:
        """The classes of all files, sorted by id."""
        return merge_categories([(str(f), open_categories(f)) for f in self.files.values()])

    def read(
        self,
        split: str,
        class_map: ClassMap | None = None,
        check_images: CheckImages = "auto",
    ) -> DatasetIndex:
        """One split as an index."""
        return open_coco(self.files[split], class_map=class_map, check_images=check_images)


def open_dataset(
    path: str | Path,
    split: str | None = None,
    *,
    val_fraction: float | None = None,
    seed: int = 0,
    class_map: ClassMap | None = None,
    splits: Mapping[str, str] | None = None,
    check_images: CheckImages = "auto",
) -> DatasetIndex:
    """Reads a data set of any known layout.

    Args:
        path: folder, COCO JSON, data.yaml, or `shapes` for the built-in drawings.
        split: "train", "val" or "test"; None reads all of it.
        val_fraction: cut a validation part of this size off the training images.
        seed: of that cut.
        class_map: classes to use, matched by name; None takes the data set's own.
        splits: which list or file to use for a split, e.g. {"train": "trainval", "val": "test"}.
        check_images: how thoroughly images are compared with their annotations: "all", "sample",
            "none", or "auto" by their number (see `detrkit.data.image_check`).

    Raises:
        DataError: nothing known lies there, it cannot be read, or it has no such split.
    """
    parts = open_splits(
        path,
        val_fraction=val_fraction,
        seed=seed,
        class_map=class_map,
        splits=splits,
        only=split,
        check_images=check_images,
    )
    if split is None:
        return DatasetIndex.concat(list(parts.values()))
    return parts[split]


def split_to_measure(path: str | Path) -> str:
    """The part that detectors are measured on: "val", else "test", else the first.

    Raises:
        DataError: no known data set lies there.
    """
    known = (
        ["train", "val"] if shapes.is_shapes(path) else find_layout(Path(path).expanduser()).splits
    )
    return next((split for split in ("val", "test") if split in known), known[0])


def open_splits(
    path: str | Path,
    *,
    val_fraction: float | None = None,
    seed: int = 0,
    class_map: ClassMap | None = None,
    splits: Mapping[str, str] | None = None,
    only: str | None = None,
    check_images: CheckImages = "auto",
    log: bool = True,
) -> dict[str, DatasetIndex]:
    """Reads the splits of a data set; all of them share one class map.

    Args:
        path, val_fraction, seed, class_map, splits, check_images: as in `open_dataset`.
        only: read just this split.
        log: warn of faults and of images in two splits; a caller that shows them itself does not.

    Raises:
        DataError: as in `open_dataset`.
    """
    if shapes.is_shapes(path):
        return shapes.open_shapes(str(path), only=only, class_map=class_map)
    if only is not None and only not in SPLIT_NAMES:
        raise UsageError(f"unknown split `{only}`: train, val and test are possible")
    layout = find_layout(Path(os.path.expanduser(path)), splits)
    # what a single split has are its own classes
    classes = class_map or (layout.categories() if len(layout.splits) > 1 else None)
    wanted = layout.splits if only is None else [only]
    if val_fraction is not None and only in ("train", "val"):
        wanted = ["train"]
    for name in wanted:
        if name not in layout.splits:
            raise DataError(
                f"{path}: has no split `{name}`, only {', '.join(layout.splits)}",
                hint="cut one off the training images with `--val-fraction 0.2`"
                if name == "val"
                else f"use --split {layout.splits[0]}",
            )
    parts = {name: layout.read(name, classes, check_images) for name in wanted}
    if val_fraction is not None and "train" in parts:
        parts["train"], parts["val"] = parts["train"].split(val_fraction, seed)
    if log:
        FaultReport.merge(part.faults for part in parts.values()).log()
        _warn_of_leaks(parts)
    return parts


def _warn_of_leaks(parts: Mapping[str, DatasetIndex]) -> None:
    """Says so when an image is trained on and in another split: scores on it prove nothing."""
    for a, b in ((a, b) for a, b in combinations(parts, 2) if "train" in (a, b)):
        common = set(parts[a].paths) & set(parts[b].paths)
        if common:
            logger.warning(
                "%s: %d of %d images of `%s` are in `%s` as well, e.g. %s",
                *(parts[a].source, len(common), len(parts[b]), b, a, min(common)),
            )


def find_layout(path: Path, splits: Mapping[str, str] | None = None) -> Layout:
    """Recognises the data set at `path` without reading its annotations.

    Args:
        path: folder or file.
        splits: which list or file to use for a split.

    Raises:
        DataError: there is nothing, or nothing known.
    """
    if os.path.isfile(path):
        return _layout_of_file(path)
    if not os.path.isdir(path):
        raise DataError(
            f"{path}: no such file or folder", hint="`--data` names a data set's folder"
        )
    layout = find_layout_in(path, splits)
    if layout is None:
        entries = sorted(f.name + "/" * f.is_dir() for f in path.iterdir())
        shown = ", ".join(entries[:8]) + (", …" if len(entries) > 8 else "")
        raise DataError(
            f"{path}: no data set recognised (it holds {shown or 'nothing'})",
            hint="COCO: annotations/*.json; YOLO: data.yaml; VOC: Annotations/*.xml, JPEGImages/",
        )
    return layout


def find_layout_in(folder: Path, splits: Mapping[str, str] | None = None) -> Layout | None:
    """The data set in a folder, or in the only folder in it; None where there is nothing known.

    Raises:
        DataError: it is known, but not complete.
    """
    layout = _layout_of_folder(folder, splits)
    if layout is None:
        inner = [f for f in folder.iterdir() if f.is_dir() and not f.name.startswith(".")]
        layout = _layout_of_folder(inner[0], splits) if len(inner) == 1 else None
    return layout


def _layout_of_file(path: Path) -> Layout:
    suffix = path.suffix.lower()
    if suffix == ".json":
        return CocoLayout({split_of(path.stem) or split_of(path.parent.name) or "train": path})
    if suffix in (".yaml", ".yml"):
        return YoloLayout.from_yaml(path)
    raise DataError(
        f"{path}: not a data set", hint="give a folder, a COCO JSON file or a YOLO data.yaml"
    )


def _layout_of_folder(root: Path, splits: Mapping[str, str] | None) -> Layout | None:
    files = _roboflow_files(root) or _coco_files(root, splits)
    if files:
        return CocoLayout(files)
    for file in sorted([*root.glob("*.yaml"), *root.glob("*.yml")]):
        content = read_yaml(file)
        if isinstance(content, Mapping) and {"names", "nc", "train"} & set(content):
            return YoloLayout.from_yaml(file)
    voc = VocLayout.find(root, splits)
    if voc is not None:
        return voc
    if (root / "images").is_dir() and (root / "labels").is_dir():
        names = [root / n for n in ("classes.txt", "obj.names", "labels/classes.txt")]
        names += sorted(root.glob("*.names"))
        found = next((n for n in names if n.is_file()), None)
        if found is None:
            raise DataError(
                f"{root}: YOLO labels without class names",
                hint="add a data.yaml with `names: [...]`, or classes.txt with a name per line",
            )
        return YoloLayout.from_folder(root, found)
    return None


def _roboflow_files(root: Path) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for split, aliases in SPLIT_NAMES.items():
        for alias in aliases:
            for file in (
                root / alias / "_annotations.coco.json",
                root / alias / "annotations.json",
            ):
                if file.is_file():
                    found.setdefault(split, file)
    single = root / "_annotations.coco.json"
    return found or ({"train": single} if single.is_file() else {})


def _coco_files(root: Path, splits: Mapping[str, str] | None) -> dict[str, Path]:
    """COCO files in `annotations/` or in the folder itself, by the split in their names."""
    for folder in (root / "annotations", root / "Annotations", root):
        candidates = sorted(folder.glob("*.json")) if folder.is_dir() else []
        by_stem = {f.stem: f for f in candidates}
        found: dict[str, Path] = {}
        for split, name in (splits or {}).items():
            if name in by_stem:
                found[split] = by_stem[name]
        # `instances_…` are boxes for sure, so captions and key points beside them are not read
        instances = [f for f in candidates if f.name.startswith("instances")]
        candidates = instances or candidates
        for file in candidates:
            part = split_of(file.stem)
            if part and part not in found and _looks_like_coco(file):
                found[part] = file
        if not found and len(candidates) == 1 and _looks_like_coco(candidates[0]):
            found["train"] = candidates[0]
        if found:
            return {name: found[name] for name in SPLIT_NAMES if name in found}
    return {}


def _looks_like_coco(file: Path) -> bool:
    return file.name.startswith("instances") or looks_like_coco(file)
