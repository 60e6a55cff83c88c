"""Counts and durations in Prometheus' text format, version 0.0.4.

https://prometheus.io/docs/instrumenting/exposition_formats/
"""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections.abc import Callable, Sequence
from typing import Protocol

#: Media type of the text.
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class Metric(Protocol):
    """Something that is measured under a name."""

    def lines(self) -> list[str]:
        """Its part of the text."""


class Counter:
    """Counts up, for each combination of its labels' values.

    Args:
        name, text: of the metric.
        labels: their names.
    """

    def __init__(self, name: str, text: str, labels: Sequence[str] = ()) -> None:
        self.name, self.text, self.labels = name, text, tuple(labels)
        self._values: dict[tuple[str, ...], float] = {} if labels else {(): 0}
        self._lock = threading.Lock()

    def add(self, *values: str, amount: float = 1) -> None:
        """Adds `amount` where the labels have these values."""
        with self._lock:
            self._values[values] = self._values.get(values, 0) + amount

    def lines(self) -> list[str]:
        with self._lock:
            counted = sorted(self._values.items())
        samples = [f"{self.name}{_labels(self.labels, v)} {_number(n)}" for v, n in counted]
        return [*_head(self.name, self.text, "counter"), *samples]


class Gauge:
    """A value of this moment.

    Args:
        name, text: of the metric.
        read: gives it.
    """

    def __init__(self, name: str, text: str, read: Callable[[], float]) -> None:
        self.name, self.text, self.read = name, text, read

    def lines(self) -> list[str]:
        return [*_head(self.name, self.text, "gauge"), f"{self.name} {_number(self.read())}"]


class Histogram:
    """How often values fell below each bound.

    Args:
        name, text: of the metric.
        bounds: ascending; infinity is added.
    """

    def __init__(self, name: str, text: str, bounds: Sequence[float]) -> None:
        self.name, self.text, self.bounds = name, text, tuple(bounds)
        self._counts = [0] * (len(bounds) + 1)
        self._sum = 0.0
        self._lock = threading.Lock()

    def observe(self, value: float) -> None:
        """Counts a value."""
        with self._lock:
            self._counts[bisect_left(self.bounds, value)] += 1
            self._sum += value

    def lines(self) -> list[str]:
        with self._lock:
            counts, total = list(self._counts), self._sum
        samples, below = [], 0
        for bound, count in zip([*map(_number, self.bounds), "+Inf"], counts, strict=True):
            below += count
            samples.append(f'{self.name}_bucket{{le="{bound}"}} {below}')
        samples += [f"{self.name}_sum {_number(total)}", f"{self.name}_count {below}"]
        return [*_head(self.name, self.text, "histogram"), *samples]


def text_of(metrics: Sequence[Metric]) -> str:
    """All of them, one after the other."""
    return "".join(f"{line}\n" for metric in metrics for line in metric.lines())


def _head(name: str, text: str, kind: str) -> list[str]:
    return [f"# HELP {name} {text}", f"# TYPE {name} {kind}"]


def _labels(names: Sequence[str], values: Sequence[str]) -> str:
    """`{a="1",b="2"}`, or nothing."""
    pairs = [f'{name}="{_escaped(v)}"' for name, v in zip(names, values, strict=True)]
    return f"{{{','.join(pairs)}}}" if pairs else ""


def _escaped(value: str) -> str:
    return value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")


def _number(value: float) -> str:
    return str(int(value)) if float(value).is_integer() else repr(float(value))
