"""Several data sets as one: classes by name, images by file."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from detrkit.convert.document import LEFT_OUT, CocoDocument, Joined
from detrkit.convert.sources import relabelled
from detrkit.data.faults import FaultKind, FaultReport


@dataclass(frozen=True)
class Merged:
    """The result of a merge.

    Attributes:
        document: all images and annotations.
        joined: how many images were in several sources.
        renumbered: how many images got another id, because theirs was taken.
    """

    document: CocoDocument
    joined: int = 0
    renumbered: int = 0


def merge(documents: Sequence[CocoDocument]) -> Merged:
    """One document of several.

    Classes of the same name become one, with the id of the first. A file that is an image of
    several sources becomes one image with the annotations of all; a box that is repeated then is
    left out. Ids are kept where they are still free; others are counted up.
    """
    if len(documents) == 1:
        return Merged(documents[0])
    documents = with_same_classes(documents)
    images: list[dict[str, Any]] = []
    files: list[Path] = []
    owners: list[npt.NDArray[np.int32]] = []
    row_of_file: dict[str, int] = {}
    ids = _Ids()
    licenses = _Licenses()
    joined: set[int] = set()
    for document in documents:
        moved = np.empty(len(document) + 1, np.int32)
        moved[-1] = LEFT_OUT
        fresh: dict[str, int] = {}
        renamed = licenses.add(document.more.get("licenses"))
        for row, (image, file) in enumerate(zip(document.images, document.files, strict=True)):
            key = os.path.normcase(os.path.abspath(file))
            if key in row_of_file:
                moved[row] = row_of_file[key]
                joined.add(row_of_file[key])
                continue
            moved[row] = len(images)
            fresh.setdefault(key, len(images))
            changes: dict[str, Any] = {"id": ids.settle(image["id"])}
            license_id = image.get("license")
            if isinstance(license_id, int | str) and license_id in renamed:
                changes["license"] = renamed[license_id]
            new = any(image[key] != value for key, value in changes.items())
            images.append(image | changes if new else image)
            files.append(file)
        row_of_file |= fresh
        owners.append(moved[document.owners])
    first = documents[0]
    merged = CocoDocument(
        ", ".join(document.source for document in documents),
        images,
        files,
        first.categories,
        Joined([document.entries for document in documents]),
        np.concatenate(owners),
        np.concatenate([document.labels for document in documents]),
        np.concatenate([document.ids for document in documents]),
        first.more | licenses.member(),
        FaultReport.merge(document.faults for document in documents),
    )
    if joined:
        source_of = np.repeat(np.arange(len(documents)), [len(d.owners) for d in documents])
        merged = _without_repeated_boxes(merged, joined, source_of)
    return Merged(merged, len(joined), ids.changed)


def with_same_classes(documents: Sequence[CocoDocument]) -> list[CocoDocument]:
    """The documents with the classes of all, matched by name; the first to use an id keeps it."""
    label_of: dict[str, int] = {}
    categories: list[dict[str, Any]] = []
    ids = _Ids()
    labels: list[list[int]] = []
    for document in documents:
        # two categories of one document may have the same name; they stay two
        own: dict[str, int] = {}
        row: list[int] = []
        for category in document.categories:
            name = str(category["name"])
            if name in label_of:
                row.append(label_of[name])
                continue
            row.append(len(categories))
            own.setdefault(name, len(categories))
            categories.append(category | {"id": ids.settle(category["id"])})
        label_of |= own
        labels.append(row)
    return [
        relabelled(document, categories, row)
        for document, row in zip(documents, labels, strict=True)
    ]


class _Ids:
    """Gives out ids, the wanted one if it is free."""

    def __init__(self) -> None:
        self._taken: set[int | str] = set()
        self._next = 1
        self.changed = 0

    def settle(self, wanted: int | str) -> int | str:
        """`wanted`, or another id of the same type."""
        settled = wanted
        if wanted in self._taken:
            self.changed += 1
            settled = self._free(wanted)
        self._taken.add(settled)
        if isinstance(settled, int):
            self._next = max(self._next, settled + 1)
        return settled

    def _free(self, wanted: int | str) -> int | str:
        if isinstance(wanted, int):
            return self._next
        number = 2
        while f"{wanted}_{number}" in self._taken:
            number += 1
        return f"{wanted}_{number}"


class _Licenses:
    """Collects the `licenses` of several files."""

    def __init__(self) -> None:
        self._entries: list[dict[str, Any]] = []
        self._ids = _Ids()

    def add(self, entries: object) -> dict[Any, int | str]:
        """Takes a file's entries; {id in the file: id in the result}."""
        renamed: dict[Any, int | str] = {}
        for entry in entries if isinstance(entries, list) else []:
            if not isinstance(entry, dict) or not isinstance(entry.get("id"), int | str):
                continue
            known = next((e for e in self._entries if e == entry | {"id": e["id"]}), None)
            if known is None:
                known = entry | {"id": self._ids.settle(entry["id"])}
                self._entries.append(known)
            renamed[entry["id"]] = known["id"]
        return renamed

    def member(self) -> dict[str, Any]:
        """`licenses` of the result, if any file has it."""
        return {"licenses": self._entries} if self._entries else {}


def _without_repeated_boxes(
    document: CocoDocument, joined: set[int], source_of: npt.NDArray[np.int64]
) -> CocoDocument:
    """Leaves out boxes that an earlier source has, among images that several sources have.

    Args:
        document: of all sources.
        joined: rows of those images.
        source_of: which source each entry is of.
    """
    among = np.zeros(len(document) + 1, bool)
    among[list(joined)] = True
    interesting = among[document.owners]
    repeated = np.zeros(len(document.owners), bool)
    first_source: dict[tuple[object, ...], int] = {}
    for place, entry in enumerate(document.entries):
        if not interesting[place]:
            continue
        owner, source = int(document.owners[place]), int(source_of[place])
        key = (owner, int(document.labels[place]), *entry["bbox"])
        if first_source.setdefault(key, source) < source:
            repeated[place] = True
            where = f"image {document.images[owner]['file_name']}"
            document.faults.add(FaultKind.REPEATED_BOX, document.source, where, f"{entry['bbox']}")
    return document.without(repeated)
