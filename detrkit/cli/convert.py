"""`detrkit convert`: data sets from one format, division or set of classes to another."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING

from detrkit.cli.convert_options import (
    Box,
    BringImages,
    Bringing,
    CocoOut,
    Count,
    Crowds,
    DataSet,
    DataSets,
    DropEmpty,
    Dropped,
    FirstId,
    Folder,
    Force,
    Fraction,
    GroupBy,
    Images,
    Kept,
    Lists,
    MapFile,
    MaxSide,
    Merges,
    NewRatios,
    Objects365Folder,
    OdgtFiles,
    PerClass,
    PlaceImages,
    Placing,
    Quality,
    Ratios,
    Renames,
    Seed,
    Stratify,
    ValImages,
    WhichBox,
    Workers,
)
from detrkit.cli.convert_report import report
from detrkit.cli.options import JsonOut

if TYPE_CHECKING:
    from detrkit.convert.headers import Progress
    from detrkit.convert.operations import Division, Source, Target

_MANY = 10_000  # images; fewer are done before a line would be read


def convert() -> None:
    """Convert data sets between formats; divide, merge, sample; rename classes."""


def to_coco(
    src: DataSet,
    output: CocoOut,
    images: Images = None,
    lists: Lists = None,
    ratios: Ratios = None,
    seed: Seed = 0,
    stratify: Stratify = False,
    group_by: GroupBy = None,
    place: PlaceImages = Placing.refer,
    force: Force = False,
    json: JsonOut = False,
) -> None:
    """Any data set as COCO. Polygons, flags and unknown keys are kept."""
    from detrkit.convert.operations import convert_to_coco

    division = _division(ratios, seed, stratify, group_by)
    source = _source(src, images, lists)
    with _target(output, place, force, json) as target:
        summary = convert_to_coco(source, target, division)
    report(summary, json)


def to_yolo(
    src: DataSet,
    output: Folder,
    lists: Lists = None,
    ratios: Ratios = None,
    seed: Seed = 0,
    stratify: Stratify = False,
    group_by: GroupBy = None,
    place: BringImages = Bringing.link,
    keep_crowds: Crowds = False,
    force: Force = False,
    json: JsonOut = False,
) -> None:
    """Any data set as YOLO: images, labels and data.yaml.

    YOLO keeps boxes and classes. Ids, areas, segments and flags stay behind. Corners are written
    to within 0.01 pixels.
    """
    from detrkit.convert.operations import convert_to_yolo

    division = _division(ratios, seed, stratify, group_by)
    source = _source(src, None, lists)
    with _target(output, place, force, json) as target:
        summary = convert_to_yolo(source, target, division, keep_crowds=keep_crowds)
    report(summary, json)


def to_voc(
    src: DataSet,
    output: Folder,
    images: Images = None,
    lists: Lists = None,
    ratios: Ratios = None,
    seed: Seed = 0,
    stratify: Stratify = False,
    group_by: GroupBy = None,
    place: BringImages = Bringing.link,
    keep_crowds: Crowds = False,
    force: Force = False,
    json: JsonOut = False,
) -> None:
    """Any data set as Pascal VOC: Annotations, JPEGImages and ImageSets.

    Coordinates keep their digits. Ids, areas and segments stay behind.
    """
    from detrkit.convert.operations import convert_to_voc

    division = _division(ratios, seed, stratify, group_by)
    source = _source(src, images, lists)
    with _target(output, place, force, json) as target:
        summary = convert_to_voc(source, target, division, keep_crowds=keep_crowds)
    report(summary, json)


def crowdhuman(
    src: OdgtFiles,
    output: CocoOut,
    images: Images = None,
    box: WhichBox = Box.full,
    place: PlaceImages = Placing.refer,
    force: Force = False,
    json: JsonOut = False,
) -> None:
    """CrowdHuman's .odgt files as COCO with the class `person`."""
    from detrkit.convert.crowdhuman import PersonBox
    from detrkit.convert.operations import convert_crowdhuman

    source = _source(src, images, None)
    with _target(output, place, force, json) as target:
        summary = convert_crowdhuman(source, target, PersonBox(box.value))
    report(summary, json)


def objects365(
    src: Objects365Folder,
    output: Folder,
    val_images: ValImages = 5000,
    max_side: MaxSide = 640,
    quality: Quality = 75,
    workers: Workers = None,
    place: BringImages = Bringing.link,
    force: Force = False,
    json: JsonOut = False,
) -> None:
    """Objects365 v2 as D-FINE and DEIM train on it: merged and made smaller.

    The download is not changed. Interrupted or killed, the same command goes on where it stopped.
    """
    from detrkit.convert.objects365 import Recipe
    from detrkit.convert.objects365 import convert as convert_images
    from detrkit.convert.placing import Place
    from detrkit.convert.resizing import Resizing, cores

    resizing = Resizing(max_side, quality, Place(place.value))
    recipe = Recipe(val_images, resizing, cores() if workers is None else workers)
    with _progress(json) as progress:
        summary = convert_images(
            src.expanduser(), output.expanduser(), recipe, force=force, progress=progress
        )
    report(summary, json)


def categories(
    src: DataSet,
    output: CocoOut,
    rename: Renames = None,
    merge: Merges = None,
    keep: Kept = None,
    drop: Dropped = None,
    mapping: MapFile = None,
    first_id: FirstId = None,
    drop_empty: DropEmpty = False,
    images: Images = None,
    place: PlaceImages = Placing.refer,
    force: Force = False,
    json: JsonOut = False,
) -> None:
    """Rename, merge, keep or drop classes; the result is COCO."""
    from functools import partial

    from detrkit.convert.categories import ClassChanges
    from detrkit.convert.operations import change_categories

    changes = partial(
        ClassChanges.from_options,
        renames=rename or (),
        merges=merge or (),
        keep=keep or (),
        drop=drop or (),
        file=mapping,
        first_id=first_id,
        drop_empty=drop_empty,
    )
    source = _source(src, images, None)
    with _target(output, place, force, json) as target:
        summary = change_categories(source, target, changes)
    report(summary, json)


def split(
    src: DataSet,
    output: Folder,
    ratios: NewRatios = "0.8,0.2",
    seed: Seed = 0,
    stratify: Stratify = False,
    group_by: GroupBy = None,
    images: Images = None,
    place: PlaceImages = Placing.refer,
    force: Force = False,
    json: JsonOut = False,
) -> None:
    """Divide all images of a data set into train, val and test; the result is COCO."""
    from detrkit.convert.operations import split_dataset

    division = _division(ratios, seed, stratify, group_by)
    assert division is not None
    source = _source(src, images, None)
    with _target(output, place, force, json) as target:
        summary = split_dataset(source, target, division)
    report(summary, json)


def merge(
    src: DataSets,
    output: CocoOut,
    place: PlaceImages = Placing.refer,
    force: Force = False,
    json: JsonOut = False,
) -> None:
    """Merge data sets split by split, classes by name; the result is COCO.

    Into a .json file, all splits become one. Boxes of an image that several sources have are
    joined, repeated ones once. Ids that are taken get a new number.
    """
    from detrkit.convert.operations import merge_datasets

    sources = [_source(path, None, None) for path in src]
    with _target(output, place, force, json) as target:
        summary = merge_datasets(sources, target)
    report(summary, json)


def sample(
    src: DataSet,
    output: CocoOut,
    count: Count = None,
    fraction: Fraction = None,
    per_class: PerClass = None,
    seed: Seed = 0,
    stratify: Stratify = False,
    images: Images = None,
    place: PlaceImages = Placing.refer,
    force: Force = False,
    json: JsonOut = False,
) -> None:
    """Choose some images of each split; the result is COCO."""
    from detrkit.convert.operations import sample_dataset

    source = _source(src, images, None)
    with _target(output, place, force, json) as target:
        summary = sample_dataset(
            source,
            target,
            number=count,
            fraction=fraction,
            per_class=per_class,
            seed=seed,
            stratify=stratify,
        )
    report(summary, json)


#: The commands of the group.
COMMANDS: dict[str, Callable[..., None]] = {
    "to-coco": to_coco,
    "to-yolo": to_yolo,
    "to-voc": to_voc,
    "crowdhuman": crowdhuman,
    "objects365": objects365,
    "categories": categories,
    "split": split,
    "merge": merge,
    "sample": sample,
}


def _source(path: Path, images: Path | None, lists: list[str] | None) -> Source:
    from detrkit.convert.operations import Source
    from detrkit.data.splits import SPLIT_NAMES
    from detrkit.errors import DataError, UsageError

    if images is not None and not images.is_dir():
        raise DataError(f"--images {images}: no such folder")
    chosen = {}
    for text in lists or ():
        name, _, value = text.partition("=")
        if name not in SPLIT_NAMES or not value:
            raise UsageError(
                f"--list {text}: write train=NAME, val=NAME or test=NAME",
                hint="e.g. --list train=trainval --list val=test",
            )
        chosen[name] = value
    return Source(path.expanduser(), images, chosen or None)


@contextmanager
def _target(output: Path, place: Enum, force: bool, json: bool) -> Iterator[Target]:
    from detrkit.convert.operations import Target
    from detrkit.convert.placing import Place

    with _progress(json) as progress:
        yield Target(output.expanduser(), Place(place.value), force, progress)


def _division(
    ratios: str | None, seed: int, stratify: bool, group_by: str | None
) -> Division | None:
    from detrkit.convert.operations import Division
    from detrkit.convert.partition import parse_ratios
    from detrkit.errors import UsageError

    if ratios is None:
        if stratify or group_by is not None:
            raise UsageError("--stratify and --group-by belong to --ratios, which is missing")
        return None
    return Division(parse_ratios(ratios), seed, stratify, group_by)


@contextmanager
def _progress(json: bool) -> Iterator[Progress]:
    """A bar where someone looks, lines in the log elsewhere."""
    from detrkit.cli.console import progress_bar

    with progress_bar("images", quiet=json) as bar:
        yield bar or _tell


def _tell(done: int, total: int) -> None:
    if total >= _MANY and done % (total // 20) == 0:
        logging.getLogger("detrkit").info("%d of %d images", done, total)
