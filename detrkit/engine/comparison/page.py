"""The comparison as one HTML file."""

from __future__ import annotations

from PIL import Image

from detrkit.engine.comparison.compare import Comparison, Delta, Model
from detrkit.metrics.bootstrap import Interval
from detrkit.metrics.coco import METRIC_MEANINGS, METRIC_NAMES, shown
from detrkit.report import Cell, Column, Html, Page, bars, drawing, figures, join, table, tag

#: Up to so many classes are drawn as bars.
_BARS = 30


def page(comparison: Comparison, curves: Image.Image | None) -> Page:
    """The page.

    Args:
        comparison: all numbers.
        curves: over the epochs; None where no entry is a run.
    """
    names = [model.name for model in comparison.models]
    found = Page("Comparison", ", ".join(names))
    sentences = tag("ul", *(tag("li", f"{text}.") for text in comparison.sentences()))
    notes = tag("ul", *(tag("li", text) for text in comparison.notes)) if comparison.notes else ""
    found.add("Result", sentences, tag("p", comparison.method) if comparison.method else "", notes)
    found.add("Numbers", _numbers(comparison))
    found.add(
        "Differences",
        _differences(comparison),
        lead=f"To {names[0]}; a star marks those whose interval leaves out zero.",
    )
    if curves is not None:
        found.add(
            "Curves",
            figures(
                [(drawing(curves, "Curves over the epochs"), "over the epochs, counted from 1")]
            ),
        )
    found.add("Classes", _classes(comparison), _class_bars(comparison))
    return found


def _numbers(comparison: Comparison) -> Html:
    models = comparison.models
    costs = {
        "M params": lambda m: m.entry.parameters and m.entry.parameters / 1e6,
        "GFLOPs": lambda m: m.entry.flops and m.entry.flops / 1e9,
        "ms": lambda m: m.entry.milliseconds,
        "best epoch": lambda m: m.best_epoch,
    }
    known = {name: get for name, get in costs.items() if any(map(get, models))}
    columns = [
        Column("model"),
        *(Column(name, numeric=True) for name in known),
        *(Column(name, numeric=True, help=METRIC_MEANINGS[name]) for name in METRIC_NAMES),
    ]
    rows = [
        [
            model.name,
            *(_number(get(model)) for get in known.values()),
            *(_value(model, name) for name in METRIC_NAMES),
        ]
        for model in models
    ]
    return table(columns, rows, caption="COCO's numbers and where they lie")


def _number(value: float | None) -> object:
    return Cell("–", -1.0) if value is None else value


def _value(model: Model, name: str) -> Cell:
    value = model.metrics.get(name, -1)
    limits = model.intervals.get(name)
    return Cell(join([shown(value), _small(limits)]), value)


def _small(limits: Interval | None, signed: bool = False) -> Html:
    if limits is None:
        return Html("")
    form = "+.3f" if signed else ".3f"
    return join([tag("br"), tag("small", f"[{limits.low:{form}}, {limits.high:{form}}]")])


def _differences(comparison: Comparison) -> Html:
    columns = [Column("model"), *(Column(name, numeric=True) for name in METRIC_NAMES)]
    rows = [
        [name, *(_delta(deltas.get(metric)) for metric in METRIC_NAMES)]
        for name, deltas in comparison.differences.items()
    ]
    return table(columns, rows, caption=f"Differences to {comparison.models[0].name}")


def _delta(delta: Delta | None) -> Cell:
    if delta is None:
        return Cell("–", -1e9)
    star = " *" if delta.significant else ""
    text = join([f"{delta.value:+.3f}", star, _small(delta.interval, signed=True)])
    return Cell(tag("strong", text) if delta.significant else text, delta.value)


def _classes(comparison: Comparison) -> Html:
    columns = [
        Column("class"),
        Column("boxes", numeric=True),
        *(Column(f"AP {model.name}", numeric=True) for model in comparison.models),
        Column("best"),
        Column("lead", numeric=True, help="over the second; a star: more than chance"),
    ]
    rows = []
    for name, boxes in comparison.boxes.items():
        winner = comparison.winners[name]
        values = [model.classes.get(name, -1.0) for model in comparison.models]
        cells = [Cell(shown(value), value) for value in values]
        rows.append([name, boxes, *cells, winner.name or "–", _delta(winner.lead)])
    return table(columns, rows, caption="AP by class")


def _class_bars(comparison: Comparison) -> Html:
    names = [
        name
        for name in comparison.boxes
        if all(model.classes.get(name, -1) >= 0 for model in comparison.models)
    ]
    if not 0 < len(names) <= _BARS or len(comparison.models) > 6:
        return Html("")
    series = {model.name: [model.classes[n] for n in names] for model in comparison.models}
    return figures([(bars(names, series, title="AP by class"), "mean over IoU 0.50–0.95")])
