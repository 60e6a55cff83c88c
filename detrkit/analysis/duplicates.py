"""Pictures that a data set holds more than once, above all in two splits.

Three signs, from certain to probable: two entries name the same file; the file names are those
of two versions that Roboflow made of one picture (`name.rf.<hash>.jpg`); the pictures look the
same (perceptual hashes within `MAX_DISTANCE` bits and miniatures that agree), which scaled,
recompressed and brightened copies do as well as consecutive frames of a still scene.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Hashable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from enum import Enum
from itertools import combinations
from pathlib import PurePath
from typing import Any

import numpy as np
import numpy.typing as npt

from detrkit.analysis.hashing import near_pairs
from detrkit.analysis.pairs import Rows
from detrkit.analysis.pictures import PictureScan
from detrkit.analysis.statistics import owners_of
from detrkit.data.index import DatasetIndex

#: Bits of 64 in which the hashes of copies may differ.
MAX_DISTANCE = 6
#: Correlation of two miniatures from which they show the same.
MIN_CORRELATION = 0.95
#: Grey levels: below this deviation a miniature is flat and compared by its values instead.
FLAT, FLAT_DIFFERENCE = 3.0, 2.0
#: Groups that are listed; all are counted.
LISTED_GROUPS = 1000

_ROBOFLOW = re.compile(r"(.+)\.rf\.[0-9A-Za-z]{16,}\.\w+")

#: Pairs of images: first and second rows.
Edges = tuple[Rows, Rows]

_NONE: Edges = (np.zeros(0, np.int64), np.zeros(0, np.int64))


class Sameness(str, Enum):
    """Why pictures are taken for one."""

    FILE = "the same file"
    SOURCE = "versions of one picture, by their names"
    PICTURE = "the same picture"


@dataclass(frozen=True)
class Copy:
    """One of several pictures that are the same.

    Attributes:
        split: part of the data.
        image: its number there.
        file: the picture.
        image_id: the data set's own.
        boxes: that train.
    """

    split: str
    image: int
    file: str
    image_id: int | str
    boxes: int


@dataclass(frozen=True)
class CopyGroup:
    """Pictures that are the same, directly or through others of the group.

    Attributes:
        signs: why.
        copies: at least two.
    """

    signs: tuple[Sameness, ...]
    copies: tuple[Copy, ...]

    @property
    def splits(self) -> list[str]:
        """The splits that it lies in."""
        return list(dict.fromkeys(copy.split for copy in self.copies))

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        copies = [asdict(copy) for copy in self.copies]
        for copy in copies:
            del copy["image"]
        return {"signs": [sign.value for sign in self.signs], "copies": copies}


@dataclass(frozen=True)
class DuplicateImages:
    """What is there more than once.

    Attributes:
        looked_at_pictures: False: only names were compared.
        leaks: {(a, b): images of split b that are in split a as well}.
        groups_count: how many groups there are.
        surplus: images that could go if one of each group stayed, by the strongest sign in it.
        groups: those across splits first, then the largest; at most `LISTED_GROUPS`.
    """

    looked_at_pictures: bool = False
    leaks: Mapping[tuple[str, str], int] = field(default_factory=dict)
    groups_count: int = 0
    surplus: Mapping[Sameness, int] = field(default_factory=dict)
    groups: tuple[CopyGroup, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {
            "looked_at_pictures": self.looked_at_pictures,
            "leaks": [
                {"of": b, "also_in": a, "images": count} for (a, b), count in self.leaks.items()
            ],
            "groups_count": self.groups_count,
            "surplus": {sign.value: count for sign, count in self.surplus.items()},
            "groups": [group.to_dict() for group in self.groups],
        }


def find_duplicates(
    parts: Mapping[str, DatasetIndex], scans: Mapping[str, PictureScan] | None = None
) -> DuplicateImages:
    """Compares all pictures of all splits.

    Args:
        parts: the splits.
        scans: what their pictures look like; None compares names only.
    """
    total = sum(len(part) for part in parts.values())
    part_of = np.repeat(np.arange(len(parts)), [len(part) for part in parts.values()])
    paths = [path for part in parts.values() for path in part.paths]
    edges = {
        Sameness.FILE: _same_file(paths, part_of),
        Sameness.SOURCE: _equal(map(_source_of, paths)),
    }
    near = _NONE
    if scans is not None:
        hashes = np.concatenate([scans[name].hashes for name in parts])
        miniatures = np.concatenate([scans[name].miniatures for name in parts])
        readable = np.concatenate([scans[name].readable for name in parts])
        edges[Sameness.PICTURE], near = _alike(hashes, miniatures, np.flatnonzero(readable))
    firm = _joined(edges.values())
    copies_in = _splits_of_copies(np.left_shift(np.int64(1), part_of), firm, near)
    leaks = {}
    for (i, a), (j, b) in combinations(enumerate(parts), 2):
        count = int(((part_of == j) & (copies_in >> i & 1 > 0)).sum())
        if count:
            leaks[a, b] = count
    if Sameness.PICTURE in edges:
        edges[Sameness.PICTURE] = _joined([edges[Sameness.PICTURE], near])
    groups = _groups(total, _joined(edges.values()))
    signs = _signs(groups, total, edges)
    surplus: Counter[Sameness] = Counter()
    for group, found in zip(groups, signs, strict=True):
        surplus[found[0]] += len(group) - 1
    return DuplicateImages(
        looked_at_pictures=scans is not None,
        leaks=leaks,
        groups_count=len(groups),
        surplus=dict(surplus),
        groups=_described(groups, signs, parts, part_of, paths),
    )


def _source_of(path: str) -> str | None:
    """The picture that Roboflow made this version of, by its name."""
    match = _ROBOFLOW.fullmatch(PurePath(path).name) if ".rf." in path else None
    return match[1] if match else None


def _equal(keys: Iterable[Hashable]) -> Edges:
    """Edges from the first row of each key to the others; None is no key."""
    first: dict[Hashable, int] = {}
    pairs = []
    for row, key in enumerate(keys):
        if key is not None and first.setdefault(key, row) != row:
            pairs.append((first[key], row))
    array = np.asarray(pairs, np.int64).reshape(-1, 2)
    return array[:, 0], array[:, 1]


def _same_file(paths: list[str], part_of: Rows) -> Edges:
    """Entries that name one file.

    Where nobody looked for the files, paths are guesses: the name alone makes two entries of one
    split the same, yet in two splits it may stand in two folders.
    """
    first, second = _equal(paths)
    sure = part_of[first] == part_of[second]
    for i in np.flatnonzero(~sure):
        sure[i] = os.path.isfile(paths[first[i]])
    return first[sure], second[sure]


def _joined(parts: Iterable[Edges]) -> Edges:
    several = [_NONE, *parts]
    return np.concatenate([a for a, _ in several]), np.concatenate([b for _, b in several])


def _alike(
    hashes: npt.NDArray[np.uint64], miniatures: npt.NDArray[np.uint8], rows: Rows
) -> tuple[Edges, Edges]:
    """Edges between pictures that look the same: with equal hashes, and with near ones.

    Of pictures with equal hashes that agree, the first stands for the others: however many
    copies there are, the number of edges stays linear.
    """
    equal, stars = [], [rows[:0]]
    while len(rows):
        _, at, group = np.unique(hashes[rows], return_index=True, return_inverse=True)
        star = rows[at][group.reshape(-1)]
        same = same_look(miniatures[star], miniatures[rows])
        copies = same & (star != rows)
        equal.append((star[copies], rows[copies]))
        stars.append(rows[at])
        rows = rows[~same & (star != rows)]  # equal hashes by chance: they get another star
    chosen = np.sort(np.concatenate(stars))
    a, b = near_pairs(hashes[chosen], MAX_DISTANCE)
    near = same_look(miniatures[chosen[a]], miniatures[chosen[b]])
    return _joined(equal), (chosen[a[near]], chosen[b[near]])


def same_look(
    a: npt.NDArray[np.uint8], b: npt.NDArray[np.uint8], chunk: int = 65536
) -> npt.NDArray[np.bool_]:
    """Whether miniatures (P, s, s) show the same, row by row, up to brightness and contrast."""
    result = np.zeros(len(a), bool)
    for start in range(0, len(a), chunk):
        rows = slice(start, start + chunk)
        x = a[rows].reshape(len(a[rows]), -1).astype(np.float32)
        y = b[rows].reshape(len(b[rows]), -1).astype(np.float32)
        difference = np.abs(x - y).mean(1)
        x -= x.mean(1, keepdims=True)
        y -= y.mean(1, keepdims=True)
        norms = np.sqrt((x * x).mean(1)), np.sqrt((y * y).mean(1))
        flat = np.minimum(*norms) < FLAT
        correlation = (x * y).mean(1) / np.maximum(norms[0] * norms[1], 1e-6)
        result[rows] = np.where(flat, difference < FLAT_DIFFERENCE, correlation >= MIN_CORRELATION)
    return result


def _labels(total: int, edges: Edges) -> Rows:
    """(total,) number of the connected component of each image."""
    from scipy import sparse
    from scipy.sparse.csgraph import connected_components

    links = sparse.coo_matrix((np.ones(len(edges[0]), bool), edges), shape=(total, total))
    label: Rows = connected_components(links, directed=False)[1].astype(np.int64)
    return label


def _groups(total: int, edges: Edges) -> list[Rows]:
    """Groups of at least two connected images."""
    linked = np.unique(np.concatenate(edges))
    label = _labels(total, edges)[linked]
    order = np.argsort(label, kind="stable")
    cuts = np.flatnonzero(np.diff(label[order])) + 1
    return np.split(linked[order], cuts) if len(linked) else []


def _splits_of_copies(bits: npt.NDArray[np.int64], firm: Edges, near: Edges) -> Rows:
    """For each image the splits (as bits) that hold a copy of it, itself included.

    A copy is firmly linked, or one step away from what is: along a chain of frames, each like
    the next, the last is no copy of the first.
    """
    label = _labels(len(bits), firm)
    own = np.zeros(len(bits), np.int64)
    np.bitwise_or.at(own, label, bits)
    around = own.copy()
    for a, b in (near, near[::-1]):
        np.bitwise_or.at(around, label[a], own[label[b]])
    return around[label]


def _signs(
    groups: list[Rows], total: int, edges: Mapping[Sameness, Edges]
) -> list[tuple[Sameness, ...]]:
    """For each group the signs that link it, strongest first."""
    linked = {}
    for sign, found in edges.items():
        linked[sign] = np.zeros(total, bool)
        linked[sign][np.concatenate(found)] = True
    return [
        tuple(sign for sign in Sameness if sign in linked and linked[sign][group].any())
        for group in groups
    ]


def _described(
    groups: list[Rows],
    signs: list[tuple[Sameness, ...]],
    parts: Mapping[str, DatasetIndex],
    part_of: Rows,
    paths: list[str],
) -> tuple[CopyGroup, ...]:
    """The groups that are listed, in words."""
    names, indices = list(parts), list(parts.values())
    starts = np.concatenate([[0], np.cumsum([len(part) for part in indices])])
    boxes = [np.bincount(owners_of(p)[~p.iscrowd], minlength=len(p)) for p in indices]

    def importance(number: int) -> tuple[bool, int]:
        group = groups[number]
        return len(set(part_of[group].tolist())) < 2, -len(group)

    described = []
    for number in sorted(range(len(groups)), key=importance)[:LISTED_GROUPS]:
        copies = []
        for row in groups[number].tolist():
            part = int(part_of[row])
            image = row - int(starts[part])
            copies.append(
                Copy(
                    split=names[part],
                    image=image,
                    file=paths[row],
                    image_id=indices[part].image_id(image),
                    boxes=int(boxes[part][image]),
                )
            )
        described.append(CopyGroup(signs[number], tuple(copies)))
    return tuple(described)
