"""What `detrkit compare` prints."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from rich.table import Table
from rich.text import Text

from detrkit.engine.comparison import Comparison, Delta
from detrkit.metrics.bootstrap import NUMBERS, Interval
from detrkit.metrics.coco import METRIC_NAMES, shown

#: So many classes are shown; the files of `-o` have all.
CLASSES = 20


def tables(found: Comparison) -> Iterator[Any]:
    """Numbers, differences, classes, and what they mean."""
    yield _numbers(found)
    yield _differences(found)
    if found.boxes:
        yield _classes(found)
        left = len(found.boxes) - CLASSES
        if left > 0:
            yield Text(f"and {left} classes with fewer boxes: --json, -o DIR", style="dim")
    yield Text("\n".join(f"{text}." for text in found.sentences()), style="bold")
    if found.method:
        yield Text(found.method, style="dim")


def _numbers(found: Comparison) -> Table:
    names = list(NUMBERS) if found.samples else list(METRIC_NAMES)
    table = _table("model", *names)
    for model in found.models:
        cells = [
            _cell(shown(model.metrics.get(name, -1)), model.intervals.get(name)) for name in names
        ]
        epoch = f" (epoch {model.best_epoch})" if model.best_epoch else ""
        table.add_row(Text(f"{model.name}{epoch}"), *cells)
    return table


def _differences(found: Comparison) -> Table:
    names = list(NUMBERS) if found.samples else list(METRIC_NAMES)
    table = _table(f"to {found.models[0].name}", *names)
    for name, deltas in found.differences.items():
        table.add_row(Text(name), *(_delta(deltas.get(metric)) for metric in names))
    return table


def _classes(found: Comparison) -> Table:
    models = [model.name for model in found.models]
    table = _table("class", "boxes", *models, "best", "lead")
    most = sorted(found.boxes, key=lambda name: -found.boxes[name])[:CLASSES]
    for name in (n for n in found.boxes if n in most):
        winner = found.winners[name]
        values = [shown(model.classes.get(name, -1)) for model in found.models]
        table.add_row(
            Text(name), str(found.boxes[name]), *values, Text(winner.name or "–"),
            _delta(winner.lead),
        )  # fmt: skip
    return table


def _cell(value: str, limits: Interval | None) -> Text:
    text = Text(value)
    if limits is not None:
        text.append(f" [{limits.low:.3f}, {limits.high:.3f}]", style="dim")
    return text


def _delta(delta: Delta | None) -> Text:
    if delta is None:
        return Text("–")
    text = Text(f"{delta.value:+.3f}", style="bold" if delta.significant else "")
    if delta.significant:
        text.append("*")
    if delta.interval is not None:
        text.append(f" [{delta.interval.low:+.3f}, {delta.interval.high:+.3f}]", style="dim")
    return text


def _table(first: str, *numbers: str) -> Table:
    """Text in the first column, numbers in the others."""
    table = Table(box=None, pad_edge=False)
    table.add_column(Text(first))
    for name in numbers:
        table.add_column(Text(name), justify="right")
    return table
