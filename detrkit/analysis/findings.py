"""Everything that was found in a data set: the one object that tables, JSON and HTML are made of."""

from __future__ import annotations

from dataclasses import dataclass, field

from detrkit.analysis.setup import TrainingSetup
from detrkit.analysis.statistics import SplitStatistics
from detrkit.data.faults import FaultReport
from detrkit.structures import ClassMap


@dataclass(frozen=True)
class Findings:
    """Findings of a data set.

    Attributes:
        source: what was given.
        class_map: of all splits.
        setup: the training that it was judged for.
        splits: statistics of each split, "train" first.
        together: of all splits; the split's where there is only one.
        faults: what was wrong with the annotations.
    """

    source: str
    class_map: ClassMap
    setup: TrainingSetup
    splits: dict[str, SplitStatistics]
    together: SplitStatistics
    faults: FaultReport = field(default_factory=FaultReport)
