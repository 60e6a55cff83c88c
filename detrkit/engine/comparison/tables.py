"""The comparison as files: CSV for spreadsheets, Markdown and LaTeX for papers."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from detrkit.engine.comparison.compare import Comparison, Model
from detrkit.metrics.bootstrap import NUMBERS
from detrkit.metrics.coco import METRIC_NAMES

_LATEX = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_",
    "{": r"\{", "}": r"\}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
    "<": r"\textless{}", ">": r"\textgreater{}",
}  # fmt: skip


@dataclass(frozen=True)
class _Cell:
    """A number in points of 100 as papers print it; empty text where there is none."""

    value: str
    limits: str = ""
    best: bool = False


def metrics_csv(comparison: Comparison) -> str:
    """One row per model and number: value, interval, difference to the first and its interval."""
    rows: list[Sequence[object]] = []
    for model in comparison.models:
        deltas = comparison.differences.get(model.name, {})
        for name in METRIC_NAMES:
            value = model.metrics.get(name, -1)
            own, delta = model.intervals.get(name), deltas.get(name)
            limits = delta.interval if delta else None
            rows.append(
                (
                    model.name, name, "" if value < 0 else value,
                    *((own.low, own.high) if own else ("", "")),
                    "" if delta is None else delta.value,
                    *((limits.low, limits.high) if limits else ("", "")),
                    _yes(delta.significant if delta else None),
                )
            )  # fmt: skip
    return _csv(
        ("model", "metric", "value", "low", "high", "delta", "delta_low", "delta_high",
         "significant"),
        rows,
    )  # fmt: skip


def classes_csv(comparison: Comparison) -> str:
    """One row per class: boxes, AP of each model, the best and whether its lead is significant."""
    rows = []
    for name, boxes in comparison.boxes.items():
        winner = comparison.winners[name]
        values = [model.classes.get(name, -1) for model in comparison.models]
        lead = winner.lead
        rows.append(
            (
                name, boxes, *("" if value < 0 else value for value in values),
                winner.name or "", "" if lead is None else lead.value,
                _yes(lead.significant if lead else None),
            )
        )  # fmt: skip
    names = [f"AP {model.name}" for model in comparison.models]
    return _csv(("class", "boxes", *names, "best", "lead", "significant"), rows)


def markdown(comparison: Comparison) -> str:
    """A table of AP in points of 100; the best of each column is bold."""
    costs = _costs(comparison.models)
    heads = ["model", *costs, *NUMBERS]
    lines = [f"| {' | '.join(heads)} |", "|---" + "|--:" * (len(heads) - 1) + "|"]
    for number, model in enumerate(comparison.models):
        cells = [_escaped(model.name), *(values[number] for values in costs.values())]
        for cell in _cells(comparison, number):
            value = f"**{cell.value}**" if cell.best else cell.value
            cells.append(f"{value} {cell.limits}".strip() or "–")
        lines.append(f"| {' | '.join(cells)} |")
    lines += ["", *(f"- {_escaped(text)}." for text in comparison.sentences())]
    if comparison.method:
        lines += ["", comparison.method]
    return "\n".join([*lines, ""])


def latex(comparison: Comparison) -> str:
    """The same for LaTeX with `booktabs`."""
    costs = _costs(comparison.models)
    heads = ["Model", *(_tex(name) for name in costs), *map(_tex_number, NUMBERS)]
    lines = [
        "% needs \\usepackage{booktabs}",
        f"\\begin{{tabular}}{{l{'r' * (len(heads) - 1)}}}",
        "\\toprule",
        " & ".join(heads) + r" \\",
        "\\midrule",
    ]
    for number, model in enumerate(comparison.models):
        cells = [_tex(model.name), *(values[number] for values in costs.values())]
        for cell in _cells(comparison, number):
            value = f"\\textbf{{{cell.value}}}" if cell.best else cell.value
            limits = f"{{\\scriptsize {cell.limits.replace('–', '--')}}}" if cell.limits else ""
            cells.append(f"{value} {limits}".strip() or "--")
        lines.append(" & ".join(cells) + r" \\")
    lines += ["\\bottomrule", "\\end{tabular}"]
    notes = [*comparison.sentences(), *filter(None, [comparison.method])]
    return "\n".join([*lines, *(f"% {' '.join(text.split())}" for text in notes), ""])


def _cells(comparison: Comparison, number: int) -> Iterator[_Cell]:
    model = comparison.models[number]
    for name in NUMBERS:
        value = model.metrics.get(name, -1)
        if value < 0:
            yield _Cell("")
            continue
        limits = model.intervals.get(name)
        shown = f"{100 * value:.1f}"
        best = max(m.metrics.get(name, -1) for m in comparison.models)
        yield _Cell(
            shown,
            f"[{100 * limits.low:.1f}, {100 * limits.high:.1f}]" if limits else "",
            shown == f"{100 * best:.1f}",
        )


def _costs(models: Sequence[Model]) -> dict[str, list[str]]:
    """Columns of parameters, operations and time, where any model has them."""
    entries = [model.entry for model in models]
    columns = {
        "M params": [_scaled(e.parameters, 1e6) for e in entries],
        "GFLOPs": [_scaled(e.flops, 1e9) for e in entries],
        "ms": [_scaled(e.milliseconds, 1) for e in entries],
    }
    return {name: values for name, values in columns.items() if any(values)}


def _scaled(value: float | None, unit: float) -> str:
    return "" if value is None else f"{value / unit:.1f}"


def _yes(value: bool | None) -> str:
    return "" if value is None else "yes" if value else "no"


def _csv(heads: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(heads)
    writer.writerows(rows)
    return file.getvalue()


def _escaped(text: str) -> str:
    return re.sub(r"([|*_`\\])", r"\\\1", text)


def _tex(text: str) -> str:
    return "".join(_LATEX.get(character, character) for character in text)


def _tex_number(name: str) -> str:
    """AP50 -> AP$_{50}$."""
    return f"AP$_{{{name[2:]}}}$" if name[2:] else name
