"""Detections of a whole data set in columns: what every metric reads.

A million detections are four arrays of together 48 MB, and no image is ever among them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import numpy.typing as npt

from detrkit.structures import Detections


@dataclass(frozen=True, slots=True)
class Predictions:
    """N detections.

    Attributes:
        images: (N,) int32, number of the image in the `Truth`.
        labels: (N,) int32, contiguous class indices.
        scores: (N,) float64.
        boxes_xywh: (N, 4) float64, x, y, width and height in pixels.
    """

    images: npt.NDArray[np.int32]
    labels: npt.NDArray[np.int32]
    scores: npt.NDArray[np.float64]
    boxes_xywh: npt.NDArray[np.float64]

    @classmethod
    def empty(cls) -> Predictions:
        """No detections."""
        return cls(
            np.empty(0, np.int32), np.empty(0, np.int32), np.empty(0), np.empty((0, 4), np.float64)
        )

    @classmethod
    def of(cls, found: Detections, image: int) -> Predictions:
        """The detections of one image.

        Args:
            found: boxes, scores and labels.
            image: its number.
        """
        boxes = np.array(found.boxes_xyxy, np.float64).reshape(-1, 4)
        boxes[:, 2:] -= boxes[:, :2]
        return cls(
            np.full(len(found), image, np.int32),
            np.asarray(found.labels).astype(np.int32),
            np.asarray(found.scores, np.float64),
            boxes,
        )

    @classmethod
    def concat(cls, parts: Sequence[Predictions]) -> Predictions:
        """All of several, one after the other."""
        if not parts:
            return cls.empty()
        return cls(
            *(np.concatenate([getattr(part, f.name) for part in parts]) for f in fields(cls))
        )

    def __len__(self) -> int:
        return len(self.scores)

    def select(self, rows: npt.NDArray[Any] | slice) -> Predictions:
        """Those at a mask, at indices or in a slice."""
        return Predictions(*(getattr(self, f.name)[rows] for f in fields(Predictions)))

    def by_image(self) -> Predictions:
        """The same in the order of the images; within an image as they were."""
        if not (np.diff(self.images) < 0).any():
            return self
        return self.select(np.argsort(self.images, kind="stable"))

    def are_finite(self) -> npt.NDArray[np.bool_]:
        """(N,) whether score and box are numbers."""
        return np.isfinite(self.scores) & np.isfinite(self.boxes_xywh).all(1)
