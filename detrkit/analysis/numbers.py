"""Summaries of many numbers: quantiles, histograms, medians of groups."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.floating]


@dataclass(frozen=True)
class Spread:
    """Quantiles and mean; all NaN where there is nothing to summarise.

    Attributes:
        count: how many numbers.
    """

    count: int
    mean: float
    min: float
    p1: float
    p5: float
    p25: float
    median: float
    p75: float
    p95: float
    p99: float
    p999: float
    max: float

    @classmethod
    def of(cls, values: npt.NDArray[np.number]) -> Spread:
        """Quantiles by linear interpolation."""
        if not len(values):
            return cls(0, *[float("nan")] * 11)
        shares = (0, 0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99, 0.999, 1)
        quantiles = np.quantile(values, shares)
        return cls(len(values), float(values.mean()), *(float(q) for q in quantiles))


@dataclass(frozen=True)
class Histogram:
    """Counts between edges: bin i holds `edges[i] <= value < edges[i + 1]`.

    Attributes:
        edges: K + 1 rising numbers; the first may be 0 or -inf, the last infinite.
        counts: K.
    """

    edges: tuple[float, ...]
    counts: tuple[int, ...]

    @classmethod
    def of(cls, values: npt.NDArray[np.number], edges: Sequence[float]) -> Histogram:
        """Counts `values`; those outside the edges are left out."""
        bins = np.searchsorted(np.asarray(edges), values, side="right") - 1
        inside = (bins >= 0) & (bins < len(edges) - 1)
        counts = np.bincount(bins[inside], minlength=len(edges) - 1)
        return cls(tuple(float(e) for e in edges), tuple(counts.tolist()))

    @property
    def total(self) -> int:
        """Values inside the edges."""
        return sum(self.counts)

    def below(self, edge: float) -> int:
        """How many values are smaller than `edge`, one of the edges."""
        return sum(self.counts[: self.edges.index(edge)])


def grouped_median(
    values: npt.NDArray[np.floating], groups: npt.NDArray[np.integer], count: int
) -> npt.NDArray[np.float64]:
    """Median of `values` in each of the groups 0 … count - 1; NaN for empty ones."""
    small = groups.astype(np.int16) if count <= 1 << 15 else groups  # sorted by radix
    ordered = values[np.argsort(small, kind="stable")]
    ends = np.cumsum(np.bincount(groups, minlength=count))
    medians = np.full(count, np.nan)
    for group, end in enumerate(ends.tolist()):
        start = int(ends[group - 1]) if group else 0
        if end > start:
            medians[group] = np.median(ordered[start:end])
    return medians


def distinct(
    keys: npt.NDArray[np.integer],
) -> tuple[npt.NDArray[np.integer], npt.NDArray[np.int64]]:
    """Sorted different values and how often each occurs; sorts, which is faster than hashing."""
    ordered = np.sort(keys)
    starts = np.flatnonzero(np.diff(ordered, prepend=ordered[:1] - 1))
    return ordered[starts], np.diff(starts, append=len(keys))


def heat_map(
    x: Floats, y: Floats, x_edges: Sequence[float], y_edges: Sequence[float]
) -> npt.NDArray[np.int64]:
    """(rows of y, columns of x) counts; values outside the edges count in the outermost cells."""
    columns, rows = len(x_edges) - 1, len(y_edges) - 1
    column = (np.searchsorted(x_edges, x, side="right") - 1).clip(0, columns - 1)
    row = (np.searchsorted(y_edges, y, side="right") - 1).clip(0, rows - 1)
    return np.bincount(row * columns + column, minlength=rows * columns).reshape(rows, columns)
