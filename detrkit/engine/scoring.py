"""From a file of detections and annotations to numbers, without a model; imports no torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from detrkit.data.detect import open_dataset
from detrkit.errors import DataError
from detrkit.metrics import EvaluationReport, Truth, evaluate
from detrkit.metrics.coco import DEFAULT_BACKEND, Backend, checked_backend
from detrkit.metrics.results_file import Results, read_results


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
    index = open_dataset(annotations, split, check_images="none")
    if not len(index.class_map) or not len(index):
        raise DataError(f"{annotations}: nothing to evaluate on: no images or no classes")
    truth = Truth.of(index)
    results = read_results(predictions, truth)
    return Scoring(evaluate(truth, results.predictions, backend), results)
