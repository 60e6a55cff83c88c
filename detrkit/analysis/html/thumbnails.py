"""Small pictures for the report: a box with what is around it, or a whole image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache

import numpy as np
import numpy.typing as npt
from PIL import Image

from detrkit.data.images import read_image
from detrkit.data.index import DatasetIndex
from detrkit.drawing import draw_boxes, to_picture, viewable
from detrkit.errors import DataError
from detrkit.report import jpeg_uri

#: Longer side in pixels.
SIDE = 200
#: What is shown around a box: its longer side times this, at least so many pixels.
_AROUND, _LEAST = 2.2, 96

Box = Sequence[float]
Color = tuple[int, int, int]
_WHITE: Color = (255, 255, 255)


class Thumbnails:
    """Pictures of a data set's images, read when they are asked for.

    Args:
        parts: the splits.
    """

    def __init__(self, parts: Mapping[str, DatasetIndex]) -> None:
        self.parts = parts
        self._colors = next(iter(parts.values())).class_map.colors
        self._picture = lru_cache(maxsize=4)(self._read)

    def _read(self, split: str, image: int) -> Image.Image | None:
        index = self.parts[split]
        try:
            apply_exif = bool(index.apply_exif[image])
            pixels = read_image(index.paths[image], apply_exif=apply_exif, channels=None)
        except DataError:
            return None
        return to_picture(viewable(pixels))

    def crop(
        self, split: str, image: int, box_xyxy: Box, label: int, other_xyxy: Box | None = None
    ) -> str:
        """The box and its surroundings as `data:` URI; empty where the image cannot be read.

        Args:
            split, image: where it is.
            box_xyxy, label: drawn in the colour of the class.
            other_xyxy: another box, drawn in white below it.
        """
        picture = self._picture(split, image)
        if picture is None:
            return ""
        x1, y1, x2, y2 = box_xyxy
        side = max(_AROUND * max(x2 - x1, y2 - y1), _LEAST)
        left, right = _interval((x1 + x2) / 2, side, picture.width)
        top, bottom = _interval((y1 + y2) / 2, side, picture.height)
        part = picture.crop((left, top, right, bottom))
        boxes = [box_xyxy] if other_xyxy is None else [box_xyxy, other_xyxy]
        colors = [self._colors[label], _WHITE][: len(boxes)]
        return _finished(part, np.array(boxes) - [left, top, left, top], colors)

    def whole(self, split: str, image: int) -> str:
        """The image with its boxes as `data:` URI; empty where it cannot be read."""
        picture = self._picture(split, image)
        if picture is None:
            return ""
        index = self.parts[split]
        rows = index.boxes_of(image)
        colors = [self._colors[label] for label in index.labels[rows].tolist()]
        return _finished(picture, index.boxes_xyxy[rows], colors)


def _finished(
    picture: Image.Image, boxes: npt.NDArray[np.floating], colors: Sequence[Color]
) -> str:
    """Scaled, boxes drawn, encoded."""
    ratio = SIDE / max(picture.size)
    size = max(round(picture.width * ratio), 1), max(round(picture.height * ratio), 1)
    method = Image.Resampling.LANCZOS if ratio < 1 else Image.Resampling.BICUBIC
    factors = np.array([size[0] / picture.width, size[1] / picture.height] * 2)
    scaled = picture.resize(size, method)
    return jpeg_uri(draw_boxes(scaled, boxes * factors, [""] * len(boxes), colors, line_width=2))


def _interval(middle: float, length: float, limit: int) -> tuple[int, int]:
    """Whole pixels of that length around `middle`, pushed inside 0 … limit."""
    length = min(length, limit)
    start = min(max(middle - length / 2, 0), limit - length)
    return int(start), max(round(start + length), int(start) + 1)
