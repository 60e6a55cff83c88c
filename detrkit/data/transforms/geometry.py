"""Random and fixed changes of geometry. All of them only move the canvas; `Resize` paints it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from detrkit.data.sample import Sample
from detrkit.registry import MODULES


@MODULES.register(family="transform", example={})
class RandomZoomOut:
    """Puts the picture somewhere on a larger canvas (SSD's "expand").

    Args:
        fill: 0–255, or one value per channel.
        side_range: canvas side over picture side.
        p: probability.
    """

    def __init__(
        self,
        fill: float | Sequence[float] = 0,
        side_range: tuple[float, float] = (1.0, 4.0),
        p: float = 0.5,
    ) -> None:
        if side_range[0] < 1 or side_range[0] > side_range[1]:
            raise ValueError(f"side_range must be 1 or more and ascending, got {side_range}")
        self.fill = fill_of(fill)
        self.side_range = side_range
        self.p = p

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        """Draws the canvas and the place on it."""
        if rng.random() >= self.p:
            return sample
        ratio = rng.uniform(*self.side_range)
        h, w = sample.size
        height, width = int(h * ratio), int(w * ratio)
        left, top = (
            int((outer - inner) * r)
            for outer, inner, r in zip((width, height), (w, h), rng.random(2), strict=True)
        )
        _pad(sample, top, left, (height, width), self.fill)
        return sample


@MODULES.register(family="transform", example={})
class RandomIoUCrop:
    """Cuts out a part that overlaps some box by at least a random IoU (SSD's random crop).

    As torchvision's transform of the same name: boxes whose centre is cut off are dropped, the
    others clipped. An image without boxes is left as it is.

    Args:
        min_scale: smallest part of the side.
        max_scale: largest part of the side.
        min_aspect_ratio: of the crop, relative to the picture's.
        max_aspect_ratio: likewise.
        sampler_options: least IoUs to choose from; 1 or more leaves the picture as it is.
        trials: crops to try before another IoU is chosen.
        p: probability.
    """

    def __init__(
        self,
        min_scale: float = 0.3,
        max_scale: float = 1.0,
        min_aspect_ratio: float = 0.5,
        max_aspect_ratio: float = 2.0,
        sampler_options: Sequence[float] | None = None,
        trials: int = 40,
        p: float = 1.0,
    ) -> None:
        self.scale = (min_scale, max_scale)
        self.aspect = (min_aspect_ratio, max_aspect_ratio)
        self.options = list(sampler_options or (0.0, 0.1, 0.3, 0.5, 0.7, 0.9, 1.0))
        self.trials = trials
        self.p = p

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        """Draws the crop."""
        if rng.random() >= self.p or not len(sample):
            return sample
        while True:
            overlap = self.options[rng.integers(len(self.options))]
            if overlap >= 1.0:
                return sample
            crop = self._search(sample, overlap, rng)
            if crop is not None:
                break
        left, top, right, bottom = crop
        keep = _centres_inside(sample.boxes_xyxy, np.array([crop], np.float64))[0]
        sample.canvas.window(top, left, (bottom - top, right - left))
        sample.select(keep)
        sample.boxes_xyxy = sample.boxes_xyxy - np.array([left, top, left, top], np.float32)
        sample.clip()
        return sample

    def _search(
        self, sample: Sample, overlap: float, rng: np.random.Generator
    ) -> tuple[int, int, int, int] | None:
        """The first of `trials` random crops that overlaps a box enough; all are tried at once."""
        h, w = sample.size
        draws = rng.random((self.trials, 4))
        low, high = self.scale
        width, height = ((low + (high - low) * draws[:, :2]) * (w, h)).astype(np.int64).T
        ratio = width / np.maximum(height, 1)
        fits = (width > 0) & (height > 0) & (ratio >= self.aspect[0]) & (ratio <= self.aspect[1])
        if not fits.any():
            return None
        width, height, draws = width[fits], height[fits], draws[fits]
        left = ((w - width) * draws[:, 2]).astype(np.int64)
        top = ((h - height) * draws[:, 3]).astype(np.int64)
        crops = np.stack([left, top, left + width, top + height], axis=1)
        good = _centres_inside(sample.boxes_xyxy, crops)
        if overlap > 0:
            good &= _iou(crops, sample.boxes_xyxy) >= overlap
        hits = np.flatnonzero(good.any(axis=1))
        if not len(hits):
            return None
        x1, y1, x2, y2 = crops[hits[0]].tolist()
        return x1, y1, x2, y2


@MODULES.register(family="transform", example={"size": [8, 8]})
class RandomCrop:
    """Cuts out a random part of fixed size; a smaller picture is padded first if asked.

    As torchvision's, except that a picture that is too small and not padded is left whole.

    Args:
        size: (h, w), or one side of a square.
        pad_if_needed: pad pictures that are too small on both sides, by what they lack.
        fill: 0–255 of the padding.
    """

    def __init__(
        self,
        size: int | Sequence[int],
        pad_if_needed: bool = False,
        fill: float | Sequence[float] = 0,
    ) -> None:
        self.size = _pair(size)
        self.pad_if_needed = pad_if_needed
        self.fill = fill_of(fill)

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        """Draws the place."""
        h, w = self.size
        if self.pad_if_needed:
            top, left = max(h - sample.size[0], 0), max(w - sample.size[1], 0)
            if top or left:
                size = (sample.size[0] + 2 * top, sample.size[1] + 2 * left)
                _pad(sample, top, left, size, self.fill)
        h, w = min(h, sample.size[0]), min(w, sample.size[1])
        top = int(rng.integers(sample.size[0] - h + 1))
        left = int(rng.integers(sample.size[1] - w + 1))
        sample.canvas.window(top, left, (h, w))
        sample.boxes_xyxy = sample.boxes_xyxy - np.array([left, top, left, top], np.float32)
        sample.clip()
        return sample


@MODULES.register(family="transform", example={})
class RandomHorizontalFlip:
    """Mirrors left to right with probability `p`."""

    def __init__(self, p: float = 0.5) -> None:
        self.p = p

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        """Draws whether to."""
        if rng.random() < self.p:
            width = np.float32(sample.size[1])
            x1, y1, x2, y2 = sample.boxes_xyxy.T
            sample.boxes_xyxy = np.stack([width - x2, y1, width - x1, y2], axis=1)
            sample.canvas.mirror()
        return sample


@MODULES.register(family="transform", example={"size": [8, 8]})
class Resize:
    """Stretches to a size, with antialiasing; the same kernel as `ImageSpec.resized`.

    Args:
        size: (h, w), or one number for the shorter side.
        interpolation: only "bilinear".
        max_size: limit for the longer side when `size` is one number.
        antialias: only True.
    """

    def __init__(
        self,
        size: int | Sequence[int],
        interpolation: str = "bilinear",
        max_size: int | None = None,
        antialias: bool = True,
    ) -> None:
        if interpolation != "bilinear" or not antialias:
            raise ValueError("Resize is bilinear with antialiasing; nothing else is supported")
        if isinstance(size, Sequence) and len(size) not in (1, 2):
            raise ValueError(f"size must be (h, w) or one number, got {size}")
        self.max_size = max_size
        self.size = size[0] if isinstance(size, Sequence) and len(size) == 1 else size

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        """Paints the picture at its new size."""
        sample.render(self.output_size(sample.size))
        return sample

    def output_size(self, size: tuple[int, int]) -> tuple[int, int]:
        """(h, w) that a picture of `size` gets."""
        if isinstance(self.size, Sequence):
            return int(self.size[0]), int(self.size[1])
        shorter, longer = min(size), max(size)
        short, long = self.size, int(self.size * longer / shorter)
        if self.max_size is not None and long > self.max_size:
            short, long = int(self.max_size * short / long), self.max_size
        short, long = max(short, 1), max(long, 1)
        return (short, long) if size[0] <= size[1] else (long, short)


@MODULES.register(family="transform", example={"size": [32, 32]})
class PadToSize:
    """Pads on the right and below.

    Args:
        size: (w, h) as the authors' code has it, or one side of a square.
        fill: 0–255, or one value per channel.
        padding_mode: only "constant".
    """

    def __init__(
        self,
        size: int | Sequence[int],
        fill: float | Sequence[float] = 0,
        padding_mode: str = "constant",
    ) -> None:
        if padding_mode != "constant":
            raise ValueError("PadToSize pads with a constant; nothing else is supported")
        w, h = _pair(size)
        self.size = (h, w)
        self.fill = fill_of(fill)

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        """Enlarges the canvas; a picture that is larger already is cut."""
        _pad(sample, 0, 0, self.size, self.fill)
        sample.clip()
        return sample


@MODULES.register(family="transform", example={})
class SanitizeBoundingBoxes:
    """Drops boxes that became too small or lie outside.

    Args:
        min_size: least width and height in pixels of the picture as it stands.
        min_area: least area in square pixels.
    """

    def __init__(self, min_size: float = 1.0, min_area: float = 1.0) -> None:
        self.min_size = min_size
        self.min_area = min_area

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        """Drops them with their labels."""
        x1, y1, x2, y2 = sample.boxes_xyxy.T
        h, w = sample.size
        width, height = x2 - x1, y2 - y1
        sample.select(
            (width >= self.min_size)
            & (height >= self.min_size)
            & (width * height >= self.min_area)
            & (x1 >= 0)
            & (y1 >= 0)
            & (x2 <= w)
            & (y2 <= h)
        )
        return sample


def _pad(sample: Sample, top: int, left: int, size: tuple[int, int], fill: tuple[int, ...]) -> None:
    """Puts the picture at (top, left) of a canvas of `size`."""
    if fill != sample.canvas.fill and not sample.canvas.covers:
        sample.render()  # one canvas has one fill
    sample.canvas.fill = fill
    sample.canvas.window(-top, -left, size)
    sample.boxes_xyxy = sample.boxes_xyxy + np.array([left, top, left, top], np.float32)


def _centres_inside(
    boxes: npt.NDArray[np.float32], crops: npt.NDArray[np.number]
) -> npt.NDArray[np.bool_]:
    """(crops, boxes): whether the box's centre lies inside the crop."""
    cx = (boxes[:, 0] + boxes[:, 2]) / 2
    cy = (boxes[:, 1] + boxes[:, 3]) / 2
    left, top, right, bottom = crops.T[..., None]
    return (left < cx) & (cx < right) & (top < cy) & (cy < bottom)


def _iou(crops: npt.NDArray[np.number], boxes: npt.NDArray[np.float32]) -> npt.NDArray[np.floating]:
    """(crops, boxes)."""
    a, b = crops[:, None], boxes[None]
    width = np.minimum(a[..., 2], b[..., 2]) - np.maximum(a[..., 0], b[..., 0])
    height = np.minimum(a[..., 3], b[..., 3]) - np.maximum(a[..., 1], b[..., 1])
    common = width.clip(0) * height.clip(0)
    areas = [(x[..., 2] - x[..., 0]) * (x[..., 3] - x[..., 1]) for x in (a, b)]
    return common / np.maximum(areas[0] + areas[1] - common, 1e-9)


def _pair(size: int | Sequence[int]) -> tuple[int, int]:
    if isinstance(size, Sequence):
        return int(size[0]), int(size[-1])
    return int(size), int(size)


def fill_of(value: float | Sequence[float]) -> tuple[int, ...]:
    """What empty canvas is filled with: one value for all channels, or one for each.

    Raises:
        ValueError: a value is outside 0-255.
    """
    values = tuple(int(v) for v in value) if isinstance(value, Sequence) else (int(value),)
    if not values or not all(0 <= v <= 255 for v in values):
        raise ValueError(f"fill must be 0–255, or one such value per channel, got {value!r}")
    return values if len(set(values)) > 1 else values[:1]
