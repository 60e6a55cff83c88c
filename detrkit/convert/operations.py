"""What `detrkit convert` does, command by command: open, change, write, count."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from detrkit.convert import crowdhuman, to_coco, to_voc, to_yolo
from detrkit.convert.categories import ClassChanges
from detrkit.convert.crowdhuman import PersonBox
from detrkit.convert.document import CocoDocument
from detrkit.convert.headers import Progress
from detrkit.convert.merge import merge, with_same_classes
from detrkit.convert.partition import Boxes, divide, groups_of
from detrkit.convert.placement import relative_name
from detrkit.convert.placing import Place
from detrkit.convert.sample import choose, choose_per_class
from detrkit.convert.sources import open_documents
from detrkit.convert.summary import Summary
from detrkit.data.detect import open_splits
from detrkit.data.faults import FaultReport
from detrkit.data.index import DatasetIndex
from detrkit.data.splits import SPLIT_NAMES
from detrkit.errors import DataError, UsageError


@dataclass(frozen=True)
class Division:
    """How to divide images among splits.

    Attributes:
        ratios: {split: share}, adding up to 1.
        seed: equal seeds give equal splits.
        stratify: balance the classes.
        group_by: regular expression on file names; what it matches stays together.
    """

    ratios: Mapping[str, float]
    seed: int = 0
    stratify: bool = False
    group_by: str | None = None

    def parts(self, boxes: Boxes, names: Sequence[str]) -> tuple[np.ndarray, list[str]]:
        """(N,) position in `ratios` for each image, and what is worth knowing about it."""
        groups, notes = None, []
        if self.group_by is not None:
            groups, unmatched = groups_of(names, self.group_by)
            notes.append(f"{len(np.unique(groups))} groups of images stayed together")
            if unmatched:
                notes.append(f"{unmatched} file names do not match `{self.group_by}`")
        shares = list(self.ratios.values())
        parts = divide(boxes, shares, seed=self.seed, stratify=self.stratify, groups=groups)
        return parts, notes


@dataclass(frozen=True)
class Target:
    """Where a result goes.

    Attributes:
        output: a folder, or a .json file where COCO is written.
        place: what happens to the images.
        force: replace a former result.
        progress: called with the number of images done and of all, where that takes time.
    """

    output: Path
    place: Place
    force: bool = False
    progress: Progress | None = None


@dataclass(frozen=True)
class Source:
    """What is read.

    Attributes:
        path: a data set's folder or file.
        images: folder of its images; None looks in the usual places.
        lists: which list or file to use for a split.
    """

    path: Path
    images: Path | None = None
    lists: Mapping[str, str] | None = None

    def open(self, progress: Progress | None = None) -> dict[str, CocoDocument]:
        """Its splits.

        Raises:
            DataError: as in `open_documents`.
        """
        documents = open_documents(self.path, self.images, splits=self.lists, progress=progress)
        _log_faults(documents)
        return documents


def convert_to_coco(source: Source, target: Target, division: Division | None = None) -> Summary:
    """Any data set as COCO; its own splits unless a division is given."""
    return _write_divided(source.open(target.progress), target, division, "COCO")


def convert_crowdhuman(source: Source, target: Target, box: PersonBox) -> Summary:
    """CrowdHuman's .odgt files as COCO, with a choice of the box."""
    files = crowdhuman.find_files(source.path)
    if not files:
        raise DataError(
            f"{source.path}: no .odgt file here",
            hint="give annotation_train.odgt, or the folder that holds it",
        )
    documents = crowdhuman.read_documents(files, source.images, box=box, progress=target.progress)
    _log_faults(documents)
    return _write_divided(documents, target, None, "COCO")


def convert_to_voc(
    source: Source, target: Target, division: Division | None = None, *, keep_crowds: bool = False
) -> Summary:
    """Any data set as Pascal VOC."""
    return _write_divided(source.open(target.progress), target, division, "VOC", keep_crowds)


def convert_to_yolo(
    source: Source, target: Target, division: Division | None = None, *, keep_crowds: bool = False
) -> Summary:
    """Any data set that training reads as YOLO."""
    if crowdhuman.find_files(source.path):
        raise UsageError(
            f"{source.path}: CrowdHuman goes to COCO first",
            hint="`detrkit convert crowdhuman`, then `detrkit convert to-yolo` of the result",
        )
    if source.images is not None:
        raise UsageError("--images: YOLO is made from data sets that find their own images")
    indices = open_splits(source.path, splits=source.lists, check_images="all")
    notes: list[str] = []
    if division is not None:
        indices, notes = _divided(indices, source.path, division)
    summary = to_yolo.write(
        indices,
        target.output,
        place=target.place,
        keep_crowds=keep_crowds,
        force=target.force,
        sources=[source.path],
        progress=target.progress,
    )
    return replace(summary, notes=notes + summary.notes)


def change_categories(
    source: Source, target: Target, changes: Callable[[Sequence[str]], ClassChanges]
) -> Summary:
    """A data set with other classes, as COCO.

    Args:
        source, target: as elsewhere.
        changes: gets the names of the classes and says what becomes of them.
    """
    documents = source.open(target.progress)
    change = changes(next(iter(documents.values())).names)
    changed = {split: change.apply(document) for split, document in documents.items()}
    return _write_coco(changed, target, sources_of(documents))


def split_dataset(source: Source, target: Target, division: Division) -> Summary:
    """All images of a data set, divided anew, as COCO."""
    return _write_divided(source.open(target.progress), target, division, "COCO")


def merge_datasets(sources: Sequence[Source], target: Target) -> Summary:
    """Several data sets as one, as COCO: split by split, or all in one file."""
    opened = [source.open(target.progress) for source in sources]
    by_split = {
        split: [documents[split] for documents in opened if split in documents]
        for split in SPLIT_NAMES
        if any(split in documents for documents in opened)
    }
    if target.output.suffix.lower() == ".json" and len(by_split) > 1:
        by_split = {"train": [d for documents in opened for d in documents.values()]}
    # all splits get the same classes, so those of one split are not enough to merge it
    same_classes = iter(with_same_classes([d for group in by_split.values() for d in group]))
    merged: dict[str, CocoDocument] = {}
    notes = []
    for split, group in by_split.items():
        result = merge([next(same_classes) for _ in group])
        merged[split] = result.document
        if result.joined:
            notes.append(f"{result.joined} images of `{split}` were in several sources: joined")
        if result.renumbered:
            notes.append(f"{result.renumbered} images of `{split}` got a new id: theirs was taken")
    read = [path for documents in opened for path in sources_of(documents)]
    return _write_coco(merged, target, read, notes)


def sample_dataset(
    source: Source,
    target: Target,
    *,
    count: int | None = None,
    fraction: float | None = None,
    per_class: int | None = None,
    seed: int = 0,
    stratify: bool = False,
) -> Summary:
    """Some images of each split, as COCO; one of `count`, `fraction` and `per_class` says which.

    Raises:
        UsageError: not exactly one of them is given, or it cannot be had.
    """
    if sum(value is not None for value in (count, fraction, per_class)) != 1:
        raise UsageError("give one of --count, --fraction and --per-class")
    if fraction is not None and not 0 < fraction <= 1:
        raise UsageError(f"--fraction {fraction}: must be above 0 and at most 1")
    if stratify and per_class is not None:
        raise UsageError("--per-class balances the classes by itself: leave out --stratify")
    documents = source.open(target.progress)
    chosen: dict[str, CocoDocument] = {}
    for split, document in documents.items():
        boxes = _boxes(document)
        if per_class is not None:
            rows = choose_per_class(boxes, per_class, seed=seed)
        else:
            wanted = count or max(1, round((fraction or 0) * len(document)))
            rows = choose(boxes, wanted, seed=seed, stratify=stratify)
        chosen[split] = document.subset(rows)
    return _write_coco(chosen, target, sources_of(documents))


def sources_of(documents: Mapping[str, CocoDocument]) -> list[Path]:
    """The files that documents are read from."""
    return [Path(document.source) for document in documents.values()]


def _write_divided(
    documents: dict[str, CocoDocument],
    target: Target,
    division: Division | None,
    form: str,
    keep_crowds: bool = False,
) -> Summary:
    read = sources_of(documents)
    notes: list[str] = []
    if division is not None:
        pooled = merge(list(documents.values()))
        whole = pooled.document
        names = [str(image["file_name"]) for image in whole.images]
        parts, notes = division.parts(_boxes(whole), names)
        if pooled.joined:
            notes.append(f"{pooled.joined} images were in several splits, taken once")
        documents = {
            split: whole.subset(np.flatnonzero(parts == number))
            for number, split in enumerate(division.ratios)
        }
    if form == "COCO":
        return _write_coco(documents, target, read, notes)
    summary = to_voc.write(
        documents,
        target.output,
        place=target.place,
        keep_crowds=keep_crowds,
        force=target.force,
        sources=read,
        progress=target.progress,
    )
    return replace(summary, notes=notes + summary.notes)


def _divided(
    indices: Mapping[str, DatasetIndex], root: Path, division: Division
) -> tuple[dict[str, DatasetIndex], list[str]]:
    """All images divided anew, each once, and what is worth knowing about it."""
    pool = DatasetIndex.concat(list(indices.values()))
    _, first = np.unique([os.path.abspath(path) for path in pool.paths], return_index=True)
    notes = []
    if len(first) < len(pool):
        notes.append(f"{len(pool) - len(first)} images were in several splits, taken once")
        pool = pool.subset(np.sort(first))
    owners = np.repeat(np.arange(len(pool)), np.diff(pool.offsets))
    folder = root if root.is_dir() else root.parent
    names = [relative_name(Path(path), folder) for path in pool.paths]
    parts, more = division.parts(Boxes(len(pool), owners, pool.labels), names)
    divided = {
        split: pool.subset(np.flatnonzero(parts == number))
        for number, split in enumerate(division.ratios)
    }
    return divided, notes + more


def _write_coco(
    documents: Mapping[str, CocoDocument],
    target: Target,
    read: list[Path],
    notes: Sequence[str] = (),
) -> Summary:
    summary = to_coco.write(
        documents,
        target.output,
        place=target.place,
        force=target.force,
        sources=read,
        progress=target.progress,
    )
    return replace(summary, notes=[*notes, *summary.notes])


def _boxes(document: CocoDocument) -> Boxes:
    kept = document.kept
    return Boxes(len(document), document.owners[kept], document.labels[kept])


def _log_faults(documents: Mapping[str, CocoDocument]) -> None:
    FaultReport.merge(document.faults for document in documents.values()).log()
