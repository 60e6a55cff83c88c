"""What a conversion wrote and left out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from detrkit.convert.document import CocoDocument
from detrkit.data.faults import FaultReport


@dataclass(frozen=True)
class SplitCounts:
    """One split of the result.

    Attributes:
        images: how many were written.
        empty: how many of them have no box.
        boxes: how many were written, crowd regions included.
        per_class: {name: boxes}.
    """

    images: int
    empty: int
    boxes: int
    per_class: dict[str, int]

    @classmethod
    def of(
        cls,
        per_image: npt.NDArray[np.integer],
        names: Sequence[str],
        per_class: npt.NDArray[np.integer],
    ) -> SplitCounts:
        """From the boxes of each image and of each class; classes of one name are added up."""
        counts: dict[str, int] = {}
        for name, count in zip(names, per_class.tolist(), strict=True):
            counts[name] = counts.get(name, 0) + count
        empty = int(np.count_nonzero(per_image == 0))
        return cls(len(per_image), empty, int(per_image.sum()), counts)

    @classmethod
    def of_document(cls, document: CocoDocument) -> SplitCounts:
        """Counts of a document."""
        return cls.of(document.per_image(), document.names, document.per_category())


@dataclass(frozen=True)
class Summary:
    """The result of a conversion.

    Attributes:
        output: folder or file that was written.
        form: "COCO", "YOLO" or "VOC".
        splits: {split: counts}.
        faults: what was found, and what was done about it.
        notes: what else is worth knowing, a sentence each.
    """

    output: Path
    form: str
    splits: Mapping[str, SplitCounts]
    faults: FaultReport
    notes: list[str] = field(default_factory=list)

    @property
    def classes(self) -> list[str]:
        """Names of the classes, in their order."""
        return list(dict.fromkeys(name for s in self.splits.values() for name in s.per_class))

    def fault_rows(self) -> list[tuple[int, str, str]]:
        """Triples of number, policy (fix, skip, keep) and what was wrong."""
        return [(n, kind.policy.value, kind.what) for kind, n in self.faults.counts.items()]

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {
            "output": str(self.output),
            "format": self.form,
            "classes": self.classes,
            "splits": {
                split: {
                    "images": counts.images,
                    "images_without_boxes": counts.empty,
                    "boxes": counts.boxes,
                    "per_class": counts.per_class,
                }
                for split, counts in self.splits.items()
            },
            "notes": self.notes,
            "report": self.faults.to_dict(),
        }
