"""What can be wrong with a data set, and what is done about it.

Every fault has one policy, so that the same file always gives the same boxes:

    fix    the value is repaired and counted
    skip   the box, image or file is left out and counted
    keep   nothing is changed; it is counted because it is worth knowing
    stop   the data set cannot be used: `DataError`, exit code 4

A `FaultReport` counts every case and keeps one line for each, naming the file and the id. `log`
shows the first few of each kind; the whole list is in `faults`.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import Enum

from detrkit.errors import DataError

logger = logging.getLogger("detrkit")


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
    """One case: which kind, in which file, at which id, and the details."""

    kind: FaultKind
    file: str
    where: str
    detail: str = ""

    def __str__(self) -> str:
        place = f"{self.file}: {self.where}" if self.where else self.file
        return f"{place}: {self.kind.what}" + (f" ({self.detail})" if self.detail else "")


@dataclass
class FaultReport:
    """All faults of one data set, in the order in which they were met."""

    faults: list[Fault] = field(default_factory=list)

    def add(
        self, kind: FaultKind, file: object, where: str = "", detail: str = "", hint: str = ""
    ) -> None:
        """Counts one fault.

        Args:
            kind: what is wrong.
            file: the file in which it was found.
            where: id within the file, e.g. "annotation 17" or "line 3".
            detail: the offending value.
            hint: what the user can do; shown when the policy is to stop.

        Raises:
            DataError: the policy of `kind` is to stop.
        """
        fault = Fault(kind, str(file), where, detail)
        if kind.policy is Policy.STOP:
            raise DataError(str(fault), hint=hint or None)
        self.faults.append(fault)

    def __len__(self) -> int:
        return len(self.faults)

    def __iter__(self) -> Iterator[Fault]:
        return iter(self.faults)

    def __add__(self, other: FaultReport) -> FaultReport:
        """Both reports; a fault that stands in both is counted once."""
        return FaultReport(list(dict.fromkeys([*self.faults, *other.faults])))

    @property
    def counts(self) -> dict[FaultKind, int]:
        """How often each kind occurred."""
        return dict(Counter(fault.kind for fault in self.faults))

    def lines(self, first: int = 3) -> list[str]:
        """One line for each of the first cases of a kind, and how many more there are."""
        lines = []
        for kind, count in self.counts.items():
            cases = [str(fault) for fault in self.faults if fault.kind is kind]
            lines += cases[:first]
            if count > first:
                lines.append(f"… and {count - first} more: {kind.what}")
        return lines

    def log(self, first: int = 3) -> None:
        """Warns with `lines`; what is merely worth knowing goes out as information."""
        for policy, level in ((Policy.KEEP, logging.INFO), (None, logging.WARNING)):
            chosen = [
                f for f in self.faults if (f.kind.policy is Policy.KEEP) == (policy is not None)
            ]
            for line in FaultReport(chosen).lines(first):
                logger.log(level, line)

    def to_dict(self) -> dict[str, object]:
        """Counts and all cases as plain values, for JSON."""
        return {
            "counts": {kind.name.lower(): count for kind, count in self.counts.items()},
            "faults": [
                {
                    "kind": fault.kind.name.lower(),
                    "policy": fault.kind.policy.value,
                    "file": fault.file,
                    "where": fault.where,
                    "detail": fault.detail,
                }
                for fault in self.faults
            ],
        }
