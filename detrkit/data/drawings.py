"""Pictures of shapes: textured backgrounds, rotation, occlusion, clutter, small and large.

A picture is a pure function of (seed, split, number, size).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from detrkit.data.canvas import Pixels

CLASSES = ("circle", "square", "triangle", "star", "cross")

#: A shape must stay visible by this part of its area, or it is not placed.
MIN_VISIBLE = 0.45

_SHIFT = 4  # fractional bits of OpenCV's drawing coordinates


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
    for _ in range(rng.integers(0, 4)):
        _clutter(rng, pixels)
    owner = np.zeros((size, size), np.uint8)  # which shape each pixel shows; 0 is background
    labels: list[int] = []
    full: list[int] = []
    wanted = 0 if rng.random() < 1 / 30 else int(rng.integers(1, 9))
    for _ in range(wanted):
        label = int(rng.integers(len(CLASSES)))
        outline = _placed(rng, _outline(label), size)
        mask = np.zeros_like(owner)
        cv2.fillPoly(mask, [_fixed(outline)], 1, shift=_SHIFT)
        area = int(np.count_nonzero(mask))
        if area < 40 or _hides_too_much(owner, mask, full):
            continue
        labels.append(label)
        full.append(area)
        x, y, w, h = cv2.boundingRect(mask)
        part = (slice(y, y + h), slice(x, x + w))
        owner[part][mask[part] > 0] = len(labels)
        _paint(rng, pixels, outline, mask, part)
    noise = rng.integers(-6, 7, (size, size, 1), dtype=np.int16)
    pixels = np.clip(pixels + noise, 0, 255).astype(np.uint8)
    return _described(pixels, owner, labels)


def _described(pixels: Pixels, owner: npt.NDArray[np.uint8], labels: list[int]) -> Drawing:
    boxes, areas = [], []
    for number in range(1, len(labels) + 1):
        visible = (owner == number).astype(np.uint8)
        x, y, w, h = cv2.boundingRect(visible)
        boxes.append((x, y, x + w, y + h))
        areas.append(int(np.count_nonzero(visible)))
    return Drawing(
        pixels,
        np.asarray(boxes, np.int64).reshape(-1, 4),
        np.asarray(labels, np.int64),
        np.asarray(areas, np.int64),
    )


def _hides_too_much(
    owner: npt.NDArray[np.uint8], mask: npt.NDArray[np.uint8], full: list[int]
) -> bool:
    """Whether painting `mask` would leave an earlier shape mostly hidden."""
    if not full:
        return False
    left = np.bincount((owner * (1 - mask)).ravel(), minlength=len(full) + 1)[1:]
    return bool((left < MIN_VISIBLE * np.asarray(full)).any())


def _outline(label: int) -> npt.NDArray[np.float64]:
    """(points, 2) around the origin, within the unit circle."""
    name = CLASSES[label]
    if name == "circle":
        return _polygon(32)
    if name == "square":
        return _polygon(4)
    if name == "triangle":
        return _polygon(3)
    if name == "star":
        points = _polygon(10)
        points[1::2] *= 0.42
        return points
    arm = 0.3
    quarter = np.array([[arm, -0.95], [arm, -arm], [0.95, -arm], [0.95, arm]])
    turns = [np.array([[0, -1], [1, 0]]), -np.eye(2), np.array([[0, 1], [-1, 0]])]
    return np.concatenate([quarter[:3], *[(quarter @ turn.T)[:3] for turn in turns]])


def _polygon(corners: int) -> npt.NDArray[np.float64]:
    angles = np.arange(corners) * (2 * np.pi / corners)
    return np.stack([np.sin(angles), -np.cos(angles)], axis=1)


def _placed(
    rng: np.random.Generator, outline: npt.NDArray[np.float64], size: int
) -> npt.NDArray[np.float64]:
    """Scaled, stretched a little, turned and moved; mostly inside the picture."""
    radius = size * np.exp(rng.uniform(np.log(0.045), np.log(0.3)))
    angle = rng.uniform(0, 2 * np.pi)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    stretch = np.diag([radius, radius * rng.uniform(0.75, 1.0)])
    centre = rng.uniform(0.3 * radius, size - 0.3 * radius, 2)
    return outline @ (turn @ stretch).T + centre


def _paint(
    rng: np.random.Generator,
    pixels: Pixels,
    outline: npt.NDArray[np.float64],
    mask: npt.NDArray[np.uint8],
    part: tuple[slice, slice],
) -> None:
    """Fills a shape with a colour unlike its surroundings; some get stripes or a rim.

    Args:
        rng: randomness.
        pixels: the picture.
        outline: (points, 2) of the shape.
        mask: 1 where the shape is.
        part: the rectangle of the picture that holds it.
    """
    around = np.array(cv2.mean(pixels[part], mask[part])[:3])
    color = rng.integers(0, 256, 3)
    for _ in range(8):
        if np.abs(color - around).sum() > 170:
            break
        color = rng.integers(0, 256, 3)
    fill = tuple(int(v) for v in color)
    cv2.fillPoly(pixels, [_fixed(outline)], fill, lineType=cv2.LINE_AA, shift=_SHIFT)
    style = rng.random()
    if style < 0.25:
        wave = _wave(mask[part].shape, style * 25, rng.uniform(4, 14)) * mask[part]
        shaded = pixels[part] + 30 * wave[..., None]
        pixels[part] = shaded.clip(0, 255).astype(np.uint8)
    elif style < 0.5:
        rim = tuple(int(v) for v in color // 2)
        cv2.polylines(pixels, [_fixed(outline)], True, rim, 1, cv2.LINE_AA, _SHIFT)


def _background(rng: np.random.Generator, size: int) -> Pixels:
    """Soft clouds of two or three colours, sometimes with stripes or a fine grain."""
    cells = int(rng.integers(2, 7))
    clouds = rng.integers(30, 226, (cells, cells, 3)).astype(np.float32)
    gray = clouds.mean(axis=2, keepdims=True)
    clouds = gray + rng.uniform(0.2, 0.8) * (clouds - gray)
    texture: npt.NDArray[Any] = np.zeros((size, size), np.float32)
    style = rng.random()
    if style < 0.35:
        texture = 22 * _wave((size, size), rng.uniform(0, np.pi), rng.uniform(6, 40))
    elif style < 0.7:
        grain = rng.integers(-28, 29, (size // 2 + 1, size // 2 + 1)).astype(np.float32)
        texture = cv2.resize(grain, (size, size))
    image = cv2.resize(clouds, (size, size), interpolation=cv2.INTER_CUBIC)
    return (image + texture[..., None]).clip(0, 255).astype(np.uint8)


def _wave(shape: tuple[int, ...], angle: float, period: float) -> npt.NDArray[np.float32]:
    """Stripes between -1 and 1."""
    frequency = 2 * np.pi / period
    ys = np.arange(shape[0], dtype=np.float32)[:, None] * np.float32(np.sin(angle) * frequency)
    xs = np.arange(shape[1], dtype=np.float32)[None] * np.float32(np.cos(angle) * frequency)
    return np.sin(ys + xs)


def _clutter(rng: np.random.Generator, pixels: Pixels) -> None:
    """A line or a thin arc: texture that is no shape."""
    size = pixels.shape[0]
    color = tuple(int(v) for v in rng.integers(0, 256, 3))
    a, b = (tuple(int(v) for v in rng.integers(0, size, 2)) for _ in range(2))
    if rng.random() < 0.6:
        cv2.line(pixels, a, b, color, int(rng.integers(1, 3)), cv2.LINE_AA)
        return
    axes = tuple(int(v) for v in rng.integers(size // 12 + 1, size // 3 + 2, 2))
    start = float(rng.uniform(0, 360))
    cv2.ellipse(pixels, a, axes, 0, start, start + rng.uniform(40, 150), color, 1, cv2.LINE_AA)


def _fixed(outline: npt.NDArray[np.float64]) -> npt.NDArray[np.int32]:
    """Points as OpenCV's fixed-point numbers."""
    return (outline * (1 << _SHIFT)).round().astype(np.int32)
