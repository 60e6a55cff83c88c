"""Small pictures for reports: boxes with what is around them, or a whole image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache

import numpy as np
import numpy.typing as npt
from PIL import Image

from detrkit.data.image_check import read_indexed
from detrkit.data.index import DatasetIndex
from detrkit.drawing.boxes import Color, draw_boxes, to_picture
from detrkit.drawing.viewable import viewable
from detrkit.errors import DataError
from detrkit.report import jpeg_uri

#: Longer side in pixels.
SIDE = 200
#: What is shown around a box: its longer side times this, at least so many pixels.
_AROUND, _LEAST = 2.2, 96

WHITE: Color = (255, 255, 255)
#: A box, x1, y1, x2, y2 in pixels of the index, and its colour.
Mark = tuple[Sequence[float], Color]


class Thumbnails:
    """Pictures of a data set's images, read when they are asked for.

    Args:
        parts: the splits.
    """

    def __init__(self, parts: Mapping[str, DatasetIndex]) -> None:
        self.parts = parts
        self._picture = lru_cache(maxsize=4)(self._read)

    def _read(self, split: str, image: int) -> tuple[Image.Image, npt.NDArray[np.float64]] | None:
        """The picture, and factors from pixels of the index to its own for x1, y1, x2, y2."""
        try:
            found = read_indexed(self.parts[split], image, channels=None)
        except DataError:
            return None
        return to_picture(viewable(found.image)), np.array(found.scale * 2, np.float64)

    def crop(
        self, split: str, image: int, marks: Sequence[Mark], faint: Sequence[Mark] = ()
    ) -> str:
        """Boxes and their surroundings as `data:` URI; empty where the image cannot be read.

        Args:
            split, image: where they are.
            marks: at least one; the first is in the middle and drawn above the others.
            faint: more boxes, drawn thinly below.
        """
        found = self._picture(split, image)
        if found is None:
            return ""
        picture, scale = found
        x1, y1, x2, y2 = np.array(marks[0][0]) * scale
        side = max(_AROUND * max(x2 - x1, y2 - y1), _LEAST)
        left, right = _interval((x1 + x2) / 2, side, picture.width)
        top, bottom = _interval((y1 + y2) / 2, side, picture.height)
        small = _Small(picture.crop((left, top, right, bottom)), scale, (left, top))
        small.draw(faint, line_width=1)
        small.draw(marks)
        return jpeg_uri(small.picture)

    def whole(self, split: str, image: int) -> str:
        """The image with its boxes as `data:` URI; empty where it cannot be read."""
        found = self._picture(split, image)
        if found is None:
            return ""
        index = self.parts[split]
        rows = index.boxes_of(image)
        colors = [index.class_map.colors[label] for label in index.labels[rows].tolist()]
        small = _Small(*found)
        small.draw(list(zip(index.boxes_xyxy[rows].tolist(), colors, strict=True)))
        return jpeg_uri(small.picture)


class _Small:
    """A part of a picture, scaled to `SIDE`.

    Args:
        part: what is shown.
        scale: (4,) factors on boxes, before the corner is taken off.
        corner: left and top of the part.
    """

    def __init__(
        self,
        part: Image.Image,
        scale: npt.NDArray[np.float64],
        corner: tuple[int, int] = (0, 0),
    ) -> None:
        ratio = SIDE / max(part.size)
        size = max(round(part.width * ratio), 1), max(round(part.height * ratio), 1)
        method = Image.Resampling.LANCZOS if ratio < 1 else Image.Resampling.BICUBIC
        self.picture = part.resize(size, method)
        self._scale, self._corner = scale, np.array(corner * 2)
        self._factors = np.array([size[0] / part.width, size[1] / part.height] * 2)

    def draw(self, marks: Sequence[Mark], line_width: int = 2) -> None:
        boxes = np.array([box for box, _ in marks], np.float64).reshape(-1, 4)
        boxes = (boxes * self._scale - self._corner) * self._factors
        inside = ((boxes[:, 2:] > 0) & (boxes[:, :2] < self.picture.size)).all(1)
        colors = [color for (_, color), kept in zip(marks, inside, strict=True) if kept]
        captions = [""] * len(colors)
        draw_boxes(self.picture, boxes[inside], captions, colors, line_width=line_width)


def _interval(middle: float, length: float, limit: int) -> tuple[int, int]:
    """Whole pixels of that length around `middle`, pushed inside 0 … limit."""
    length = min(length, limit)
    start = min(max(middle - length / 2, 0), limit - length)
    return int(start), max(round(start + length), int(start) + 1)
