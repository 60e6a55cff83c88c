"""Images without targets: what a detector should find nothing in.

A folder of pictures (at any depth), or a data set of any layout, of which the images without
boxes are taken. One with boxes, of whatever class, is left out and counted: an object that is
looked for but not annotated here would teach the opposite of what the other images do.
"""

from __future__ import annotations

import logging
import os
from dataclasses import replace
from pathlib import Path

import numpy as np

from detrkit.data.builder import IndexBuilder
from detrkit.data.detect import find_layout_in, open_dataset
from detrkit.data.files import Folders
from detrkit.data.image_check import CheckImages
from detrkit.data.index import DatasetIndex
from detrkit.data.strings import PackedStrings
from detrkit.errors import DataError, UsageError
from detrkit.structures import ClassMap
from detrkit.words import count

logger = logging.getLogger("detrkit")

_HINT = "name a folder of images in which there is nothing to find"


def open_negatives(
    path: str | Path,
    class_map: ClassMap,
    *,
    key: str = "negatives",
    check_images: CheckImages = "auto",
) -> DatasetIndex:
    """The images without targets at a path.

    Args:
        path: folder of images, COCO JSON, data.yaml, or a data set's folder.
        class_map: classes that are not in them.
        key: the setting that names it, for messages.
        check_images: how thoroughly (see `detrkit.data.image_check`).

    Returns:
        An index without boxes; the ids are the paths below `path`.

    Raises:
        DataError: there is nothing, no image, only annotated ones, or none that can be read.
    """
    place = Path(path).expanduser()
    if not place.exists():
        raise DataError(f"{key}: there is no {place}", hint=_HINT)
    if place.is_file() and place.suffix.lower() not in (".json", ".yaml", ".yml"):
        raise DataError(f"{key}: {place} is neither a folder nor a data set", hint=_HINT)
    is_data_set = place.is_file() or find_layout_in(place) is not None
    read = _of_data_set if is_data_set else _of_folder
    found = read(place, key, check_images)
    return replace(
        found,
        image_ids=PackedStrings.pack(_name(p, place) for p in found.paths),
        class_map=class_map,
        source=str(place),
    )


def _of_folder(folder: Path, key: str, check_images: CheckImages) -> DatasetIndex:
    folders = Folders()
    images = list(folders.images(folder))
    if not images:
        raise DataError(f"{key}: {folder} holds no images", hint=_HINT)
    builder = IndexBuilder(str(folder), check_images=check_images, folders=folders)
    for image in images:
        builder.add_image(image, str(image))
    try:
        return builder.build(ClassMap((), ()))
    except DataError as error:
        raise DataError(
            f"{key}: none of the {count(len(images), 'image')} in {folder} can be read",
            hint="open one of them with another program: are they damaged?",
        ) from error
    finally:
        builder.faults.log()


def _of_data_set(place: Path, key: str, check_images: CheckImages) -> DatasetIndex:
    try:
        index = open_dataset(place, check_images=check_images)
    except DataError as error:
        raise DataError(f"{key}: {error.message}", hint=error.hint) from error
    boxes = np.diff(index.offsets)
    annotated = int((boxes > 0).sum())
    if annotated == len(index):
        raise DataError(
            f"{key}: every image of {place} has boxes ({count(annotated, 'image')})", hint=_HINT
        )
    if annotated:
        logger.warning(
            "%s: %s of %s with boxes left out, e.g. %s",
            key,
            count(annotated, "image"),
            place,
            index.paths[int(np.flatnonzero(boxes)[0])],
        )
    return index.subset(np.flatnonzero(boxes == 0))


def at_most(index: DatasetIndex, others: int, share: float, seed: int) -> DatasetIndex:
    """A random part of `index` that is at most `share` of it and `others` images together.

    At least one image is left; the order stays.

    Raises:
        UsageError: `share` does not lie between 0 and 1.
    """
    if not 0 < share < 1:
        raise UsageError(f"negatives_share must lie between 0 and 1, got {share}")
    most = max(int(others * share / (1 - share) + 1e-9), 1)
    if len(index) <= most:
        return index
    chosen = np.random.default_rng([seed, 0x4E6]).permutation(len(index))[:most]
    return index.subset(np.sort(chosen))


def _name(path: str, place: Path) -> str:
    """The path below `place`, with slashes."""
    base = place if place.is_dir() else place.parent
    try:
        return Path(os.path.relpath(path, base)).as_posix()
    except ValueError:  # another drive
        return Path(path).as_posix()
