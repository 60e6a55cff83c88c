"""What a data set holds, what is wrong with it and what that means for training.

    parts = open_splits("path/to/data")
    findings = find("path/to/data", parts, TrainingSetup())
    for advice in advise(findings):
        ...

Pure functions from `DatasetIndex` to dataclasses with `to_dict`; nothing here prints, and only
`scan_pictures` opens picture files.
"""

from detrkit.analysis.advice import Advice, Severity, advise
from detrkit.analysis.duplicates import DuplicateImages, find_duplicates
from detrkit.analysis.findings import Findings, find
from detrkit.analysis.pictures import PictureScan, scan_pictures
from detrkit.analysis.setup import TrainingSetup
from detrkit.analysis.statistics import SplitStatistics, describe
from detrkit.analysis.suspicious import Suspicions, find_suspicious

__all__ = [
    "Advice",
    "DuplicateImages",
    "Findings",
    "PictureScan",
    "Severity",
    "SplitStatistics",
    "Suspicions",
    "TrainingSetup",
    "advise",
    "describe",
    "find",
    "find_duplicates",
    "find_suspicious",
    "scan_pictures",
]
