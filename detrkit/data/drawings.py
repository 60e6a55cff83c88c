"""Pictures of shapes: textured backgrounds, rotation, occlusion, clutter, small and large.

A picture is a pure function of (seed, split, number, size).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from detrkit.data.pixels import Pixels

CLASSES = ("circle", "square", "triangle", "star")

#: A shape must stay visible by this part of its area, or it is not placed.
MIN_VISIBLE = 0.45

_SMOOTH = 4  # outlines are drawn this much larger and shrunk, so that edges are smooth

Part = tuple[slice, slice]  # rows and columns of the rectangle around a shape


@dataclass(frozen=True)
class Drawing:
    """One picture and what is in it.

    Attributes:
        pixels: uint8 RGB (size, size, 3).
        boxes_xyxy: (N, 4) int64, the visible part of each shape, in pixels.
        labels: (N,) int64, indices of `CLASSES`.
        areas: (N,) int64, visible pixels.
    """

    pixels: Pixels
    boxes_xyxy: npt.NDArray[np.int64]
    labels: npt.NDArray[np.int64]
    areas: npt.NDArray[np.int64]


def draw(seed: int, split: int, number: int, size: int) -> Drawing:
    """Draws picture `number` of a split; about one in thirty holds no shape.

    Args:
        seed: of the data set.
        split: 0 for train, 1 for val, 2 for test.
        number: of the picture.
        size: side in pixels.
    """
    rng = np.random.default_rng([seed, split, number])
    pixels = _background(rng, size)
    for _ in range(rng.integers(0, 3)):
        pixels = _clutter(rng, pixels)
    owner = np.zeros((size, size), np.uint8)  # which shape each pixel shows; 0 is background
    labels: list[int] = []
    full: list[int] = []
    wanted = 0 if rng.random() < 1 / 30 else int(rng.integers(3, 11))
    for _ in range(wanted):
        label = int(rng.integers(len(CLASSES)))
        cover, part = _covered(_placed(rng, _outline(label), size), size)
        mask = cover > 127
        area = int(np.count_nonzero(mask))
        if area < 40 or _hides_too_much(owner, mask, part, full):
            continue
        labels.append(label)
        full.append(area)
        owner[part][mask] = len(labels)
        pixels[part] = _painted(rng, pixels[part], cover)
    noise = rng.integers(-6, 7, (size, size, 1), dtype=np.int16)
    pixels = np.clip(pixels + noise, 0, 255).astype(np.uint8)
    return _described(pixels, owner, labels)


def _described(pixels: Pixels, owner: npt.NDArray[np.uint8], labels: list[int]) -> Drawing:
    boxes, areas = [], []
    for number in range(1, len(labels) + 1):
        visible = owner == number
        rows, columns = np.flatnonzero(visible.any(1)), np.flatnonzero(visible.any(0))
        boxes.append((columns[0], rows[0], columns[-1] + 1, rows[-1] + 1))
        areas.append(int(np.count_nonzero(visible)))
    return Drawing(
        pixels,
        np.asarray(boxes, np.int64).reshape(-1, 4),
        np.asarray(labels, np.int64),
        np.asarray(areas, np.int64),
    )


def _hides_too_much(
    owner: npt.NDArray[np.uint8], mask: npt.NDArray[np.bool_], part: Part, full: list[int]
) -> bool:
    """Whether painting `mask` would leave an earlier shape mostly hidden."""
    if not full:
        return False
    now = np.bincount(owner.ravel(), minlength=len(full) + 1)[1:]
    lost = np.bincount(owner[part][mask], minlength=len(full) + 1)[1:]
    return bool((now - lost < MIN_VISIBLE * np.asarray(full)).any())


def _covered(outline: npt.NDArray[np.float64], size: int) -> tuple[npt.NDArray[np.uint8], Part]:
    """How much of each pixel an outline covers, 0–255, in the rectangle around it."""
    low = np.clip(np.floor(outline.min(0)).astype(int) - 1, 0, size - 1)
    high = np.clip(np.ceil(outline.max(0)).astype(int) + 1, low + 1, size)
    width, height = (int(v) for v in high - low)
    large = Image.new("L", (width * _SMOOTH, height * _SMOOTH))
    # centres of the enlarged pixels lie half a pixel in
    points = ((outline - low) * _SMOOTH - 0.5).ravel().tolist()
    ImageDraw.Draw(large).polygon(points, fill=255)
    part = (slice(int(low[1]), int(high[1])), slice(int(low[0]), int(high[0])))
    return np.asarray(large.reduce(_SMOOTH)), part


def _outline(label: int) -> npt.NDArray[np.float64]:
    """(points, 2) around the origin, within the unit circle."""
    name = CLASSES[label]
    if name == "circle":
        return _polygon(32)
    if name == "square":
        return _polygon(4, first=np.pi / 4)
    if name == "triangle":
        return _polygon(3)
    points = _polygon(10)  # a star
    points[1::2] *= 0.42
    return points


def _polygon(corners: int, first: float = 0.0) -> npt.NDArray[np.float64]:
    angles = first + np.arange(corners) * (2 * np.pi / corners)
    return np.stack([np.sin(angles), -np.cos(angles)], axis=1)


def _placed(
    rng: np.random.Generator, outline: npt.NDArray[np.float64], size: int
) -> npt.NDArray[np.float64]:
    """Scaled, stretched a little, tilted and moved; mostly inside the picture."""
    radius = size * np.exp(rng.uniform(np.log(0.06), np.log(0.25)))
    angle = rng.uniform(-0.4, 0.4)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    stretch = np.diag([radius, radius * rng.uniform(0.75, 1.0)])
    centre = rng.uniform(0.3 * radius, size - 0.3 * radius, 2)
    return outline @ (turn @ stretch).T + centre


def _painted(rng: np.random.Generator, around: Pixels, cover: npt.NDArray[np.uint8]) -> Pixels:
    """The rectangle with its shape filled in a colour unlike its surroundings.

    Some shapes get stripes or shading.

    Args:
        rng: randomness.
        around: (h, w, 3) what is there.
        cover: (h, w) how much of each pixel the shape covers, 0–255.
    """
    weight = (cover / np.float32(255))[..., None]
    surroundings = (around * weight).sum((0, 1)) / max(float(weight.sum()), 1.0)
    color = rng.integers(0, 256, 3)
    for _ in range(8):
        if np.abs(color - surroundings).sum() > 170:
            break
        color = rng.integers(0, 256, 3)
    fill = np.broadcast_to(color.astype(np.float32), around.shape)
    style = rng.random()
    if style < 0.25:
        fill = fill + 30 * _wave(cover.shape, style * 25, rng.uniform(4, 14))[..., None]
    elif style < 0.5:
        light = np.linspace(-45, 45, cover.shape[0], dtype=np.float32)
        fill = fill + light[:, None, None]
    return (around * (1 - weight) + fill.clip(0, 255) * weight).round().astype(np.uint8)


def _background(rng: np.random.Generator, size: int) -> Pixels:
    """Soft clouds of two or three colours, sometimes with stripes or a fine grain."""
    cells = int(rng.integers(2, 7))
    clouds = rng.integers(30, 226, (cells, cells, 3)).astype(np.float32)
    gray = clouds.mean(axis=2, keepdims=True)
    clouds = gray + rng.uniform(0.2, 0.8) * (clouds - gray)
    texture: npt.NDArray[np.float32] = np.zeros((size, size), np.float32)
    style = rng.random()
    if style < 0.35:
        texture = 22 * _wave((size, size), rng.uniform(0, np.pi), rng.uniform(6, 40))
    elif style < 0.7:
        grain = rng.integers(-28, 29, (size // 2 + 1, size // 2 + 1)).astype(np.float32)
        texture = _enlarged(grain, size)
    image = np.stack([_enlarged(clouds[..., i], size) for i in range(3)], axis=-1)
    return (image + texture[..., None]).clip(0, 255).astype(np.uint8)


def _enlarged(grid: npt.NDArray[np.float32], size: int) -> npt.NDArray[np.float32]:
    return np.asarray(Image.fromarray(grid).resize((size, size), Image.Resampling.BICUBIC))


def _wave(shape: tuple[int, ...], angle: float, period: float) -> npt.NDArray[np.float32]:
    """Stripes between -1 and 1."""
    frequency = 2 * np.pi / period
    ys = np.arange(shape[0], dtype=np.float32)[:, None] * np.float32(np.sin(angle) * frequency)
    xs = np.arange(shape[1], dtype=np.float32)[None] * np.float32(np.cos(angle) * frequency)
    return np.sin(ys + xs)


def _clutter(rng: np.random.Generator, pixels: Pixels) -> Pixels:
    """With a line or a thin arc: texture that is no shape."""
    image = Image.fromarray(pixels)
    draw = ImageDraw.Draw(image)
    size = pixels.shape[0]
    color = tuple(int(v) for v in rng.integers(0, 256, 3))
    x1, y1, x2, y2 = (int(v) for v in rng.integers(0, size, 4))
    if rng.random() < 0.6:
        draw.line((x1, y1, x2, y2), color, width=int(rng.integers(1, 3)))
    else:
        rx, ry = (int(v) for v in rng.integers(size // 12 + 1, size // 3 + 2, 2))
        start = float(rng.uniform(0, 360))
        draw.arc((x1 - rx, y1 - ry, x1 + rx, y1 + ry), start, start + rng.uniform(40, 150), color)
    return np.array(image)
