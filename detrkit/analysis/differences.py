"""How two splits differ: classes, sizes of objects and of images."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from detrkit.analysis.statistics import SplitStatistics

#: A class is held differently by two splits from this many standard errors and this ratio.
MIN_Z, MIN_RATIO = 4.0, 1.5


@dataclass(frozen=True)
class ClassShift:
    """A class that two splits hold in different shares of their images.

    Attributes:
        name: of the class.
        first, second: shares of the images that show it.
        z: difference in standard errors of two independent samples of images. Images are the
            samples, not boxes: boxes of one image come together.
    """

    name: str
    first: float
    second: float
    z: float


@dataclass(frozen=True)
class SplitDifference:
    """Two splits side by side.

    Attributes:
        first, second: their names.
        only_first, only_second: classes with boxes in one of them only.
        shifts: classes held in clearly different shares, largest difference first.
        distance: half the sum of the absolute differences of the class shares; 0 same, 1 disjoint.
        scale_ratio: median size of an object at the input, second over first; NaN without boxes.
        pixel_ratio: median root of the pixels of an image, second over first.
    """

    first: str
    second: str
    only_first: tuple[str, ...]
    only_second: tuple[str, ...]
    shifts: tuple[ClassShift, ...]
    distance: float
    scale_ratio: float
    pixel_ratio: float

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return asdict(self)


def compare(first: SplitStatistics, second: SplitStatistics) -> SplitDifference:
    """Compares two splits that share their classes."""
    pairs = list(zip(first.classes, second.classes, strict=True))
    shifts = []
    for a, b in pairs:
        z = _z(a.images, first.images, b.images, second.images)
        shares = a.images / max(first.images, 1), b.images / max(second.images, 1)
        if abs(z) >= MIN_Z and max(shares) >= MIN_RATIO * min(shares):
            shifts.append(ClassShift(a.name, *shares, z))
    shares_a = np.array([a.share for a, _ in pairs])
    shares_b = np.array([b.share for _, b in pairs])
    both = first.boxes and second.boxes
    return SplitDifference(
        first=first.name,
        second=second.name,
        only_first=tuple(a.name for a, b in pairs if a.boxes and not b.boxes),
        only_second=tuple(b.name for a, b in pairs if b.boxes and not a.boxes),
        shifts=tuple(sorted(shifts, key=lambda shift: -abs(shift.z))),
        distance=float(np.abs(shares_a - shares_b).sum() / 2) if both else math.nan,
        scale_ratio=second.input_sides.median / first.input_sides.median if both else math.nan,
        pixel_ratio=_pixels(second) / _pixels(first),
    )


def _z(count_a: int, total_a: int, count_b: int, total_b: int) -> float:
    """Two-proportion z statistic with the pooled share."""
    if not total_a or not total_b:
        return 0.0
    pooled = (count_a + count_b) / (total_a + total_b)
    error = math.sqrt(pooled * (1 - pooled) * (1 / total_a + 1 / total_b))
    return (count_b / total_b - count_a / total_a) / error if error else 0.0


def _pixels(split: SplitStatistics) -> float:
    return math.sqrt(split.image_heights.median * split.image_widths.median)
