"""Data sets, transforms and loading.

`open_dataset` reads annotations into a `DatasetIndex`; `DetectionDataset` turns it into samples;
`build_loader` turns those into batches.
"""

from detrkit.data.collate import BatchImageCollateFunction
from detrkit.data.dataset import CocoDetection, DetectionDataset, VOCDetection
from detrkit.data.detect import open_dataset, open_splits
from detrkit.data.faults import Fault, FaultKind, FaultReport, Policy
from detrkit.data.images import read_image
from detrkit.data.index import DatasetIndex
from detrkit.data.loader import Loader, build_loader
from detrkit.data.sample import Sample, SampleKey
from detrkit.data.transforms import Compose, Transform

__all__ = [
    "BatchImageCollateFunction",
    "CocoDetection",
    "Compose",
    "DatasetIndex",
    "DetectionDataset",
    "Fault",
    "FaultKind",
    "FaultReport",
    "Loader",
    "Policy",
    "Sample",
    "SampleKey",
    "Transform",
    "VOCDetection",
    "build_loader",
    "open_dataset",
    "open_splits",
    "read_image",
]
