"""Dividing images among splits: seeded, in exact proportions, balanced over the classes.

The balanced division is a greedy one after Sechidis, Tsoumakas & Vlahavas, "On the
Stratification of Multi-label Data", ECML PKDD 2011, algorithm 1: the class with the fewest images
left is dealt out first, each image to the part that lacks most of that class. Two changes: what a
part lacks is counted in boxes, which is what a detector learns from, images with most boxes first;
and a part that has its number of images gets no more.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from detrkit.errors import UsageError

_STREAM = 0xD1F5  # keeps these random numbers apart from others with the same seed


@dataclass(frozen=True)
class Boxes:
    """Which classes are in which images.

    Attributes:
        images: N.
        owners: (M,) image of each box.
        labels: (M,) class of each box.
    """

    images: int
    owners: npt.NDArray[np.integer]
    labels: npt.NDArray[np.integer]


def parse_ratios(text: str) -> dict[str, float]:
    """`0.8,0.1,0.1`, `80,20` or `train=0.7,val=0.3` -> {split: share}, adding up to 1.

    Raises:
        UsageError: it is none of these.
    """
    names = ("train", "val", "test")
    hint = "e.g. 0.8,0.2 (train, val), 8,1,1 (train, val, test) or train=0.7,test=0.3"
    items = [item.strip() for item in text.split(",")]
    if len(items) > len(names):
        raise UsageError(f"--ratios {text}: more than three parts", hint=hint)
    ratios: dict[str, float] = {}
    for place, item in enumerate(items):
        name, _, value = item.rpartition("=")
        name = name.strip() or names[place]
        try:
            share = float(value)
        except ValueError:
            share = float("nan")
        if name not in names or name in ratios or not 0 < share < float("inf"):
            raise UsageError(f"--ratios {text}: `{item}` cannot be used", hint=hint)
        ratios[name] = share
    total = sum(ratios.values())
    return {name: ratios[name] / total for name in names if name in ratios}


def groups_of(names: Sequence[str], pattern: str) -> tuple[npt.NDArray[np.int64], int]:
    """Numbers the groups of images that must stay together, such as the frames of a video.

    Args:
        names: file names.
        pattern: regular expression; images are together where its groups match the same text, or
            the whole match where it has no groups.

    Returns:
        (N,) group of each image, and the number of names that do not match; each of those is a
        group of its own.

    Raises:
        UsageError: the expression is invalid, or no name matches.
    """
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise UsageError(f"--group-by {pattern}: {error}") from error
    numbers: dict[object, int] = {}
    unmatched = 0
    groups = np.empty(len(names), np.int64)
    for place, name in enumerate(names):
        match = compiled.search(name)
        key: object = place
        if match is None:
            unmatched += 1
        else:
            key = match.groups() or (match[0],)
        groups[place] = numbers.setdefault(key, len(numbers))
    if names and unmatched == len(names):
        raise UsageError(
            f"--group-by {pattern}: matches none of the file names, e.g. `{names[0]}`",
            hint="e.g. '([^/]+)_\\d+' puts clip7_0001.jpg and clip7_0002.jpg together",
        )
    return groups, unmatched


def divide(
    boxes: Boxes,
    shares: Sequence[float],
    *,
    seed: int = 0,
    stratify: bool = False,
    groups: npt.NDArray[np.int64] | None = None,
) -> npt.NDArray[np.int64]:
    """(N,) which part each image belongs to.

    Without groups the parts have the sizes that the shares say, rounded, and at least one image.

    Args:
        boxes: classes of the images.
        shares: of the parts; they add up to 1.
        seed: equal seeds give equal parts.
        stratify: give every part its share of the boxes of each class, as far as that goes.
        groups: (N,) images of one group stay together.

    Raises:
        UsageError: there are fewer images, or groups, than parts.
    """
    if groups is None:
        groups = np.arange(boxes.images)
    sizes = np.bincount(groups)
    if len(sizes) < len(shares):
        what = "groups" if len(sizes) < boxes.images else "images"
        raise UsageError(f"{len(sizes)} {what} cannot be divided into {len(shares)} parts")
    room = _rounded(shares, boxes.images)
    dealer = _Dealer(sizes, shares, room, np.random.default_rng([seed, _STREAM]))
    if stratify:
        dealer.deal_by_class(groups[boxes.owners], boxes.labels)
    dealer.deal_rest()
    return dealer.parts[groups]


def _rounded(shares: Sequence[float], total: int) -> list[int]:
    """Whole numbers that add up to `total`, at least 1 each, by the largest remainders."""
    exact = np.asarray(shares) * total
    counts = np.floor(exact).astype(int)
    for part in np.argsort(counts - exact, kind="stable")[: total - counts.sum()]:
        counts[part] += 1
    while (counts < 1).any():
        counts[counts.argmin()] += 1
        counts[counts.argmax()] -= 1
    return counts.tolist()


class _Dealer:
    """Gives groups of images to parts, one after the other."""

    def __init__(
        self,
        sizes: npt.NDArray[np.int64],
        shares: Sequence[float],
        room: list[int],
        rng: np.random.Generator,
    ) -> None:
        self.parts = np.full(len(sizes), -1, np.int64)
        self._sizes = sizes.tolist()
        self._shares = shares
        self._room = room
        self._order = rng.permutation(len(sizes))

    def deal_by_class(self, groups: npt.NDArray[np.int64], labels: npt.NDArray[np.integer]) -> None:
        """Deals out the groups that have boxes, the rarest class first."""
        if not len(labels):
            return
        classes = int(labels.max()) + 1
        pairs, counts = np.unique(groups * classes + labels, return_counts=True)
        owners, kinds = np.divmod(pairs, classes)
        lacking = [
            (np.bincount(labels, minlength=classes) * share).tolist() for share in self._shares
        ]
        starts = np.searchsorted(owners, np.arange(len(self._sizes) + 1)).tolist()
        content = list(zip(kinds.tolist(), counts.tolist(), strict=True))
        left = np.bincount(kinds, minlength=classes)
        rank = np.empty(len(self._order), np.int64)
        rank[self._order] = np.arange(len(self._order))
        by_kind = np.lexsort((rank[owners], -counts, kinds))
        bounds = np.searchsorted(kinds[by_kind], np.arange(classes + 1))
        while left.any():
            kind = int(np.where(left > 0, left, np.iinfo(np.int64).max).argmin())
            for group in owners[by_kind[bounds[kind] : bounds[kind + 1]]].tolist():
                if self.parts[group] >= 0:
                    continue
                part = self._choose([row[kind] for row in lacking])
                self._give(group, part)
                for other, count in content[starts[group] : starts[group + 1]]:
                    lacking[part][other] -= count
                    left[other] -= 1

    def deal_rest(self) -> None:
        """Deals out the other groups, large ones first, to where there is most room."""
        rest = [g for g in self._order.tolist() if self.parts[g] < 0]
        for group in sorted(rest, key=lambda g: -self._sizes[g]):
            self._give(group, self._choose([0.0] * len(self._room)))

    def _choose(self, lacking: list[float]) -> int:
        """The part that lacks most; of equals, and where all is full, the one with most room."""
        parts = range(len(self._room))
        free = [part for part in parts if self._room[part] > 0] or list(parts)
        return max(free, key=lambda part: (lacking[part], self._room[part], -part))

    def _give(self, group: int, part: int) -> None:
        self.parts[group] = part
        self._room[part] -= self._sizes[group]
