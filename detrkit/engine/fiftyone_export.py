"""Ground truth and detections as a FiftyOne data set, to be browsed, filtered and tagged.

Every image is a sample with the fields `ground_truth` and `predictions` (boxes in shares of the
image, with the data set's `category_id`; true boxes with `iscrowd` and `annotation_id`) and
`image_id`. `fiftyone app launch NAME` shows it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt

from detrkit.data.index import DatasetIndex
from detrkit.errors import DetrkitError, MissingExtraError, UsageError
from detrkit.metrics.report import EvaluationReport

#: Detections with a lower score, by far the most of a DETR, are not exported.
LEAST_SCORE = 0.05


def to_fiftyone(name: str, report: EvaluationReport, index: DatasetIndex) -> Any:
    """Makes a persistent data set in FiftyOne's database.

    Args:
        name: of the data set, not taken yet.
        report: of the detections.
        index: the data set that they were measured on.

    Returns:
        The `fiftyone.Dataset`.

    Raises:
        MissingExtraError: FiftyOne is not installed.
        UsageError: the name is taken.
        DetrkitError: FiftyOne's database does not run.
    """
    require_name(name)
    with _database() as fiftyone:
        dataset = fiftyone.Dataset(name, persistent=True)
        dataset.add_samples(list(samples_of(report, index)))
    return dataset


def require_name(name: str) -> None:
    """Whether a data set of this name can be made, before hours go into it.

    Raises:
        MissingExtraError: FiftyOne is not installed.
        UsageError: the name is taken.
        DetrkitError: FiftyOne's database does not run.
    """
    with _database() as fiftyone:
        is_taken = fiftyone.dataset_exists(name)
    if is_taken:
        raise UsageError(
            f"FiftyOne has a data set `{name}` already",
            hint=f"another name, or: fiftyone datasets delete {name}",
        )


@contextmanager
def _database() -> Iterator[Any]:
    """The package; what its database layer raises is said in a line."""
    fiftyone = require_fiftyone()
    try:
        yield fiftyone
    except Exception as error:  # no server, no space, no permission
        reason = (str(error) or repr(error)).splitlines()[0]
        raise DetrkitError(
            f"FiftyOne cannot keep the data set: {reason}",
            hint="does `fiftyone app launch` work? It needs its MongoDB",
        ) from error


def require_fiftyone() -> Any:
    """The package.

    Raises:
        MissingExtraError: it is not installed.
    """
    try:
        import fiftyone
    except ImportError as error:
        raise MissingExtraError("fiftyone", "fiftyone", "--fiftyone") from error
    return fiftyone


def samples_of(report: EvaluationReport, index: DatasetIndex) -> Iterator[Any]:
    """A `fiftyone.Sample` for each image, in the order of the truth; no database is needed."""
    fiftyone = require_fiftyone()
    truth = report.matches.truth
    found = report.predictions.select(report.predictions.scores >= LEAST_SCORE).by_image()
    names, ids = truth.class_map.names, truth.class_map.category_ids
    boxes = np.searchsorted(truth.images, np.arange(len(truth) + 1))
    detections = np.searchsorted(found.images, np.arange(len(truth) + 1))
    for image, image_id in enumerate(truth.image_ids):
        size, position = truth.sizes[image], int(truth.positions[image])
        own = range(*boxes[image : image + 2].tolist())
        said = range(*detections[image : image + 2].tolist())
        yield fiftyone.Sample(
            filepath=str(index.paths[position]),
            image_id=image_id,
            ground_truth=fiftyone.Detections(
                detections=[
                    fiftyone.Detection(
                        label=names[truth.labels[row]],
                        bounding_box=_shares(truth.boxes_xywh[row], size),
                        category_id=ids[truth.labels[row]],
                        iscrowd=bool(truth.iscrowd[row]),
                        annotation_id=int(index.annotation_ids[truth.rows[row]]),
                    )
                    for row in own
                ]
            ),
            predictions=fiftyone.Detections(
                detections=[
                    fiftyone.Detection(
                        label=names[found.labels[row]],
                        bounding_box=_shares(found.boxes_xywh[row], size),
                        confidence=float(found.scores[row]),
                        category_id=ids[found.labels[row]],
                    )
                    for row in said
                ]
            ),
        )


def _shares(box: npt.NDArray[np.float64], size: npt.NDArray[np.int64]) -> list[float]:
    """[x, y, w, h] in pixels as shares of an image of (h, w)."""
    h, w = size.tolist()
    return (box / np.array([w, h, w, h])).tolist()
