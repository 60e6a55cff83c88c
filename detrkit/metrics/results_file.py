"""Detections as a COCO results file: a JSON list of boxes with image, category and score.

Written and read in pieces: a file of a million boxes needs memory for its numbers only.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from detrkit.data.coco_entries import id_of, number_of
from detrkit.data.ids import Lookup, References
from detrkit.data.json_stream import JsonStream, read_either
from detrkit.errors import DataError, did_you_mean
from detrkit.files import open_atomically
from detrkit.metrics.predictions import Predictions
from detrkit.metrics.truth import Truth

log = logging.getLogger("detrkit.metrics")

_HINT = (
    'a results file is a list: [{"image_id": 1, "category_id": 3, "bbox": [x, y, w, h], '
    '"score": 0.9}, …]'
)

#: Keys of other tasks' files, and what those are.
_OTHER_TASKS = {
    "keypoints": "key points",
    "caption": "captions",
    "segments_info": "panoptic segments",
    "segmentation": "masks",
}


class Row(msgspec.Struct, gc=False):
    """An ordinary entry."""

    image_id: int | str
    category_id: int | str
    bbox: tuple[float, float, float, float]
    score: float


_ROWS = msgspec.json.Decoder(list[Row])


#: Boxes that are written at once.
_BATCH = 20_000


@dataclass(frozen=True)
class Results:
    """A results file as far as it fits a data set.

    Attributes:
        predictions: its rows in their order, without those that were left out.
        rows: how many the file has: the predictions and all that were left out.
        left_out: {why: how many}.
    """

    predictions: Predictions
    rows: int
    left_out: dict[str, int]


def read_results(path: str | Path, truth: Truth) -> Results:
    """Reads a results file.

    Rows of images or categories that the data set lacks, and rows with values that are no finite
    numbers, are left out and counted, with one warning for each reason.

    Raises:
        DataError: it is missing, not JSON, no list, of another task, an entry lacks a key, or
            nothing in it fits the data set.
    """

    def read(stream: JsonStream) -> _Reader:
        reader = _Reader(str(path))
        reader.read(stream)
        return reader

    return read_either(path, read).results(truth)


class _Reader:
    """Collects the rows of one file."""

    def __init__(self, file: str) -> None:
        self.file = file
        self.images: list[int | str] = []
        self.categories: list[int | str] = []
        self.numbers: list[npt.NDArray[np.float64]] = []  # (n, 5): bbox, score

    def read(self, stream: JsonStream) -> None:
        """Takes the whole file."""
        if not stream.is_list():
            keys = list(stream)  # says so if it is not JSON
            what = "a data set's annotations" if "annotations" in keys else "an object"
            raise DataError(f"{self.file}: {what}, not a list of detections", hint=_HINT)
        for part in stream.elements(_ROWS):
            typed = part.typed
            if typed is None:
                start = len(self.images)
                typed = [self.row(n, entry) for n, entry in enumerate(part.plain or (), start)]
            self.images += [row.image_id for row in typed]
            self.categories += [row.category_id for row in typed]
            numbers = np.array([(*row.bbox, row.score) for row in typed], np.float64)
            self.numbers.append(numbers.reshape(-1, 5))
        stream.end()

    def row(self, number: int, entry: Any) -> Row:
        """An entry of any content; values that are no numbers become NaN.

        Raises:
            DataError: it is no detection.
        """
        place = f"{self.file}: entry {number}"
        if not isinstance(entry, Mapping):
            raise DataError(f"{place} is no object", hint=_HINT)
        for key, what in _OTHER_TASKS.items():
            if key in entry and "bbox" not in entry:
                raise DataError(f"{place} holds {what}, not a box: `bbox` is missing", hint=_HINT)
        for key in Row.__struct_fields__:
            if key not in entry:
                found = f"`{key}` is missing{did_you_mean(key, [str(k) for k in entry])}"
                raise DataError(f"{place}: {found}", hint=_HINT)
        image, category = id_of(entry["image_id"]), id_of(entry["category_id"])
        if image is None or category is None:
            key = "image_id" if image is None else "category_id"
            raise DataError(f"{place}: `{key}` is {entry[key]!r}, no id", hint=_HINT)
        box = entry["bbox"]
        if not isinstance(box, list) or len(box) != 4:
            raise DataError(f"{place}: `bbox` must be [x, y, width, height]", hint=_HINT)
        x, y, w, h, score = (
            math.nan if value is None else value
            for value in (number_of(value) for value in (*box, entry["score"]))
        )
        return Row(image, category, (x, y, w, h), score)

    def results(self, truth: Truth) -> Results:
        """The rows that fit a data set."""
        rows = len(self.images)
        numbers = np.concatenate(self.numbers) if self.numbers else np.empty((0, 5))
        self.numbers.clear()
        images = Lookup(truth.image_ids).find(References.of(self.images))
        labels = Lookup(truth.class_map.category_ids).find(References.of(self.categories))
        reasons = {
            "of unknown images": (images < 0, self.images, "image_id"),
            "of unknown categories": (labels < 0, self.categories, "category_id"),
            "with values that are no finite numbers": (~np.isfinite(numbers).all(1), None, ""),
        }
        kept, left_out = np.ones(rows, bool), {}
        for reason, (wrong, ids, key) in reasons.items():
            wrong = wrong & kept
            if not wrong.any():
                continue
            left_out[reason] = int(wrong.sum())
            first = int(np.flatnonzero(wrong)[0])
            example = f"{key} {ids[first]!r}" if ids is not None else f"entry {first}"
            if wrong.all():
                raise DataError(
                    f"{self.file}: all {rows} detections are {reason}, e.g. {example}",
                    hint="are these annotations the ones that the detections were made for?",
                )
            log.warning(
                "%s: %d of %d detections %s left out, e.g. %s",
                self.file, left_out[reason], rows, reason, example,
            )  # fmt: skip
            kept &= ~wrong
        found = Predictions(images, labels, numbers[:, 4], numbers[:, :4])
        return Results(found if kept.all() else found.select(kept), rows, left_out)


def write_results(
    path: Path,
    predictions: Predictions,
    image_ids: Sequence[int | str],
    category_ids: Sequence[int | str],
) -> None:
    """Writes a results file, complete or not at all.

    Args:
        path: the file.
        predictions: any number.
        image_ids, category_ids: the data set's own, by image and by label.

    Raises:
        DetrkitError: it cannot be written.
    """
    with open_atomically(path) as file:
        file.write(b"[")
        for start in range(0, len(predictions), _BATCH):
            part = predictions.select(slice(start, start + _BATCH))
            rows = [
                Row(image_ids[image], category_ids[label], box, score)
                for image, label, box, score in zip(
                    part.images.tolist(), part.labels.tolist(),
                    part.boxes_xywh.tolist(), part.scores.tolist(), strict=True,
                )
            ]  # fmt: skip
            file.write((b",\n" if start else b"") + msgspec.json.encode(rows)[1:-1])
        file.write(b"]\n")
