"""Boxes that are probably mistakes, ranked, each with its reason and its place.

The score orders what to look at first; it is no probability. Certain mistakes (a box that has no
size) score 1, oddities that real objects show as well (very small, very long) score low.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum
from itertools import chain, zip_longest
from typing import Any

import numpy as np
import numpy.typing as npt

from detrkit.analysis.numbers import grouped_median
from detrkit.analysis.pairs import best_earlier_partner
from detrkit.analysis.setup import TrainingSetup
from detrkit.analysis.statistics import owners_of
from detrkit.data.faults import FaultKind, FaultReport
from detrkit.data.index import DatasetIndex

#: IoU from which two boxes of an image are taken for the same object; and from which two of one
#: class probably are.
DUPLICATE_IOU, OVERLAP_IOU = 0.95, 0.8
#: Share of the image that makes a box giant.
GIANT_SHARE = 0.95
#: Long side over short side; and how much more than the class's median that has to be.
EXTREME_ASPECT, ASPECT_OVER_CLASS = 10.0, 3.0
#: Boxes whose longer side is shorter at the input: half a cell of the finest map (stride 8).
TINY_SIDE = 4.0
#: Images that must hold the same box.
MIN_REPEATS = 5
#: Annotated area over box area; a mask cannot be larger than its box.
AREA_OVER_BOX = 1.05
#: Boxes kept per reason, worst first; all of them are counted.
LISTED = 1000


Box = tuple[float, float, float, float]


class Reason(Enum):
    """Why a box is suspicious: a name, and what it means."""

    INVALID = ("invalid", "without size, outside the image or not a number; left out")
    DUPLICATE = ("duplicate", f"same class, IoU of {DUPLICATE_IOU} or more with an earlier box")
    CONFLICT = ("conflict", f"another class, IoU of {DUPLICATE_IOU} or more with an earlier box")
    WRONG_SIZE = ("wrong-size", "the annotation gives the image another size than the file has")
    OVERLAP = ("overlap", f"same class, IoU of {OVERLAP_IOU} to {DUPLICATE_IOU}: boxed twice?")
    CLIPPED = ("clipped", "reached over the border by more than a pixel; clipped")
    REPEATED = (
        "repeated",
        "exactly the same place in several images: a template, or a fixed scene",
    )
    AREA = ("area", "annotated area larger than the box")
    GIANT = ("giant", f"covers more than {100 * GIANT_SHARE:g} % of the image")
    ASPECT = ("aspect", f"longer than {EXTREME_ASPECT:g}:1 and unlike its class")
    TINY = ("tiny", f"under {TINY_SIDE:g} px at the input in both directions, or under 1 px in one")

    @property
    def code(self) -> str:
        """Stable name."""
        return self.value[0]

    @property
    def meaning(self) -> str:
        """One line."""
        return self.value[1]


#: What is found while the annotations are read, and its score.
_FAULTS = {
    FaultKind.EMPTY_BOX: (Reason.INVALID, 1.0),
    FaultKind.OUTSIDE: (Reason.INVALID, 1.0),
    FaultKind.NOT_FINITE: (Reason.INVALID, 1.0),
    FaultKind.SIZE_MISMATCH: (Reason.WRONG_SIZE, 0.8),
    FaultKind.CLIPPED: (Reason.CLIPPED, 0.6),
}


@dataclass(frozen=True)
class Suspect:
    """One suspicious box.

    Attributes:
        reason: why.
        score: 0–1, what to look at first.
        split: part of the data.
        file: the image; for `INVALID`, `CLIPPED` and `WRONG_SIZE` the file that the fault names.
        where: the box in it: "annotation 17", "box 3", "line 3".
        detail: numbers.
        image: number of the image in the split; None where the box was left out.
        image_id, annotation_id: the data set's own.
        class_name: as the data set has it.
        box_xyxy: pixels of the file.
        other_xyxy: the earlier box that it lies on.
    """

    reason: Reason
    score: float
    split: str
    file: str
    where: str
    detail: str
    image: int | None = None
    image_id: int | str | None = None
    annotation_id: int | None = None
    class_name: str | None = None
    box_xyxy: Box | None = None
    other_xyxy: Box | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        values = {
            name: getattr(self, name) for name in self.__dataclass_fields__ if name != "image"
        }
        return {**values, "reason": self.reason.code, "score": round(self.score, 4)}


@dataclass(frozen=True)
class Suspicions:
    """All of them.

    Attributes:
        counts: how many boxes (for `WRONG_SIZE`: images) there are of each reason.
        suspects: the worst of each reason, at most `LISTED`; worst first within a reason.
    """

    counts: dict[Reason, int] = field(default_factory=dict)
    suspects: tuple[Suspect, ...] = ()

    @property
    def total(self) -> int:
        """Of all reasons; a box may have several."""
        return sum(self.counts.values())

    def of(self, reason: Reason) -> list[Suspect]:
        """Those of one reason, worst first."""
        return [suspect for suspect in self.suspects if suspect.reason is reason]

    def ranked(self, limit: int | None = None) -> list[Suspect]:
        """Worst first. With a limit the reasons take turns: a frequent one hides no other."""
        turns = zip_longest(*(self.of(reason) for reason in Reason))
        rounds = (sorted(filter(None, turn), key=lambda s: -s.score) for turn in turns)
        return sorted(list(chain.from_iterable(rounds))[:limit], key=lambda s: -s.score)

    def __add__(self, other: Suspicions) -> Suspicions:
        counts = {
            reason: self.counts.get(reason, 0) + other.counts.get(reason, 0)
            for reason in Reason
            if reason in self.counts or reason in other.counts
        }
        merged = sorted((*self.suspects, *other.suspects), key=lambda s: -s.score)
        listed: list[Suspect] = []
        for reason in counts:
            listed += [suspect for suspect in merged if suspect.reason is reason][:LISTED]
        return Suspicions(counts, tuple(listed))

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {
            "counts": {reason.code: count for reason, count in self.counts.items()},
            "listed_per_reason": LISTED,
            "boxes": [suspect.to_dict() for suspect in self.ranked()],
        }


def find_suspicious(
    index: DatasetIndex, setup: TrainingSetup | None = None, split: str = "all"
) -> Suspicions:
    """Looks at every box that trains, and at the faults that were met on reading."""
    finder = _Finder(index, setup or TrainingSetup(), split)
    return from_faults(index.faults, split) + finder.find()


def from_faults(faults: FaultReport, split: str = "all") -> Suspicions:
    """Boxes that the reader left out or changed."""
    counts: dict[Reason, int] = {}
    for kind, (reason, _) in _FAULTS.items():
        if kind in faults.counts:
            counts[reason] = counts.get(reason, 0) + faults.counts[kind]
    suspects = []
    for fault in faults:
        if fault.kind in _FAULTS:
            reason, score = _FAULTS[fault.kind]
            what = fault.kind.what.split(",")[0]
            detail = f"{what}: {fault.detail}" if reason is Reason.INVALID else fault.detail
            suspects.append(Suspect(reason, score, split, fault.file, fault.where, detail))
    return Suspicions(counts) + Suspicions({}, tuple(suspects))


class _Finder:
    """The checks on the boxes of one split; crowd regions are left out."""

    def __init__(self, index: DatasetIndex, setup: TrainingSetup, split: str) -> None:
        self.index, self.setup, self.split = index, setup, split
        self.rows = np.flatnonzero(~index.iscrowd)
        self.owners = owners_of(index)[self.rows]
        self.labels = index.labels[self.rows]
        self.boxes = index.boxes_xyxy[self.rows].astype(np.float64)
        self.wh = self.boxes[:, 2:] - self.boxes[:, :2]
        self.image_wh = index.sizes[:, ::-1].astype(np.float64)[self.owners]
        # Ids of JSON files can be searched for; elsewhere they are only counted up.
        self.own_ids = index.source.lower().endswith(".json")

    def find(self) -> Suspicions:
        checks = (self.duplicates, self.conflicts, self.repeated, self.area, self.giant,
                  self.aspect, self.tiny)  # fmt: skip
        return sum((check() for check in checks), Suspicions())

    def duplicates(self) -> Suspicions:
        partner, iou = best_earlier_partner(
            self.boxes, self.owners, self.labels, OVERLAP_IOU, same_class=True
        )
        same = np.flatnonzero(iou >= DUPLICATE_IOU)
        near = np.flatnonzero((iou >= OVERLAP_IOU) & (iou < DUPLICATE_IOU))

        def detail(i: int) -> str:
            return self._partner(i, partner, iou)

        return self._make(Reason.DUPLICATE, same, iou[same], detail, partner) + self._make(
            Reason.OVERLAP, near, 0.6 * iou[near], detail, partner
        )

    def conflicts(self) -> Suspicions:
        partner, iou = best_earlier_partner(
            self.boxes, self.owners, self.labels, DUPLICATE_IOU, same_class=False
        )
        at = np.flatnonzero(partner >= 0)

        def detail(i: int) -> str:
            other = self.index.class_map.names[self.labels[partner[i]]]
            return f"also `{other}`: {self._partner(i, partner, iou)}"

        return self._make(Reason.CONFLICT, at, 0.95 * iou[at], detail, partner)

    def repeated(self) -> Suspicions:
        """One entry per place; all boxes in it are counted."""
        ordinary = np.flatnonzero(self._cover() <= GIANT_SHARE)
        fractions = self.boxes[ordinary] / np.tile(np.maximum(self.image_wh[ordinary], 1), 2)
        places = (fractions.clip(0, 1) * 65535).round().astype(np.uint64)
        key = places @ np.array([1 << 48, 1 << 32, 1 << 16, 1], np.uint64)
        order = np.lexsort((self.owners[ordinary], key, self.labels[ordinary]))
        rows = ordinary[order]
        key, label, owner = key[order], self.labels[rows], self.owners[rows]
        starts = np.ones(len(rows), bool)
        starts[1:] = (key[1:] != key[:-1]) | (label[1:] != label[:-1])
        group = np.cumsum(starts) - 1
        once = starts.copy()  # an image counts once, however often it holds the box
        once[1:] |= owner[1:] != owner[:-1]
        images = np.bincount(group, once).astype(np.int64)
        chosen = np.flatnonzero(images >= MIN_REPEATS)
        first = rows[starts][chosen] if len(rows) else rows
        many = dict(zip(first.tolist(), images[chosen].tolist(), strict=True))
        share = images[chosen] / max(len(self.index), 1)
        return self._make(
            Reason.REPEATED,
            first,
            0.5 + 0.4 * np.minimum(share / 0.1, 1),
            lambda i: f"the same box in {many[i]} images",
            count=int(images[chosen].sum()),
        )

    def area(self) -> Suspicions:
        area, own = self.index.area[self.rows], self.wh.prod(1)
        at = np.flatnonzero((area > AREA_OVER_BOX * own) & (area > own + 2))
        ratio = area[at] / np.maximum(own[at], 1e-9)
        return self._make(
            Reason.AREA,
            at,
            0.5 + 0.4 * (1 - 1 / ratio),
            lambda i: f"area {area[i]:.6g}, box {own[i]:.6g} square pixels",
        )

    def giant(self) -> Suspicions:
        cover = self._cover()
        at = np.flatnonzero(cover > GIANT_SHARE)
        score = 0.3 + 0.3 * (cover[at] - GIANT_SHARE) / (1 - GIANT_SHARE)
        return self._make(
            Reason.GIANT,
            at,
            score.clip(0, 0.6),
            lambda i: f"{100 * min(cover[i], 1):.1f} % of the image",
        )

    def aspect(self) -> Suspicions:
        long, short = self.wh.max(1, initial=0), np.maximum(self.wh.min(1, initial=1e9), 1e-6)
        ratio = long / short
        usual = grouped_median(ratio, self.labels, len(self.index.class_map))[self.labels]
        at = np.flatnonzero((ratio >= EXTREME_ASPECT) & (ratio >= ASPECT_OVER_CLASS * usual))
        return self._make(
            Reason.ASPECT,
            at,
            0.3 + 0.4 * (1 - EXTREME_ASPECT / ratio[at]),
            lambda i: f"{self._size(i)}, {ratio[i]:.0f}:1; median of its class {usual[i]:.1f}:1",
        )

    def tiny(self) -> Suspicions:
        at_input = self.wh * self.setup.scales(self.index.sizes)[self.owners]
        long, short = at_input.max(1, initial=0), at_input.min(1, initial=1e9)
        at = np.flatnonzero((long < TINY_SIDE) | (short < 1))
        # small in the file as well: a slip of the mouse rather than a distant object
        own = self.wh[at].max(1, initial=0)
        return self._make(
            Reason.TINY,
            at,
            0.2 + 0.5 * (1 - (own / 16).clip(0, 1)),
            lambda i: f"{self._size(i)}; {at_input[i, 0]:.1f}x{at_input[i, 1]:.1f} at the input",
        )

    def _cover(self) -> npt.NDArray[np.float64]:
        """Share of the image."""
        return self.wh.prod(1) / np.maximum(self.image_wh.prod(1), 1)

    def _size(self, i: int) -> str:
        return f"{self.wh[i, 0]:.4g}x{self.wh[i, 1]:.4g} px"

    def _box(self, i: int) -> Box:
        x1, y1, x2, y2 = (round(float(value), 2) for value in self.boxes[i])
        return x1, y1, x2, y2

    def _where(self, i: int) -> str:
        row = int(self.rows[i])
        if self.own_ids:
            return f"annotation {self.index.annotation_ids[row]}"
        return f"box {row - int(self.index.offsets[self.owners[i]]) + 1}"

    def _partner(self, i: int, partner: npt.NDArray[np.int64], iou: npt.NDArray[np.float64]) -> str:
        return f"IoU {iou[i]:.3f} with {self._where(int(partner[i]))}"

    def _make(
        self,
        reason: Reason,
        at: npt.NDArray[np.int64],
        scores: npt.NDArray[np.float64],
        detail: Callable[[int], str],
        partner: npt.NDArray[np.int64] | None = None,
        count: int | None = None,
    ) -> Suspicions:
        """The worst of the boxes `at`, in words.

        Args:
            partner: for each box the one that it lies on.
            count: boxes that they stand for; default one each.
        """
        if not len(at):
            return Suspicions()
        index = self.index
        worst = np.argsort(-scores, kind="stable")[:LISTED]
        suspects = []
        for i, score in zip(at[worst].tolist(), scores[worst].tolist(), strict=True):
            image, row = int(self.owners[i]), int(self.rows[i])
            suspects.append(
                Suspect(
                    reason=reason,
                    score=score,
                    split=self.split,
                    file=index.paths[image],
                    where=self._where(i),
                    detail=detail(i),
                    image=image,
                    image_id=index.image_id(image),
                    annotation_id=int(index.annotation_ids[row]),
                    class_name=index.class_map.names[self.labels[i]],
                    box_xyxy=self._box(i),
                    other_xyxy=None if partner is None else self._box(int(partner[i])),
                )
            )
        return Suspicions({reason: len(at) if count is None else count}, tuple(suspects))
