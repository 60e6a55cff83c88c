"""Boxes with names on pictures.

Line and letters grow with the picture; a class keeps its colour, and so does a track; names stay
inside the picture and, where there is room, off each other. Better detections are drawn over worse
ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw
from torch import Tensor

from detrkit.data.images import read_image
from detrkit.data.modes import from_pillow
from detrkit.drawing.fonts import can_write, clean, font_for
from detrkit.drawing.viewable import viewable
from detrkit.structures import ClassMap, Detections, ImageSpec, Target
from detrkit.structures.class_map import color_of

Color = tuple[int, int, int]
Rectangle = tuple[int, int, int, int]
Picture = Image.Image | npt.NDArray[np.uint8] | Tensor

# Height of the letters in pixels: a part of the picture's mean side, and a bit more, because
# small pictures need relatively larger ones.
_LETTERS, _LETTERS_MORE = 0.018, 4
_SMALLEST, _LARGEST = 9, 96
_LINE = 0.14  # line width as a part of the letters' height
_UNKNOWN: Color = (160, 160, 160)


def to_picture(image: Picture, image_spec: ImageSpec | None = None) -> Image.Image:
    """A new RGB picture.

    Args:
        image: a picture of any mode; or uint8 (H, W, 3) RGB; or a tensor (C, H, W): uint8, or
            float, the model's input. What is not RGB is shown as `viewable` does.
        image_spec: how the model's input was made, to undo it; default plain 0–1.
    """
    if isinstance(image, Tensor):
        if image.is_floating_point():
            spec = image_spec or ImageSpec((0, 0), in_channels=len(image))
            image = _undo(image.detach().float().cpu(), spec)
        return Image.fromarray(viewable(image).permute(1, 2, 0).contiguous().numpy())
    if isinstance(image, np.ndarray):
        return Image.fromarray(np.ascontiguousarray(image)).convert("RGB")
    return Image.fromarray(from_pillow(image))


def _undo(image: Tensor, spec: ImageSpec) -> Tensor:
    """Float input of the model (C, H, W) -> pixels; uint8 where there are three channels."""
    mean, std = image.new_tensor(spec.mean), image.new_tensor(spec.std)
    image = (image * std.view(-1, 1, 1) + mean.view(-1, 1, 1)) / spec.scale
    if spec.in_channels == 3:
        image = image.round().clamp(0, 255).byte()
    return image.flip(0) if spec.channels == "bgr" else image


def draw_detections(
    detections: Detections,
    image: Picture | None = None,
    *,
    min_score: float = 0.0,
    scores: bool = True,
    enlarge_to: int = 0,
    font_size: int | None = None,
    line_width: int | None = None,
) -> Image.Image:
    """A copy of the image with boxes, names and scores.

    Args:
        detections: what was found.
        image: the picture, default the file at `detections.path`. Boxes are scaled when its size
            is not the original's.
        min_score: leaves out what scores less.
        scores: writes the score behind the name.
        enlarge_to: makes the picture's longer side at least this many pixels, so that names on
            small pictures can be read.
        font_size, line_width: pixels; default by the size of the picture.
    """
    if image is None:
        if detections.path is None:
            raise ValueError("give the image: these detections do not come from a file")
        image = viewable(read_image(detections.path, channels=None))
    picture = to_picture(image)
    ratio = enlarge_to / max(picture.size)
    if ratio > 1:
        larger = round(picture.width * ratio), round(picture.height * ratio)
        picture = picture.resize(larger, Image.Resampling.BICUBIC)
    shown = detections.above(min_score) if min_score > 0 else detections
    boxes = shown.boxes_xyxy
    h, w = shown.orig_size
    if h and w and (w, h) != picture.size:
        boxes = boxes * np.array([picture.width / w, picture.height / h] * 2, np.float32)
    tracks = shown.track_ids
    captions = [
        _caption(
            shown.class_map,
            int(label),
            score=float(shown.scores[i]) if scores else None,
            track=None if tracks is None else int(tracks[i]),
        )
        for i, label in enumerate(shown.labels)
    ]
    if tracks is None:
        colors = [_color(shown.class_map, int(label)) for label in shown.labels]
    else:  # an object keeps its colour, whatever the detector takes it for
        colors = [color_of(int(track)) for track in tracks]
    return draw_boxes(picture, boxes, captions, colors, font_size=font_size, line_width=line_width)


def draw_targets(
    image: Picture,
    target: Target,
    class_map: ClassMap | None = None,
    *,
    image_spec: ImageSpec | None = None,
    font_size: int | None = None,
    line_width: int | None = None,
) -> Image.Image:
    """A copy of the image with its ground truth; for looking at training batches.

    Args:
        image: (3, H, W) as it goes into the model, or a picture.
        target: boxes as fractions of that image.
        class_map: names; default class numbers.
        image_spec: how the image was normalised.
        font_size, line_width: pixels; default by the size of the picture.
    """
    picture = to_picture(image, image_spec)
    boxes = target.boxes_cxcywh.detach().cpu().numpy().astype(np.float64).reshape(-1, 4)
    corners = np.concatenate([boxes[:, :2] - boxes[:, 2:] / 2, boxes[:, :2] + boxes[:, 2:] / 2], 1)
    corners *= np.array([picture.width, picture.height] * 2)
    labels = target.labels.tolist()
    captions = [_caption(class_map, label) for label in labels]
    colors = [_color(class_map, label) for label in labels]
    return draw_boxes(
        picture, corners, captions, colors, font_size=font_size, line_width=line_width
    )


def _caption(
    class_map: ClassMap | None, label: int, score: float | None = None, track: int | None = None
) -> str:
    """`name 0.87`, `#3 name 0.87` with a track, `class 3 0.87` where no font has the name."""
    name = clean(class_map.names[label]) if class_map and label < len(class_map) else ""
    parts = [f"#{track}"] if track is not None else []
    parts.append(name if name and can_write(name) else f"class {label}")
    if score is not None:
        parts.append(f"{score:.2f}")
    return " ".join(parts)


def _color(class_map: ClassMap | None, label: int) -> Color:
    if class_map is None:
        class_map = ClassMap.from_names(map(str, range(label + 1)))
    return class_map.colors[label] if label < len(class_map) else _UNKNOWN


def draw_boxes(
    picture: Image.Image,
    boxes_xyxy: npt.NDArray[Any],
    captions: Sequence[str],
    colors: Sequence[Color],
    *,
    font_size: int | None = None,
    line_width: int | None = None,
) -> Image.Image:
    """Draws into `picture` and returns it.

    Args:
        picture: RGB.
        boxes_xyxy: (N, 4) corners in its pixels, the most important first; parts outside are cut
            off, boxes with values that are not finite are left out.
        captions: N texts; empty ones are not written.
        colors: N colours.
        font_size, line_width: pixels; default by the size of the picture.
    """
    side = (picture.width * picture.height) ** 0.5
    size = font_size or int(min(max(round(_LETTERS * side) + _LETTERS_MORE, _SMALLEST), _LARGEST))
    line = line_width or max(round(_LINE * size), 1)
    limits = np.array([picture.width, picture.height] * 2) - 1
    pen = ImageDraw.Draw(picture)

    marks: list[tuple[Rectangle, Color]] = []
    labels: list[_Label] = []
    for box, caption, color in zip(boxes_xyxy, captions, colors, strict=True):
        if not np.isfinite(box).all():
            continue
        x1, y1, x2, y2 = (int(v) for v in np.clip(np.round(box), 0, limits))
        rectangle = (min(x1, x2), min(y1, y2), max(x1, x2), max(y1, y2))
        marks.append((rectangle, color))
        if caption := clean(caption):
            label = _Label.fit(caption, size, color)
            if label.place(rectangle, picture.size, [other.at for other in labels]):
                labels.append(label)
    for rectangle, color in reversed(marks):
        pen.rectangle(rectangle, outline=color, width=line)
    for label in reversed(labels):
        label.draw(pen)
    return picture


@dataclass
class _Label:
    """A filled strip with text."""

    text: str
    size: int
    color: Color
    width: int
    height: int
    at: Rectangle = (0, 0, 0, 0)

    @classmethod
    def fit(cls, text: str, size: int, color: Color) -> _Label:
        """A strip as wide as the text."""
        padding = max(size // 5, 2)
        width = round(font_for(text, size).getlength(text)) + 2 * padding
        return cls(text, size, color, width, round(1.35 * size))

    def place(self, box: Rectangle, picture: tuple[int, int], taken: Sequence[Rectangle]) -> bool:
        """Finds a place at the box, inside the picture and off other labels if it can be had.

        Returns:
            False where the picture is too small for the text.
        """
        if self.width > picture[0] or self.height > picture[1]:
            return False
        x1, y1, x2, y2 = box
        corners = [
            (x1, y1 - self.height),  # above
            (x1, y1),  # inside, at the top
            (x2 - self.width, y1 - self.height),  # above, at the right
            (x2 - self.width, y1),  # inside, at the top right
            (x1, y2),  # below
            (x2 - self.width, y2),  # below, at the right
            (x1, y2 - self.height),  # inside, at the bottom
        ]
        # A place that had to be moved into the picture is worth less than one at the box.
        cheapest = float("inf")
        for corner in corners:
            place = self._inside(corner, picture)
            cost = (place[:2] != corner) * self.width * self.height / 2
            cost += sum(_overlap(place, other) for other in taken)
            if cost < cheapest:
                cheapest, self.at = cost, place
            if not cost:
                break
        return True

    def _inside(self, corner: tuple[int, int], picture: tuple[int, int]) -> Rectangle:
        x = min(max(corner[0], 0), picture[0] - self.width)
        y = min(max(corner[1], 0), picture[1] - self.height)
        return x, y, x + self.width, y + self.height

    def draw(self, pen: ImageDraw.ImageDraw) -> None:
        """Strip and text, black or white, whichever reads better on the colour."""
        x1, y1, x2, y2 = self.at
        pen.rectangle((x1, y1, x2 - 1, y2 - 1), fill=self.color)
        r, g, b = self.color
        ink = (0, 0, 0) if 0.299 * r + 0.587 * g + 0.114 * b > 140 else (255, 255, 255)
        middle = ((x1 + x2) / 2, (y1 + y2) / 2)
        pen.text(middle, self.text, fill=ink, font=font_for(self.text, self.size), anchor="mm")


def _overlap(a: Rectangle, b: Rectangle) -> int:
    """Common area in square pixels."""
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    return max(width, 0) * max(height, 0)
