"""Small objects in large pictures: detecting on overlapping tiles, and joining what they say.

A picture is looked at as a whole, at the model's input size as always, and tile by tile, each
tile at the input size. The idea is that of SAHI (Akyon et al., ICIP 2022, arXiv:2202.06934). Boxes
are joined within their class and between views only, never within one:

    the same object     two boxes overlap (IoU of at least `SAME`); the better one stays
    parts of it         one of two boxes ends at a border of its tile, where the picture goes on,
                        and within what both views show they cover the same (IoU of at least
                        `SAME` there). A box that no border cut is believed as it is; of parts
                        only, the joint is the box around all of them

    a passage           a box that ends at opposite borders of its tile belongs to something larger
                        than the tile; that is for the whole picture to say, and it is left out

An object smaller than the overlap is whole in at least one tile. A picture that fits into one tile
is detected on as without tiling.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from torch import Tensor

from detrkit.errors import UsageError
from detrkit.structures import Detections

#: IoU from which on boxes of two views are the same object.
SAME = 0.5
#: How near a box must come to a border to count as cut there, as a part of the tile's side.
NEAR = 0.015

#: Left, top, right, bottom in pixels of the picture.
Window = tuple[int, int, int, int]


@dataclass(frozen=True)
class Tiling:
    """How pictures are cut.

    Attributes:
        size: (h, w) of a tile in pixels.
        overlap: of neighbours, as a part of a tile's side.

    Raises:
        UsageError: a number is out of range.
    """

    size: tuple[int, int]
    overlap: float = 0.2

    def __post_init__(self) -> None:
        if min(self.size) < 32:
            raise UsageError(f"tiles must be at least 32 pixels wide and high, got {self.size}")
        if not 0 <= self.overlap < 0.9:
            raise UsageError(f"the overlap must be at least 0 and below 0.9, got {self.overlap}")

    def windows(self, size: tuple[int, int]) -> list[Window]:
        """The tiles of a picture of `size` (h, w), row by row; they cover every pixel.

        All have the size of a tile, or that of the picture where this is smaller; spread evenly,
        they overlap by at least `overlap`.
        """
        height, width = (min(a, b) for a, b in zip(self.size, size, strict=True))
        return [
            (left, top, left + width, top + height)
            for top in _starts(size[0], self.size[0], self.overlap)
            for left in _starts(size[1], self.size[1], self.overlap)
        ]

    def views(self, image: Tensor) -> list[Window]:
        """What is looked at: the whole picture and, where it does not fit into one, its tiles."""
        height, width = int(image.shape[-2]), int(image.shape[-1])
        windows = self.windows((height, width))
        return [(0, 0, width, height), *(windows if len(windows) > 1 else [])]


def crop(image: Tensor, window: Window) -> Tensor:
    """The part (C, h, w) of an image (C, H, W); no copy."""
    left, top, right, bottom = window
    return image[:, top:bottom, left:right]


def merge(found: Sequence[Detections], windows: Sequence[Window]) -> Detections:
    """One answer for a picture from those for its views.

    Args:
        found: of each view, in pixels of the view.
        windows: where the views lie; the first one is the whole picture.

    Returns:
        In pixels of the picture, best score first.
    """
    if len(found) == 1:
        return found[0]
    right, bottom = windows[0][2:]
    parts, boxes, cut = [], [], []
    for seen, window in zip(found, windows, strict=True):
        placed = seen.boxes_xyxy + np.array(window[:2] * 2, np.float32)
        sides = _cut_sides(placed, window, (right, bottom))
        kept: npt.NDArray[np.bool_] = np.asarray(~(sides[:, :2] & sides[:, 2:]).any(1))
        parts.append(seen.select(kept))
        boxes.append(placed[kept])
        cut.append(sides[kept].any(1))
    found = parts
    every = replace(
        found[0],
        boxes_xyxy=np.concatenate(boxes),
        scores=np.concatenate([seen.scores for seen in found]),
        labels=np.concatenate([seen.labels for seen in found]),
    )
    order = np.argsort(-every.scores, kind="stable")
    views = np.repeat(np.arange(len(found)), [len(seen) for seen in found])[order]
    pieces = _Pieces(
        every.boxes_xyxy[order],
        every.labels[order],
        views,
        np.concatenate(cut)[order],
        np.array(windows, np.float32)[views].reshape(-1, 4),
    )
    joined, best = pieces.joined()
    return replace(every.select(order[best]), boxes_xyxy=joined)


def _starts(length: int, tile: int, overlap: float) -> list[int]:
    """Where tiles begin along one side."""
    if length <= tile:
        return [0]
    stride = max(int(tile * (1 - overlap)), 1)
    count = -(-(length - tile) // stride) + 1
    return [round(i * (length - tile) / (count - 1)) for i in range(count)]


def _cut_sides(
    boxes: npt.NDArray[np.float32], window: Window, picture: tuple[int, int]
) -> npt.NDArray[np.bool_]:
    """(N, 4) whether each side of a box lies at a border of its window.

    Borders of the picture (w, h), where nothing goes on, do not count.
    """
    left, top, right, bottom = window
    near_x, near_y = NEAR * (right - left), NEAR * (bottom - top)
    x1, y1, x2, y2 = boxes.T
    return np.stack(
        [
            (left > 0) & (x1 < left + near_x),
            (top > 0) & (y1 < top + near_y),
            (right < picture[0]) & (x2 > right - near_x),
            (bottom < picture[1]) & (y2 > bottom - near_y),
        ],
        axis=1,
    )


@dataclass(frozen=True)
class _Pieces:
    """Boxes of all views in pixels of the picture, best first.

    Attributes:
        boxes: (N, 4).
        labels: (N,).
        views: (N,) which view they were seen in.
        cut: (N,) whether a border of the view cut them.
        windows: (N, 4) of their views.
    """

    boxes: npt.NDArray[np.float32]
    labels: npt.NDArray[np.int64]
    views: npt.NDArray[np.int64]
    cut: npt.NDArray[np.bool_]
    windows: npt.NDArray[np.float32]

    def joined(self) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
        """Boxes (M, 4), and the row of the best member of each, in order."""
        free = np.ones(len(self.boxes), bool)
        boxes, rows = [], []
        for row in range(len(self.boxes)):
            if free[row]:
                free[row] = False
                boxes.append(self._gather(row, free))
                rows.append(row)
        return np.array(boxes, np.float32).reshape(-1, 4), np.array(rows, np.int64)

    def _gather(self, row: int, free: npt.NDArray[np.bool_]) -> npt.NDArray[np.float32]:
        """The box of the object of which `row` is the best view; takes its members from `free`."""
        box, window, whole = self.boxes[row], self.windows[row], not self.cut[row]
        seen_by = [self.views[row]]
        others = np.flatnonzero(free & (self.labels == self.labels[row]))
        while True:
            # a view that has shown this object means another one by its other boxes
            others = others[~np.isin(self.views[others], seen_by)]
            same = _iou(box, self.boxes[others]) >= SAME
            if not same.all():
                shared = _common(window, self.windows[others])
                there = _iou(_common(box, shared), _common(self.boxes[others], shared))
                same |= (self.cut[others] | (not whole)) & (there >= SAME)
            if not same.any():
                return box
            member = others[same.argmax()]  # one at a time: the box may grow
            free[member] = False
            seen_by.append(self.views[member])
            if whole:
                continue
            if self.cut[member]:
                box, window = _hull(box, self.boxes[member]), _hull(window, self.windows[member])
            else:
                box, window, whole = self.boxes[member], self.windows[member], True


def _common(a: npt.NDArray[np.float32], b: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Intersections of (…, 4) and (…, 4); of no area where there are none."""
    low = np.maximum(a[..., :2], b[..., :2])
    return np.concatenate([low, np.maximum(np.minimum(a[..., 2:], b[..., 2:]), low)], -1)


def _hull(a: npt.NDArray[np.float32], b: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    return np.concatenate([np.minimum(a[:2], b[:2]), np.maximum(a[2:], b[2:])])


def _area(boxes: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    area: npt.NDArray[np.float32] = (boxes[..., 2:] - boxes[..., :2]).clip(0).prod(-1)
    return area


def _iou(a: npt.NDArray[np.float32], b: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Of (…, 4) and (N, 4), pair by pair; 0 where both are empty."""
    common = _area(_common(a, b))
    return common / np.maximum(_area(a) + _area(b) - common, np.float32(1e-9))
