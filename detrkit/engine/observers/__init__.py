"""What watches a run without changing it: progress, logs, TensorBoard, batch pictures."""

from detrkit.engine.observers.base import EpochReport, Observer, StepReport
from detrkit.engine.observers.batches import BatchPictures
from detrkit.engine.observers.logs import CSVLog, JSONLog
from detrkit.engine.observers.progress import Progress
from detrkit.engine.observers.tensorboard import TensorBoard

__all__ = [
    "BatchPictures",
    "CSVLog",
    "EpochReport",
    "JSONLog",
    "Observer",
    "Progress",
    "StepReport",
    "TensorBoard",
]
