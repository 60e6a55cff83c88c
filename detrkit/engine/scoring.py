"""From a file of detections and annotations to numbers, without a model; imports no torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from detrkit import words
from detrkit.data.detect import open_dataset
from detrkit.data.faults import FaultKind
from detrkit.data.index import DatasetIndex
from detrkit.errors import DataError
from detrkit.metrics import EvaluationReport, Truth, evaluate
from detrkit.metrics.coco import DEFAULT_BACKEND, Backend, checked_backend
from detrkit.metrics.results_file import Results, read_results

#: Faults of annotations that other tasks have.
_NO_BOX = (FaultKind.UNKNOWN_KEY, FaultKind.WRONG_TYPE)


@dataclass(frozen=True)
class Scoring:
    """What a file of detections is worth.

    Attributes:
        report: all numbers.
        results: the detections, and which rows of the file were left out.
    """

    report: EvaluationReport
    results: Results


def score_predictions(
    predictions: str | Path,
    annotations: str | Path,
    *,
    split: str | None = None,
    backend: Backend = DEFAULT_BACKEND,
) -> Scoring:
    """Measures the detections of a COCO results file; no image is read.

    Args:
        predictions: the results file; ids are those of the annotations.
        annotations: a COCO file, or a data set of any layout.
        split: part of it: "train", "val" or "test"; None: all of it.
        backend: what counts.

    Raises:
        DataError: a file cannot be read or is of another task, or the two do not fit.
    """
    checked_backend(backend)
    truth = Truth.of(_opened(annotations, split))
    results = read_results(predictions, truth)
    return Scoring(evaluate(truth, results.predictions, backend), results)


def _opened(annotations: str | Path, split: str | None) -> DatasetIndex:
    """A data set without its images.

    Raises:
        DataError: it has none, or its annotations are of another task.
    """
    index = open_dataset(annotations, split, check_images="none")
    if not len(index):
        raise DataError(f"{annotations}: nothing to evaluate on: it has no images")
    skipped = sum(index.faults.counts.get(kind, 0) for kind in _NO_BOX)
    if skipped and not index.num_boxes:
        number = words.count(skipped, "annotation")
        raise DataError(
            f"{annotations}: none of its {number} is a box with a class",
            hint="are they captions, masks or panoptic segments? Boxes have `bbox` and "
            "`category_id`",
        )
    return index
