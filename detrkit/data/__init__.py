"""Data sets, transforms and loading.

`open_dataset` reads annotations into a `DatasetIndex`; `DetectionDataset` turns it into samples;
`build_loader` turns those into batches.
"""

from typing import TYPE_CHECKING

from detrkit.lazy import lazily

if TYPE_CHECKING:
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

__getattr__ = lazily(
    __name__,
    {
        "BatchImageCollateFunction": "collate",
        "CocoDetection": "dataset",
        "Compose": "transforms",
        "DatasetIndex": "index",
        "DetectionDataset": "dataset",
        "Fault": "faults",
        "FaultKind": "faults",
        "FaultReport": "faults",
        "Loader": "loader",
        "Policy": "faults",
        "Sample": "sample",
        "SampleKey": "sample",
        "Transform": "transforms",
        "VOCDetection": "dataset",
        "build_loader": "loader",
        "open_dataset": "detect",
        "open_splits": "detect",
        "read_image": "images",
    },
)
