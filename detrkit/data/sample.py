"""One image with its boxes on the way through the transforms."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from detrkit.data.canvas import Canvas
from detrkit.structures import Target


class SampleKey(NamedTuple):
    """Which sample of a run: all that its randomness depends on, besides the seed.

    Attributes:
        epoch: counted from 0.
        step: number of the batch within the epoch.
        index: number of the image in the data set.
        repeat: how often the epoch had it before; above 0 only where images are sampled.
    """

    epoch: int
    step: int
    index: int  # type: ignore[assignment]  # hides tuple.index, which nobody needs here
    repeat: int = 0


FIRST = SampleKey(0, 0, 0)


class SampleSource(Protocol):
    """Where transforms that combine pictures find others."""

    def __len__(self) -> int: ...

    def other(self, number: int) -> Sample:
        """Image `number` before any transform; the same whenever it is asked for."""


@dataclass(slots=True)
class Sample:
    """What transforms read and change.

    Geometry is pending: `canvas` knows what is to be done, and reading `image` does it.

    Attributes:
        canvas: the picture.
        boxes_xyxy: (N, 4) float32, corners in pixels of the canvas.
        labels: (N,) int64, contiguous class indices.
        area: (N,) float64, square pixels of the objects as annotated in the image file; None in
            the constructor means the boxes'.
        image_id: the data set's id.
        orig_size: (h, w) of the image file in pixels.
        path: the image file.
        key: epoch, step and index.
        scale: factor on 0–255 when the image becomes the model's input; None leaves it.
        mean, std: per channel, applied after `scale`; None for no normalisation.
        source: the data set; None outside of one.
    """

    canvas: Canvas
    boxes_xyxy: npt.NDArray[np.float32]
    labels: npt.NDArray[np.int64]
    area: npt.NDArray[np.float64] = None  # type: ignore[assignment]  # see __post_init__
    image_id: int | str = 0
    orig_size: tuple[int, int] = (0, 0)
    path: str = ""
    key: SampleKey = FIRST
    scale: float | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    source: SampleSource | None = None

    def __post_init__(self) -> None:
        if self.area is None:
            x1, y1, x2, y2 = self.boxes_xyxy.T.astype(np.float64)
            self.area = (x2 - x1) * (y2 - y1)

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def size(self) -> tuple[int, int]:
        """(h, w) of the picture as it stands."""
        return self.canvas.size

    @property
    def image(self) -> Tensor:
        """(C, h, w), uint8 or float32; what is pending is done first."""
        self.render()
        return self.canvas.source

    @image.setter
    def image(self, image: Tensor) -> None:
        self.canvas = Canvas.of(image)

    def render(self, size: tuple[int, int] | None = None) -> None:
        """Paints the picture at `size` (h, w) and moves the boxes along."""
        if self.canvas.pristine and size in (None, self.size):
            return
        image, (sx, sy, dx, dy) = self.canvas.render(size)
        if (sx, sy, dx, dy) != (1.0, 1.0, 0.0, 0.0):
            self.boxes_xyxy = self.boxes_xyxy * np.array([sx, sy, sx, sy], np.float32)
            self.boxes_xyxy += np.array([dx, dy, dx, dy], np.float32)
        self.canvas = Canvas.of(image, exact=self.canvas.exact)
        self.clip()

    def clip(self) -> None:
        """Clips the boxes to the picture."""
        h, w = self.size
        self.boxes_xyxy[:, 0::2] = self.boxes_xyxy[:, 0::2].clip(0, w)
        self.boxes_xyxy[:, 1::2] = self.boxes_xyxy[:, 1::2].clip(0, h)

    def select(self, keep: npt.NDArray[np.bool_]) -> None:
        """Leaves only the boxes where `keep` is true."""
        if not keep.all():
            self.boxes_xyxy = self.boxes_xyxy[keep]
            self.labels = self.labels[keep]
            self.area = self.area[keep]

    def boxes_cxcywh(self) -> npt.NDArray[np.float32]:
        """(N, 4) float32, centre and size as fractions of the picture."""
        h, w = self.size
        x1, y1, x2, y2 = (self.boxes_xyxy / np.array([w, h, w, h], np.float32)).T
        boxes = np.stack([(x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1], axis=1)
        return boxes.astype(np.float32, copy=False)

    def target(self) -> Target:
        """What the picture holds, as tensors."""
        return Target(
            boxes_cxcywh=torch.from_numpy(self.boxes_cxcywh()),
            labels=torch.from_numpy(self.labels),
            image_id=self.image_id,
            orig_size=self.orig_size,
        )
