"""Objects365 v2 as the authors of D-FINE and DEIM train on it.

Their recipe: the first 5,000 images of the validation set stay one, all others are trained on, as
`images_from_val/…`; images whose longer side is above 640 are made smaller, and their boxes with
them. Here the result is a data set of its own, and the download stays as it is:

    train/zhiyuan_objv2_train.json        annotations/instances_train.json, instances_val.json
    train/images/v1/patch0/….jpg     ->   train/images/…, train/images_from_val/…
    val/zhiyuan_objv2_val.json            val/images/…
    val/images/v1/patch0/….jpg

Boxes are scaled by 640 / longer side and areas by its square, sizes are those of the files, and
images that cannot be read are left out with their boxes, all as in the authors' scripts. Beyond
them, an image id or annotation id that both parts use is made unique.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from detrkit.convert.document import CocoDocument, values
from detrkit.convert.from_coco import read_document
from detrkit.convert.headers import Progress
from detrkit.convert.merge import merge
from detrkit.convert.output import refuse_to_replace, staged
from detrkit.convert.resizing import Job, Resizing, resize_all
from detrkit.convert.summary import SplitCounts, Summary
from detrkit.data.coco_writer import write_coco
from detrkit.data.faults import FaultKind, FaultReport
from detrkit.errors import DataError, Interrupted, UsageError
from detrkit.words import count

logger = logging.getLogger("detrkit")

_FROM_VAL = "images_from_val"
_PARTS = [f"annotations/instances_{split}.json" for split in ("train", "val")]
_TRIED = 100  # images, to find out how the archives were unpacked


@dataclass(frozen=True)
class Recipe:
    """What is done.

    Attributes:
        val_images: how many images of the validation set stay in it, the first ones.
        resizing: how images are made smaller.
        workers: processes.
    """

    val_images: int
    resizing: Resizing
    workers: int


def convert(
    root: Path,
    output: Path,
    recipe: Recipe,
    *,
    force: bool = False,
    progress: Progress | None = None,
) -> Summary:
    """Makes the training and validation set.

    Entries of images are in memory and boxes are streamed: two million images with 30 million
    boxes need about 4.5 GB (a quarter of them took 1.04 GB). Called again after an interruption,
    it goes on where it stopped.

    Args:
        root: the download, with `train` and `val`.
        output: a folder.
        recipe: what is done.
        force: replace annotation files that are there; complete images stay in any case.
        progress: called with the number of images done and of all.

    Raises:
        DataError: a file is missing or wrong, or none of the images can be found.
        UsageError: the result is there already, or would be in the download.
        Interrupted: by Ctrl-C; what is done stays done.
        DetrkitError: the disk is full, or a process was killed.
    """
    if output.resolve() == root.resolve():
        raise UsageError(
            f"{output}: the result needs a folder of its own",
            hint="the download stays as it is; --output names another folder",
        )
    sources = {split: _annotation_file(root, split) for split in ("train", "val")}
    read = list(sources.values())
    refuse_to_replace(output, _PARTS, force=force, sources=read)
    documents = _documents(root, sources, recipe.val_images)
    sizes = _bring_images(documents, output, recipe, progress)
    counts: dict[str, SplitCounts] = {}
    notes = []
    with staged(output, _PARTS, force=force, sources=read) as stage:
        for split, document in documents.items():
            readable = sizes[split][0, :, 0] > 0
            old, new = sizes[split][:, readable]
            _count_lost(document, readable)
            document = document.subset(np.flatnonzero(readable))
            if not len(document):
                raise DataError(f"{root / split}: none of its images can be read")
            logger.info("writing the annotations of %d images of `%s`", len(document), split)
            _write(document, stage / f"annotations/instances_{split}.json", old, new, recipe)
            counts[split] = SplitCounts.of_document(document)
            smaller = int((old != new).any(1).sum())
            notes.append(
                f"made smaller: {smaller:,} of {count(len(document), 'image')} of `{split}`"
            )
    faults = FaultReport.merge(document.faults for document in documents.values())
    return Summary(output, "COCO", counts, faults, notes)


def _annotation_file(root: Path, split: str) -> Path:
    name = f"zhiyuan_objv2_{split}.json"
    places = (root / split / name, root / "annotations" / name, root / name)
    found = next((place for place in places if place.is_file()), None)
    if found is None:
        raise DataError(
            f"{root}: there is no {split}/{name}",
            hint="unpack Objects365 so that `train` and `val` hold the images and the JSON files",
        )
    return found


def _documents(root: Path, sources: dict[str, Path], val_images: int) -> dict[str, CocoDocument]:
    """Training and validation set, with the names that the images get and the files they have."""
    opened = {}
    for split, file in sources.items():
        logger.info("reading %s", file)
        document = read_document(file, root / split, look=False)
        opened[split] = replace(document, files=_files(root, split, document))
    val = opened["val"]
    if not 0 < val_images <= len(val):
        raise UsageError(f"--val-images {val_images}: the validation set has {len(val)} images")
    moved = val.subset(np.arange(val_images, len(val)))
    for image in moved.images:
        image["file_name"] = f"{_FROM_VAL}/{_without(image['file_name'], 1)}"
    merged = merge([opened["train"], moved])
    return {"train": merged.document, "val": val.subset(np.arange(val_images))}


def _files(root: Path, split: str, document: CocoDocument) -> list[Path]:
    """Where the images are: as the annotations say, or without some of the first folders."""
    names = [str(image["file_name"]) for image in document.images]
    for base in (root / split, root / split / "images", root / "images" / split):
        for dropped in range(4):
            if any((base / _without(name, dropped)).is_file() for name in names[:_TRIED]):
                return [base / _without(name, dropped) for name in names]
    raise DataError(
        f"{root / split}: the images are not there, e.g. {names[0] if names else '…'}",
        hint=f"unpack the archives so that {split}/images/v1/patch0/….jpg exist",
    )


def _without(name: str, folders: int) -> str:
    """A name without its first folders."""
    return name.split("/", min(folders, name.count("/")))[-1]


def _bring_images(
    documents: dict[str, CocoDocument], output: Path, recipe: Recipe, progress: Progress | None
) -> dict[str, npt.NDArray[np.int32]]:
    """(2, N, 2) per split: sizes h, w of the images as they were and are; 0 where unreadable."""
    total, done = sum(map(len, documents.values())), 0
    sizes = {}
    for split, document in documents.items():
        sizes[split] = np.zeros((2, len(document), 2), np.int32)
        jobs = (
            Job(str(file), str(output / split / image["file_name"]))
            for file, image in zip(document.files, document.images, strict=True)
        )
        try:
            for row, outcome in enumerate(resize_all(jobs, recipe.resizing, recipe.workers)):
                sizes[split][:, row] = outcome.size, outcome.new_size
                if outcome.error:
                    _report(document, row, outcome.error)
                done += 1
                if progress is not None:
                    progress(done, total)
        except KeyboardInterrupt:
            raise Interrupted(
                f"interrupted after {done:,} of {total:,} images",
                hint="the same command goes on where this one stopped",
            ) from None
    return sizes


def _report(document: CocoDocument, row: int, reason: str) -> None:
    file = document.files[row]
    kind = FaultKind.CORRUPT_IMAGE if file.is_file() else FaultKind.MISSING_IMAGE
    document.faults.add(kind, file, f"image {document.images[row]['id']}", reason)


def _count_lost(document: CocoDocument, readable: npt.NDArray[np.bool_]) -> None:
    """Counts the boxes of images that are left out."""
    lost = int(document.per_image()[~readable].sum())
    if lost:
        gone = int((~readable).sum())
        detail = f"{count(lost, 'box')} of {count(gone, 'image')}"
        kind = FaultKind.SKIPPED_WITH_IMAGE
        document.faults.add(kind, document.source, "", detail, count=lost)


def _write(
    document: CocoDocument,
    file: Path,
    old: npt.NDArray[np.int32],
    new: npt.NDArray[np.int32],
    recipe: Recipe,
) -> None:
    """Writes the annotations for images that had (N, 2) `old` and have `new` sizes, h, w."""
    scales = np.array([recipe.resizing.scale((h, w)) for h, w in old.tolist()])
    images = (
        image | {"height": h, "width": w}
        for image, (h, w) in zip(document.images, new.tolist(), strict=True)
    )
    owners = document.owners[document.kept]
    annotations = (
        _scaled(annotation, scale)
        for annotation, scale in zip(document.annotations(), values(scales[owners]), strict=True)
    )
    write_coco(
        file,
        images=images,
        annotations=annotations,
        categories=document.categories,
        more=document.more,
    )


def _scaled(annotation: dict[str, Any], scale: float) -> dict[str, Any]:
    if scale == 1:
        return annotation
    x, y, w, h = (value * scale for value in annotation["bbox"])
    area = annotation.get("area")
    annotation["bbox"] = [x, y, w, h]
    annotation["area"] = area * scale**2 if isinstance(area, int | float) else w * h
    return annotation
