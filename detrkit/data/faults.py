"""What can be wrong with a data set, and what is done about it.

Every fault has one policy, so that the same file always gives the same boxes:

    fix    the value is repaired and counted
    skip   the box, image or file is left out and counted
    keep   nothing is changed; it is counted because it is worth knowing
    stop   the data set cannot be used: `DataError`, exit code 4

A `FaultReport` counts every case and keeps a line for each of the first thousand of a kind, naming
the file and the id, so that a million faults cost no memory. `log` shows the first few.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any, TypeVar

from detrkit.errors import DataError

logger = logging.getLogger("detrkit")

#: So many cases of a kind are kept with file and id; all are counted.
KEPT = 1000

Case = TypeVar("Case")


class Policy(str, Enum):
    """What happens to the thing that is wrong."""

    FIX = "fix"
    SKIP = "skip"
    KEEP = "keep"
    STOP = "stop"


class FaultKind(Enum):
    """Every fault: its policy, and what was done, in a few words."""

    # files
    MISSING_FILE = (Policy.STOP, "missing file")
    BAD_JSON = (Policy.STOP, "not readable as JSON or YAML")
    BAD_STRUCTURE = (Policy.STOP, "required key missing or of the wrong type")
    BAD_ANNOTATION_FILE = (Policy.SKIP, "unreadable annotation file, image skipped")
    REPAIRED_PATH = (Policy.FIX, "wrong path, found elsewhere")
    MISSING_SPLIT = (Policy.SKIP, "folder not found, split left out")
    LABEL_WITHOUT_IMAGE = (Policy.SKIP, "annotation without an image, skipped")
    # images
    MISSING_IMAGE = (Policy.SKIP, "image file missing, image skipped")
    CORRUPT_IMAGE = (Policy.SKIP, "unreadable image")
    DUPLICATE_IMAGE_ID = (Policy.SKIP, "image listed twice, second entry skipped")
    AMBIGUOUS_IMAGE_ID = (Policy.STOP, "one image id for two files")
    SIZE_MISMATCH = (Policy.FIX, "image size differs from the annotation, file believed")
    EXIF_ROTATION = (Policy.FIX, "annotated on the stored pixels, EXIF orientation ignored")
    IMAGE_WITHOUT_LABELS = (Policy.KEEP, "no annotation file, used as background")
    RENAMED_IMAGE = (Policy.FIX, "name is taken, image renamed")
    # boxes
    UNKNOWN_KEY = (Policy.SKIP, "misspelt key, annotation skipped")
    WRONG_TYPE = (Policy.SKIP, "value of the wrong type, annotation skipped")
    UNKNOWN_IMAGE = (Policy.SKIP, "annotation of a missing image, skipped")
    UNKNOWN_CLASS = (Policy.SKIP, "annotation of an undeclared class, skipped")
    NOT_FINITE = (Policy.SKIP, "coordinate is not a finite number, box skipped")
    EMPTY_BOX = (Policy.SKIP, "zero or negative size, box skipped")
    OUTSIDE = (Policy.SKIP, "box outside the image, skipped")
    SKIPPED_WITH_IMAGE = (Policy.SKIP, "box of an image that was skipped, skipped with it")
    CLIPPED = (Policy.FIX, "box reaches over the border, clipped")
    DUPLICATE_ANNOTATION_ID = (Policy.FIX, "annotation id used twice, second one renumbered")
    POLYGON = (Policy.FIX, "polygon, its bounding box used")
    REPEATED_BOX = (Policy.SKIP, "same box of the same class again, skipped")
    CROWD_REGION = (Policy.SKIP, "crowd region, which the format cannot mark, left out")
    # classes
    DUPLICATE_CATEGORY_ID = (Policy.STOP, "one category id for two classes")
    CLASS_WITHOUT_BOXES = (Policy.KEEP, "class without boxes, kept")

    @property
    def policy(self) -> Policy:
        """fix, skip, keep or stop."""
        return self.value[0]

    @property
    def what(self) -> str:
        """The fault and the action in a few words."""
        return self.value[1]


@dataclass(frozen=True, slots=True)
class Fault:
    """One case: which kind, in which file, at which id, and the details.

    Attributes:
        kind: what is wrong.
        file: where it was found.
        where: id within the file.
        detail: the offending value.
        count: how many boxes or images it stands for.
        label: class of the box that it is about; empty where it is about something else.
    """

    kind: FaultKind
    file: str
    where: str
    detail: str = ""
    count: int = 1
    label: str = ""

    def __str__(self) -> str:
        place = f"{self.file}: {self.where}" if self.where else self.file
        return f"{place}: {self.kind.what}" + (f" ({self.detail})" if self.detail else "")


class FaultReport:
    """The faults of one data set, in the order in which they were met.

    Attributes:
        faults: the first `KEPT` of each kind.
        counts: how often each kind occurred, those that were not kept included.
    """

    def __init__(self, faults: Iterable[Fault] = ()) -> None:
        self.faults: list[Fault] = []
        self.counts: dict[FaultKind, int] = {}
        self._kept: dict[FaultKind, int] = {}
        for fault in faults:
            self._put(fault)

    def add(
        self,
        kind: FaultKind,
        file: object,
        where: str = "",
        detail: str = "",
        hint: str = "",
        count: int = 1,
        label: str = "",
    ) -> None:
        """Counts one fault.

        Args:
            kind: what is wrong.
            file: the file in which it was found.
            where: id within the file, e.g. "annotation 17" or "line 3".
            detail: the offending value.
            hint: what the user can do; shown when the policy is to stop.
            count: how many boxes or images this one line stands for.
            label: class of the box that it is about.

        Raises:
            DataError: the policy of `kind` is to stop.
        """
        fault = Fault(kind, _shown(str(file), 1000), _shown(where), _shown(detail), count, label)
        if kind.policy is Policy.STOP:
            raise DataError(str(fault), hint=hint or None)
        self._put(fault)

    def add_all(
        self,
        kind: FaultKind,
        cases: Iterable[Case],
        describe: Callable[[Case], tuple[object, str, str, str]],
    ) -> None:
        """Counts a fault for each of `cases`; only those that are kept are described.

        Args:
            kind: what is wrong; its policy is not to stop.
            cases: e.g. numbers of boxes.
            describe: (file, where, detail, label) of a case, as in `add`.
        """
        for case in cases:
            if self._kept.get(kind, 0) < KEPT:
                file, where, detail, label = describe(case)
                self.add(kind, file, where, detail, label=label)
            else:
                self.counts[kind] += 1

    def _put(self, fault: Fault) -> None:
        self.counts[fault.kind] = self.counts.get(fault.kind, 0) + fault.count
        if self._kept.get(fault.kind, 0) < KEPT:
            self._kept[fault.kind] = self._kept.get(fault.kind, 0) + 1
            self.faults.append(fault)

    def __len__(self) -> int:
        """How many occurred."""
        return sum(self.counts.values())

    def __iter__(self) -> Iterator[Fault]:
        return iter(self.faults)

    def __repr__(self) -> str:
        return f"FaultReport({', '.join(f'{k.name.lower()}: {n}' for k, n in self.counts.items())})"

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, FaultReport):
            return NotImplemented
        return self.faults == other.faults and self.counts == other.counts

    @staticmethod
    def merge(reports: Iterable[FaultReport]) -> FaultReport:
        """All reports as one; what stands in several is counted once.

        That holds for reports that are the same object, e.g. of two parts of one data set, and
        for single faults as far as they are kept.
        """
        merged = FaultReport()
        seen: set[Fault] = set()
        for report in {id(report): report for report in reports}.values():
            new = [fault for fault in report.faults if fault not in seen]
            seen.update(new)
            for fault in new:
                merged._put(fault)
            for kind, count in report.counts.items():
                beyond = count - sum(f.count for f in report.faults if f.kind is kind)
                merged.counts[kind] = merged.counts.get(kind, 0) + beyond
        return merged

    def lines(self, first: int = 3) -> list[str]:
        """One line for each of the first cases of a kind, and how many more there are."""
        lines: list[str] = []
        for kind, count in self.counts.items():
            cases = [fault for fault in self.faults if fault.kind is kind][:first]
            lines += map(str, cases)
            more = count - sum(fault.count for fault in cases)
            if more:
                lines.append(f"… and {more} more: {kind.what}")
        return lines

    def log(self, first: int = 3) -> None:
        """Warns with `lines`; what is merely worth knowing goes out as information."""
        for keep, level in ((True, logging.INFO), (False, logging.WARNING)):
            chosen = FaultReport()
            chosen.faults = [f for f in self.faults if (f.kind.policy is Policy.KEEP) is keep]
            chosen.counts = {
                k: n for k, n in self.counts.items() if (k.policy is Policy.KEEP) is keep
            }
            for line in chosen.lines(first):
                logger.log(level, line)

    def to_dict(self) -> dict[str, object]:
        """Counts and the kept cases as plain values, for JSON."""
        return {
            "counts": {kind.name.lower(): count for kind, count in self.counts.items()},
            "faults": [
                {
                    "kind": fault.kind.name.lower(),
                    "policy": fault.kind.policy.value,
                    "file": fault.file,
                    "where": fault.where,
                    "detail": fault.detail,
                    "count": fault.count,
                    "label": fault.label,
                }
                for fault in self.faults
            ],
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> FaultReport:
        """Inverse of `to_dict`."""
        report = cls(
            Fault(
                FaultKind[f["kind"].upper()],
                *(f[name] for name in ("file", "where", "detail", "count", "label")),
            )
            for f in data["faults"]
        )
        report.counts = {FaultKind[name.upper()]: n for name, n in data["counts"].items()}
        return report


def one_line(text: str) -> str:
    """Text that others wrote, fit for a message: no line breaks or control characters."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def _shown(text: str, limit: int = 300) -> str:
    """At most so many characters, the middle left out."""
    if len(text) > limit:
        text = f"{text[: limit // 2]}…{text[-limit // 2 :]}"
    return one_line(text)
