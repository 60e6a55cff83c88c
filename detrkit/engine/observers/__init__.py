"""What watches a run without changing it: progress, logs, TensorBoard, batch pictures, advice."""

from detrkit.engine.observers.base import EpochReport, Observer, StepReport
from detrkit.engine.observers.batches import BatchPictures
from detrkit.engine.observers.bottleneck import Bottleneck, LoaderFacts
from detrkit.engine.observers.logs import CSVLog, JSONLog
from detrkit.engine.observers.progress import Progress
from detrkit.engine.observers.tensorboard import TensorBoard

__all__ = [
    "BatchPictures",
    "Bottleneck",
    "CSVLog",
    "EpochReport",
    "JSONLog",
    "LoaderFacts",
    "Observer",
    "Progress",
    "StepReport",
    "TensorBoard",
]
