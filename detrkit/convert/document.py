"""A data set as its files tell it: what converters work on.

A `DatasetIndex` keeps what training needs. A converter must keep the rest as well: segments,
flags, licences, keys that nobody knows. Structure is columns here (which image, which category,
which id), so that splitting and merging are array operations; the entries themselves are read
from the file whenever they are written, and never all in memory.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from detrkit.data.faults import FaultKind, FaultReport

#: Stands in `CocoDocument.ids` for an annotation without an id, or with one that is no integer.
NO_ID = np.iinfo(np.int64).min

#: Stands in `CocoDocument.owners` for an annotation that is left out.
LEFT_OUT = -1

_CHUNK = 1 << 16

Number = TypeVar("Number", bound=np.generic)


@dataclass(frozen=True)
class CocoDocument:
    """N images, C categories, and R annotation entries, of which some are left out.

    Attributes:
        source: file or folder it was read from, for messages.
        images: N entries, each with a unique `id` and a `file_name`, and whatever else they have.
        files: N image files, as far as they could be found.
        categories: C entries, each with a unique `id` and a `name`.
        entries: R annotation entries as they were written; read anew at each iteration. Their
            `image_id` and `category_id` are not looked at: the columns count.
        owners: (R,) int32, which of `images` an entry belongs to; `LEFT_OUT` drops it.
        labels: (R,) int32, which of `categories`; LEFT_OUT where `owners` is.
        ids: (R,) int64, annotation ids, or `NO_ID`.
        more: further members of the file, such as `info` and `licenses`.
        faults: what was wrong, and what was left out for it.
    """

    source: str
    images: list[dict[str, Any]]
    files: list[Path]
    categories: list[dict[str, Any]]
    entries: Iterable[Mapping[str, Any]]
    owners: npt.NDArray[np.int32]
    labels: npt.NDArray[np.int32]
    ids: npt.NDArray[np.int64]
    more: dict[str, Any] = field(default_factory=dict)
    faults: FaultReport = field(default_factory=FaultReport)

    def __len__(self) -> int:
        return len(self.images)

    @property
    def kept(self) -> npt.NDArray[np.bool_]:
        """(R,) which entries belong to the document."""
        return self.owners != LEFT_OUT

    @property
    def num_annotations(self) -> int:
        """How many entries belong to the document."""
        return int(np.count_nonzero(self.kept))

    @property
    def names(self) -> list[str]:
        """(C,) category names."""
        return [str(category["name"]) for category in self.categories]

    def per_category(self) -> npt.NDArray[np.int64]:
        """(C,) how many annotations."""
        return np.bincount(self.labels[self.kept], minlength=len(self.categories))

    def per_image(self) -> npt.NDArray[np.int64]:
        """(N,) how many annotations."""
        return np.bincount(self.owners[self.kept], minlength=len(self.images))

    def annotations(self) -> Iterator[dict[str, Any]]:
        """The annotations, ready to be written.

        Ids are kept; one that is missing or was used before becomes the next free number.
        """
        numbers = settle_ids(self.ids, self.kept)
        columns = (values(self.owners), values(self.labels), values(numbers))
        images = [image["id"] for image in self.images]
        categories = [category["id"] for category in self.categories]
        for entry, owner, label, number in zip(self.entries, *columns, strict=True):
            if owner == LEFT_OUT:
                continue
            written = dict(entry)
            written["id"] = number
            written["image_id"] = images[owner]
            written["category_id"] = categories[label]
            yield written

    def by_image(self) -> Iterator[tuple[int, list[dict[str, Any]]]]:
        """Pairs of image row and its annotations, for all images; needs all of them in memory."""
        groups: list[list[dict[str, Any]]] = [[] for _ in self.images]
        row_of_id = {image["id"]: row for row, image in enumerate(self.images)}
        for annotation in self.annotations():
            groups[row_of_id[annotation["image_id"]]].append(annotation)
        return iter(enumerate(groups))

    def subset(self, rows: Sequence[int] | npt.NDArray[np.integer]) -> CocoDocument:
        """The images at `rows`, in that order, with their annotations."""
        chosen = np.asarray(rows, np.int64).reshape(-1)
        moved = np.full(len(self.images) + 1, LEFT_OUT, np.int32)  # the last one for LEFT_OUT
        moved[chosen] = np.arange(len(chosen), dtype=np.int32)
        owners = moved[self.owners]
        return replace(
            self,
            images=[self.images[row] for row in chosen],
            files=[self.files[row] for row in chosen],
            owners=owners,
            labels=np.where(owners == LEFT_OUT, np.int32(LEFT_OUT), self.labels),
        )

    def without(self, entries: npt.NDArray[np.bool_]) -> CocoDocument:
        """The document without some of its R entries."""
        left_out = np.int32(LEFT_OUT)
        return replace(
            self,
            owners=np.where(entries, left_out, self.owners),
            labels=np.where(entries, left_out, self.labels),
        )


@dataclass(frozen=True)
class Joined:
    """Several re-iterable sequences, one after the other; itself iterable again."""

    parts: Sequence[Iterable[Mapping[str, Any]]]

    def __iter__(self) -> Iterator[Mapping[str, Any]]:
        return chain.from_iterable(self.parts)


@dataclass
class Columns:
    """Collects the columns of a document, entry by entry."""

    _open: list[tuple[int, int, int]] = field(default_factory=list)
    _packed: list[npt.NDArray[np.int64]] = field(default_factory=list)

    def add(self, owner: int, label: int, number: int = NO_ID) -> None:
        """Adds an entry."""
        self._open.append((owner, label, number))
        if len(self._open) >= _CHUNK:
            self._pack()

    def extend(self, rows: npt.NDArray[np.int64]) -> None:
        """Adds entries: (n, 3) owner, label, id."""
        self._pack()
        self._packed.append(rows)

    def leave_out(self) -> None:
        """Adds an entry that does not count."""
        self.add(LEFT_OUT, LEFT_OUT)

    def arrays(
        self,
    ) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int32], npt.NDArray[np.int64]]:
        """`owners`, `labels` and `ids` of a document."""
        self._pack()
        owners, labels, ids = np.concatenate(self._packed).T
        return owners.astype(np.int32), labels.astype(np.int32), np.ascontiguousarray(ids)

    def _pack(self) -> None:
        self._packed.append(np.asarray(self._open, np.int64).reshape(-1, 3))
        self._open = []


@dataclass
class DocumentBuilder:
    """Makes a document image by image, for formats that are read into memory.

    Attributes:
        source: file or folder, for messages.
        categories: as in `CocoDocument`.
        faults: report to add to.
    """

    source: str
    categories: list[dict[str, Any]]
    faults: FaultReport = field(default_factory=FaultReport)
    _images: list[dict[str, Any]] = field(default_factory=list)
    _files: list[Path] = field(default_factory=list)
    _entries: list[dict[str, Any]] = field(default_factory=list)
    _columns: Columns = field(default_factory=Columns)

    def add_image(self, file: Path, entry: dict[str, Any]) -> None:
        """Adds an image; annotations that follow belong to it."""
        self._files.append(file)
        self._images.append(entry)

    def add_annotation(
        self,
        corners: Sequence[float],
        label: int,
        entry: dict[str, Any],
        *,
        file: Path,
        where: str,
    ) -> None:
        """Adds an annotation of the last image; one that no file can express is left out.

        Args:
            corners: x1, y1, x2, y2 in pixels.
            label: which of `categories`.
            entry: what else belongs to it; without `area`, that of the box is taken.
            file: annotation file, for messages.
            where: place in it, for messages.
        """
        x1, y1, x2, y2 = corners
        box = [x1, y1, x2 - x1, y2 - y1]
        area = entry.get("area", box[2] * box[3])
        if not are_finite(box):
            self.faults.add(FaultKind.NOT_FINITE, file, where, f"{x1} {y1} {x2} {y2}"[:80])
            self._columns.leave_out()
            self._entries.append({})
            return
        self._columns.add(len(self._images) - 1, label)
        # of boxes that no image holds, the area may be beyond all numbers
        shape = {"bbox": [tidy(v) for v in box], "area": tidy(area) if are_finite([area]) else 0}
        shape["iscrowd"] = entry.get("iscrowd", 0)
        self._entries.append(shape | {k: v for k, v in entry.items() if k not in shape})

    def build(self) -> CocoDocument:
        """The document."""
        return CocoDocument(
            self.source,
            self._images,
            self._files,
            self.categories,
            self._entries,
            *self._columns.arrays(),
            faults=self.faults,
        )


def are_finite(numbers: Iterable[float]) -> bool:
    """Whether all of them fit in a 64-bit number and are no NaN."""
    try:
        return all(math.isfinite(number) for number in numbers)
    except OverflowError:  # an int of hundreds of digits
        return False


def tidy(value: float) -> float:
    """A number of pixels as people would write it: whole ones without a point, others without
    the noise of 64-bit arithmetic (nine decimals stay)."""
    rounded = round(value, 9)
    return int(rounded) if float(rounded).is_integer() and abs(rounded) < 1 << 53 else rounded


def settle_ids(ids: npt.NDArray[np.int64], wanted: npt.NDArray[np.bool_]) -> npt.NDArray[np.int64]:
    """(R,) unique ids for the wanted entries.

    The first to have an id keeps it; the others, and those without, are counted up from the
    largest. Equal input gives equal output.
    """
    given = wanted & (ids != NO_ID)
    rows = np.flatnonzero(given)
    _, first = np.unique(ids[rows], return_index=True)
    keeps = np.zeros(len(ids), bool)
    keeps[rows[first]] = True
    others = np.flatnonzero(wanted & ~keeps)
    settled = ids.copy()
    start = max(int(ids[rows].max(initial=0)), 0) + 1
    settled[others] = np.arange(start, start + len(others))
    return settled


def values(column: npt.NDArray[Number]) -> Iterator[Any]:
    """The values of an array as Python's own, without a list of all of them."""
    for start in range(0, len(column), _CHUNK):
        yield from column[start : start + _CHUNK].tolist()
