"""The built-in data set: `data: shapes`, or `shapes://?train=800&val=160&size=224&seed=0`.

Drawn on first use into the cache folder as JPEG files with COCO annotations, so that everything
that reads files works on it. The folder's name holds all that determines its content.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import tempfile
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

from PIL import Image

from detrkit.data.cache import cache_dir
from detrkit.data.coco import read_coco
from detrkit.data.drawings import CLASSES, draw
from detrkit.data.index import DatasetIndex
from detrkit.errors import DataError, UsageError, did_you_mean
from detrkit.structures import ClassMap

logger = logging.getLogger("detrkit")

#: Raised when a change of the drawings makes earlier files differ.
VERSION = 2


@dataclass(frozen=True)
class ShapesSpec:
    """How many pictures, how large, and which.

    Attributes:
        train, val, test: pictures of each split; a split of 0 is left out.
        size: side in pixels.
        seed: of all drawings.
    """

    train: int = 800
    val: int = 160
    test: int = 0
    size: int = 224
    seed: int = 0

    @classmethod
    def parse(cls, text: str) -> ShapesSpec:
        """Reads `shapes` or `shapes://?train=800&size=224`.

        Raises:
            UsageError: an unknown or impossible setting.
        """
        _, _, query = text.partition("?")
        known = [f.name for f in fields(cls)]
        values = {}
        for key, value in parse_qsl(query, keep_blank_values=True):
            if key not in known:
                raise UsageError(
                    f"{text}: unknown setting `{key}`{did_you_mean(key, known)}",
                    hint=f"possible: {', '.join(known)}",
                )
            if not value.isdigit():
                raise UsageError(f"{text}: `{key}` must be a whole number, got {value!r}")
            values[key] = int(value)
        spec = cls(**values)
        if not 32 <= spec.size <= 4096 or spec.train < 1:
            raise UsageError(f"{text}: needs train of 1 or more and size from 32 to 4096")
        return spec

    @property
    def splits(self) -> dict[str, int]:
        """{split: pictures}."""
        counts = {"train": self.train, "val": self.val, "test": self.test}
        return {name: count for name, count in counts.items() if count}

    @property
    def folder_name(self) -> str:
        """Unique for this content."""
        return (
            f"shapes-v{VERSION}-{self.train}-{self.val}-{self.test}-{self.size}px-seed{self.seed}"
        )


def is_shapes(path: str | os.PathLike[str]) -> bool:
    """Whether a data set's path means the built-in drawings. A folder `shapes` is `./shapes`."""
    text = os.fspath(path)
    return text == "shapes" or text.startswith("shapes:")


def open_shapes(
    text: str, only: str | None = None, class_map: ClassMap | None = None
) -> dict[str, DatasetIndex]:
    """The splits of the built-in data set; draws it if that has not been done.

    Args:
        text: `shapes` with or without settings.
        only: just this split.
        class_map: classes to use, matched by name.

    Raises:
        UsageError: wrong settings.
        DataError: there is no such split.
    """
    spec = ShapesSpec.parse(text)
    if only is not None and only not in spec.splits:
        raise DataError(f"{text}: has no split `{only}`, only {', '.join(spec.splits)}")
    root = ensure(spec)
    return {
        name: read_coco(
            root / "annotations" / f"instances_{name}.json",
            root / "images" / name,
            class_map=class_map,
        )
        for name in spec.splits
        if only in (None, name)
    }


def ensure(spec: ShapesSpec) -> Path:
    """The folder of a drawn data set, complete; draws it if it is not there."""
    root = cache_dir() / spec.folder_name
    if root.is_dir():
        return root
    try:
        root.parent.mkdir(parents=True, exist_ok=True)
        draft = Path(tempfile.mkdtemp(prefix=f".{spec.folder_name}-", dir=root.parent))
    except OSError as error:
        root = Path(tempfile.gettempdir()) / f"detrkit-{os.getpid()}" / spec.folder_name
        logger.warning("%s cannot be written (%s): drawing into %s", cache_dir(), error, root)
        root.parent.mkdir(parents=True, exist_ok=True)
        draft = Path(tempfile.mkdtemp(dir=root.parent))
    try:
        logger.info("drawing %d pictures of shapes into %s", sum(spec.splits.values()), root)
        write(spec, draft)
        draft.rename(root)
    except OSError as error:
        if not root.is_dir():  # otherwise another process was faster, with the same content
            raise DataError(f"{root}: cannot be written: {error}") from error
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return root


def write(spec: ShapesSpec, folder: Path) -> None:
    """Draws a data set into `folder`: `images/<split>/*.jpg`, `annotations/instances_*.json`."""
    (folder / "annotations").mkdir(parents=True, exist_ok=True)
    for part, (split, count) in enumerate(spec.splits.items()):
        (folder / "images" / split).mkdir(parents=True, exist_ok=True)
        images: list[dict[str, Any]] = []
        annotations: list[dict[str, Any]] = []
        for number in range(count):
            drawing = draw(spec.seed, part, number, spec.size)
            name = f"{number:06d}.jpg"
            Image.fromarray(drawing.pixels).save(folder / "images" / split / name, quality=92)
            images.append(
                {"id": number, "file_name": name, "height": spec.size, "width": spec.size}
            )
            for box, label, area in zip(
                drawing.boxes_xyxy.tolist(),
                drawing.labels.tolist(),
                drawing.areas.tolist(),
                strict=True,
            ):
                x1, y1, x2, y2 = box
                annotations.append(
                    {
                        "id": len(annotations) + 1,
                        "image_id": number,
                        "category_id": label,
                        "bbox": [x1, y1, x2 - x1, y2 - y1],
                        "area": area,
                        "iscrowd": 0,
                    }
                )
        content = {
            "info": {"description": f"detrkit shapes {spec}"},
            "images": images,
            "annotations": annotations,
            "categories": [{"id": i, "name": name} for i, name in enumerate(CLASSES)],
        }
        path = folder / "annotations" / f"instances_{split}.json"
        path.write_text(json.dumps(content), encoding="utf-8")
