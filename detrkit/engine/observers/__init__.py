"""What watches a run without changing it: progress, logs, curves, pictures, trackers, advice."""

from detrkit.engine.observers.base import (
    EpochReport,
    LateReport,
    Observer,
    StepReport,
    until_the_end,
)
from detrkit.engine.observers.batches import BatchPictures
from detrkit.engine.observers.bottleneck import Bottleneck, LoaderFacts
from detrkit.engine.observers.curves import Curves
from detrkit.engine.observers.logs import CSVLog, JSONLog
from detrkit.engine.observers.origin import OriginLines
from detrkit.engine.observers.progress import Progress
from detrkit.engine.observers.tracker import RunFacts, Tracker
from detrkit.engine.observers.tracking import Tracking

__all__ = [
    "BatchPictures",
    "Bottleneck",
    "CSVLog",
    "Curves",
    "EpochReport",
    "JSONLog",
    "LateReport",
    "LoaderFacts",
    "Observer",
    "OriginLines",
    "Progress",
    "RunFacts",
    "StepReport",
    "Tracker",
    "Tracking",
    "until_the_end",
]
