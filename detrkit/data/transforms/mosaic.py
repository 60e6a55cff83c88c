"""Mosaic: four pictures in one, turned and zoomed (Bochkovskiy et al. 2020, arXiv:2004.10934)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import torch

from detrkit.data.canvas import Canvas
from detrkit.data.memory import PictureMemory
from detrkit.data.pixels import Pixels
from detrkit.data.sample import Sample, SampleSource
from detrkit.data.transforms.geometry import RandomCrop, Resize, fill_of
from detrkit.registry import MODULES

#: Bytes of small pictures that each process keeps: some 160 of them at the usual size.
MEMORY = 64 << 20


@MODULES.register(family="transform", example={"output_size": 32})
class Mosaic:
    """Puts the picture and three others into the quarters of a canvas, then turns and zooms it.

    The quarters are as large as the largest of the four pictures needs; what a smaller one leaves
    free is black. Boxes become the upright hulls of what they turn into, cut off at the border.

    In the authors' code the others come from a list of pictures that the same loader process met
    before. Here they are drawn from the whole data set, as a function of (seed, epoch, index)
    alone. With `use_cache` they repeat as they would from a full list: each is with probability
    1 / `max_cached_images` the picture itself, and two of them are the same one as often. What
    differs is that they need not be recent, and that an epoch does not start with an empty list,
    that is, with one picture four times.

    Args:
        output_size: shorter side of the four pictures in pixels, or their (h, w).
        max_size: limit for their longer side.
        rotation_range: degrees, drawn from -x to x, or (low, high).
        translation_range: largest shift as a fraction of width and height; None for none.
        scaling_range: of the zoom; None for none.
        probability: of doing anything.
        fill_value: 0-255, or one value per channel, where the turned canvas does not reach.
        use_cache: whether pictures repeat as if drawn from a list of `max_cached_images`.
        max_cached_images: length of that list.
        random_pop: accepted and without effect: how old pictures leave that list.
        size: RT-DETRv2's name for `output_size`. As there, a random square with sides of
            `max_size` or `size` is then cut out. (Its last quarter stays black and the picture
            itself is left out; here four pictures are shown.)
    """

    def __init__(
        self,
        output_size: int | Sequence[int] = 320,
        max_size: int | None = None,
        rotation_range: float | Sequence[float] = 0,
        translation_range: Sequence[float] | None = (0.1, 0.1),
        scaling_range: Sequence[float] | None = (0.5, 1.5),
        probability: float = 1.0,
        fill_value: float | Sequence[float] = 114,
        use_cache: bool = True,
        max_cached_images: int = 50,
        random_pop: bool = True,
        size: int | Sequence[int] | None = None,
    ) -> None:
        if max_cached_images < 1:
            raise ValueError(f"max_cached_images must be 1 or more, got {max_cached_images}")
        self.resize = Resize(output_size if size is None else size, max_size=max_size)
        self.crop = None if size is None else RandomCrop(max_size or size)
        self.rotation = _rotation(rotation_range)
        self.translation = _translation(translation_range)
        self.scaling = _scaling(scaling_range)
        self.probability = probability
        self.fill = fill_of(fill_value)
        self.slots = max_cached_images if use_cache else None
        self._memory = PictureMemory(MEMORY)
        self._memory_of: SampleSource | None = None

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        """Draws the others, place, angle and zoom; the canvas is painted when it is needed."""
        if rng.random() >= self.probability:
            return sample
        source = sample.source
        sample.render(self.resize.output_size(sample.size))
        tiles = [sample, *self._others(sample, rng)]
        height, width = (max(tile.size[axis] for tile in tiles) for axis in (0, 1))
        corners = np.array([[0, 0], [width, 0], [0, height], [width, height]], np.float32)
        images = [tile.image for tile in tiles]
        dtype = np.uint8 if all(image.dtype == torch.uint8 for image in images) else np.float32
        pixels = np.zeros((2 * height, 2 * width, len(images[0])), dtype)
        for tile, (x, y) in zip(tiles, corners.astype(int), strict=True):
            _paste(tile, pixels, y, x)
        shifted = [t.boxes_xyxy + np.tile(c, 2) for t, c in zip(tiles, corners, strict=True)]
        size = (2 * height, 2 * width)
        matrix = self._matrix(size, rng)
        image = torch.from_numpy(pixels).permute(2, 0, 1)
        sample = replace(
            sample,
            canvas=Canvas(image, size, fill=self.fill, warp=matrix),
            boxes_xyxy=_hulls(np.concatenate(shifted), matrix),
            labels=np.concatenate([tile.labels for tile in tiles]),
            area=np.concatenate([tile.area for tile in tiles]),
            source=source,
        )
        sample.clip()
        x1, y1, x2, y2 = sample.boxes_xyxy.T
        sample.select((x2 > x1) & (y2 > y1))
        return sample if self.crop is None else self.crop(sample, rng)

    def _others(self, sample: Sample, rng: np.random.Generator) -> list[Sample]:
        """Three pictures at their size in the mosaic; outside of a data set the sample itself."""
        source = sample.source
        if source is None or not len(source):
            return [sample] * 3
        numbers = rng.integers(len(source), size=3).tolist()
        if self.slots is None:
            return [self._small(source, number) for number in numbers]
        places = rng.integers(self.slots, size=3).tolist()  # the first place is the sample's own
        first = {place: number for place, number in zip(places[::-1], numbers[::-1], strict=True)}
        return [self._small(source, first[place]) if place else sample for place in places]

    def _small(self, source: SampleSource, number: int) -> Sample:
        if source is not self._memory_of:
            self._memory.clear()
            self._memory_of = source
        tile = self._memory.get(number)
        if tile is None:
            tile = source.other(number)
            tile.render(self.resize.output_size(tile.size))
            self._memory.put(number, tile)
        return tile

    def _matrix(self, size: tuple[int, int], rng: np.random.Generator) -> npt.NDArray[np.float64]:
        """(2, 3), points of the canvas to where they are shown: turned about its middle."""
        angle = math.radians(rng.uniform(*self.rotation))
        shift = [
            round(rng.uniform(-most * side, most * side))
            for most, side in zip(self.translation, size[::-1], strict=True)
        ]
        zoom = rng.uniform(*self.scaling)
        turn = zoom * np.array(
            [[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]]
        )
        middle = np.array(size[::-1]) / 2
        return np.column_stack([turn, middle + shift - turn @ middle])


def _paste(tile: Sample, pixels: Pixels, top: int, left: int) -> None:
    h, w = tile.size
    pixels[top : top + h, left : left + w] = tile.image.permute(1, 2, 0).numpy()


def _hulls(
    boxes_xyxy: npt.NDArray[np.float32], matrix: npt.NDArray[np.float64]
) -> npt.NDArray[np.float32]:
    """(N, 4): the upright boxes around the images of the boxes' corners."""
    corners = boxes_xyxy[:, [[0, 1], [2, 1], [0, 3], [2, 3]]].astype(np.float64)  # (N, 4, 2)
    moved = corners @ matrix[:, :2].T + matrix[:, 2]
    return np.concatenate([moved.min(1), moved.max(1)], axis=1).astype(np.float32)


def _rotation(value: float | Sequence[float]) -> tuple[float, float]:
    if isinstance(value, Sequence):
        low, high = (float(v) for v in value)
        return low, high
    if value < 0:
        raise ValueError(f"rotation_range must not be negative, got {value}")
    return -float(value), float(value)


def _translation(value: Sequence[float] | None) -> tuple[float, float]:
    x, y = (float(v) for v in value or (0.0, 0.0))
    if not (0 <= x <= 1 and 0 <= y <= 1):
        raise ValueError(f"translation_range must hold fractions from 0 to 1, got {value}")
    return x, y


def _scaling(value: Sequence[float] | None) -> tuple[float, float]:
    low, high = (float(v) for v in value or (1.0, 1.0))
    if not 0 < low <= high:
        raise ValueError(f"scaling_range must be positive and ascending, got {value}")
    return low, high
