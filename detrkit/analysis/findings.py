"""All that was found in a data set: what advice, tables, JSON and HTML are made of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any

from detrkit.analysis.differences import SplitDifference, compare
from detrkit.analysis.duplicates import DuplicateImages, find_duplicates
from detrkit.analysis.pictures import PictureScan
from detrkit.analysis.setup import TrainingSetup
from detrkit.analysis.statistics import SplitStatistics, describe
from detrkit.analysis.suspicious import Suspicions, find_suspicious
from detrkit.data.faults import FaultReport
from detrkit.data.index import DatasetIndex
from detrkit.structures import ClassMap


@dataclass(frozen=True)
class Findings:
    """Findings of a data set.

    Attributes:
        source: what was given.
        class_map: of all splits.
        setup: the training that it is judged for.
        splits: statistics of each split, "train" first.
        together: of all splits; that of the only one where there is one.
        differences: of each two splits.
        suspicious: boxes that are probably mistakes.
        duplicates: pictures that are there more than once.
        faults: what was wrong with annotations and pictures.
        partial: whether there may be splits that nobody looked at.
    """

    source: str
    class_map: ClassMap
    setup: TrainingSetup
    splits: Mapping[str, SplitStatistics]
    together: SplitStatistics
    differences: tuple[SplitDifference, ...] = ()
    suspicious: Suspicions = field(default_factory=Suspicions)
    duplicates: DuplicateImages = field(default_factory=DuplicateImages)
    faults: FaultReport = field(default_factory=FaultReport)
    partial: bool = False

    @property
    def train(self) -> SplitStatistics | None:
        """The training split, if there is one."""
        return self.splits.get("train")

    @property
    def val(self) -> SplitStatistics | None:
        """The validation split, if there is one."""
        return self.splits.get("val")

    def to_dict(self) -> dict[str, Any]:
        """Plain values and arrays, for JSON."""
        return {
            "source": self.source,
            "classes": self.class_map.to_dict(),
            "setup": self.setup.to_dict(),
            "all": self.together.to_dict(),
            "splits": {name: split.to_dict() for name, split in self.splits.items()},
            "differences": [difference.to_dict() for difference in self.differences],
            "suspicious": self.suspicious.to_dict(),
            "duplicates": self.duplicates.to_dict(),
            **self.faults.to_dict(),
        }


def find(
    source: str,
    parts: Mapping[str, DatasetIndex],
    setup: TrainingSetup | None = None,
    scans: Mapping[str, PictureScan] | None = None,
    *,
    partial: bool = False,
) -> Findings:
    """Analyses a data set.

    Args:
        source: what was given, for headings.
        parts: its splits, at least one; they share a class map.
        setup: the training to judge it for.
        scans: what was seen of the pictures of each split; None where nobody looked.
        partial: whether the data set may have more splits than these.
    """
    setup = setup or TrainingSetup()
    suspicious = (find_suspicious(part, setup, name) for name, part in parts.items())
    splits = {name: describe(part, setup, name) for name, part in parts.items()}
    if len(parts) == 1:
        (together,) = splits.values()
    else:
        together = describe(DatasetIndex.concat(list(parts.values())), setup)
    faults = [part.faults for part in parts.values()]
    faults += [scan.faults for scan in (scans or {}).values()]
    return Findings(
        source=source,
        class_map=next(iter(parts.values())).class_map,
        setup=setup,
        splits=splits,
        together=together,
        differences=tuple(compare(a, b) for a, b in combinations(splits.values(), 2)),
        suspicious=sum(suspicious, Suspicions()),
        duplicates=find_duplicates(parts, scans),
        faults=FaultReport.merge(faults),
        partial=partial,
    )
