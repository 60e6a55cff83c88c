"""Curves of one run, or of several for comparison, as a picture for a report."""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from detrkit.drawing.fonts import matplotlib_fonts
from detrkit.engine import log_names as names
from detrkit.engine.run_log import Row, best_row

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

#: Okabe and Ito's colours, which the colour-blind can tell apart; a light yellow left out.
_COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#444444")
#: Width of a small letter in widths of a diagram.
_LETTER = 0.0125
_LINES = ("-", "--", ":", "-.")
_STYLE: dict[Any, Any] = {
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#E6E6E6",
    "axes.axisbelow": True,
    "axes.edgecolor": "#888888",
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "legend.edgecolor": "none",
    "legend.framealpha": 0.7,
    "legend.fontsize": 8.5,
    "font.size": 9,
    "lines.linewidth": 1.6,
}


@dataclass(frozen=True)
class RunCurves:
    """What is drawn of a run.

    Attributes:
        name: shown in the title or the legend.
        rows: its epochs, of `detrkit.engine.run_log.read_log`.
        stages: name and first epoch (from 0) of each.
    """

    name: str
    rows: Sequence[Row]
    stages: Sequence[tuple[str, int]] = ()


@dataclass(frozen=True)
class _Panel:
    """A diagram: its title, the columns in it with their labels, and its scale."""

    title: str
    columns: Mapping[str, str]
    log_scale: bool = False
    from_zero: bool = False


def draw_curves(runs: Sequence[RunCurves]) -> Image.Image:
    """Metrics, losses, rates and speed over the epochs (counted from 1).

    One run gets a colour per curve, its stages as bands and its best epoch as a star; of several
    runs each gets a colour.

    Args:
        runs: with at least one epoch altogether.
    """
    import matplotlib

    fonts = matplotlib_fonts(run.name for run in runs)
    with warnings.catch_warnings(), matplotlib.rc_context({**_STYLE, **fonts}):
        warnings.simplefilter("ignore")  # a missing sign in a name is no matter for a warning
        figure = _figure(runs)
        file = io.BytesIO()
        figure.savefig(file, format="png", dpi=110)
    picture = Image.open(file)
    picture.load()
    return picture


def read_curves(path: Path) -> Image.Image | None:
    """A picture of curves that a run has drawn; None where there is none, or a damaged one."""
    try:
        with Image.open(path) as picture:
            picture.load()
            return picture
    except OSError:
        return None


def _figure(runs: Sequence[RunCurves]) -> Figure:
    # a Figure of its own knows no screen, and leaves the user's pyplot alone
    from matplotlib.figure import Figure

    panels = [p for p in _panels(runs) if _has_values(p, runs)]
    columns = 2 if len(panels) in (2, 4) else min(3, len(panels)) or 1
    rows = -(-len(panels) // columns) or 1
    figure = Figure(figsize=(5.2 * columns, 3.5 * rows + 0.4), layout="constrained")
    single = runs[0] if len(runs) == 1 else None
    figure.suptitle(_title(single) if single else "", x=0.01, ha="left", fontsize=12)
    for number, panel in enumerate(panels):
        axes = figure.add_subplot(rows, columns, number + 1)
        _draw(axes, panel, runs)
    return figure


def _panels(runs: Sequence[RunCurves]) -> Iterator[_Panel]:
    if len(runs) == 1:
        yield from _panels_of_one(runs[0])
        return
    yield _Panel("Average precision", {"val/AP": "AP", "val/AP50": "AP50"}, from_zero=True)
    yield _Panel("Training loss, all terms", {names.LOSS: ""})
    yield _Panel("Distillation loss, all terms", {names.DISTILL: ""})
    if any(names.DISTILL in row for run in runs for row in run.rows):
        yield _Panel("Training loss without distillation", {names.DETECTION: ""})
    yield _Panel("Learning rate, highest group", {names.LR: ""}, log_scale=True)
    yield _Panel("Training images per second", {names.IMAGES_PER_SECOND: ""}, from_zero=True)


def _panels_of_one(run: RunCurves) -> Iterator[_Panel]:
    ap = {f"val/{name}": name for name in ("AP", "AP50", "AP75")}
    yield _Panel("Average precision", ap, from_zero=True)
    sizes = {"val/APs": "small", "val/APm": "medium", "val/APl": "large"}
    yield _Panel("AP by size of object", sizes, from_zero=True)
    per_image = {"val/oa_fppi": "per image"}
    yield _Panel("False detections, images without targets", per_image, from_zero=True)
    negatives = {
        "val/oa_clean_rate": "share without detections",
        "val/oa_mean_max_score": "highest score, mean",
    }
    yield _Panel("Images without targets", negatives, from_zero=True)
    yield _Panel("Training loss, all terms", {names.LOSS: ""})
    yield _Panel("Loss terms of the last layer", _columns(run.rows, f"{names.LOSS}_"))
    yield _Panel("Distillation", _columns(run.rows, names.DISTILL_TERMS))
    ratio = {names.DISTILL_GRADIENT_RATIO: "ratio of norms"}
    yield _Panel("Gradient: distillation by detection", ratio, from_zero=True)
    rates = _merged(run.rows, _columns(run.rows, f"{names.LR}/"))
    yield _Panel("Learning rate", rates or {names.LR: ""}, log_scale=True)
    yield _Panel("Training images per second", {names.IMAGES_PER_SECOND: ""}, from_zero=True)


def _columns(rows: Sequence[Row], beginning: str) -> dict[str, str]:
    """Columns that begin so, with the rest of their names."""
    found = dict.fromkeys(key for row in rows for key in row if key.startswith(beginning))
    return {key: key.removeprefix(beginning).replace("_", " ") for key in found}


def _merged(rows: Sequence[Row], columns: Mapping[str, str]) -> dict[str, str]:
    """Columns that agree everywhere as one: one curve would hide the others."""
    labels: dict[str, list[str]] = {}
    first: dict[tuple[Any, ...], str] = {}
    for column, label in columns.items():
        kept = first.setdefault(tuple(row.get(column) for row in rows), column)
        labels.setdefault(kept, []).append(label)
    return {column: "\n".join(several) for column, several in labels.items()}


def _has_values(panel: _Panel, runs: Sequence[RunCurves]) -> bool:
    return any(_points(run.rows, column)[0] for run in runs for column in panel.columns)


def _draw(axes: Axes, panel: _Panel, runs: Sequence[RunCurves]) -> None:
    from matplotlib.ticker import MaxNLocator

    many = len(runs) > 1
    for index, run in enumerate(runs):
        for number, (column, label) in enumerate(panel.columns.items()):
            epochs, values = _points(run.rows, column)
            if not epochs:
                continue
            color = _COLORS[(index if many else number) % len(_COLORS)]
            axes.plot(
                epochs,
                values,
                color=color,
                linestyle=_LINES[number % len(_LINES)] if many else "-",
                marker="o" if len(epochs) < 15 else None,
                markersize=3,
                label=": ".join(part for part in (run.name if many else "", label) if part),
            )
    staged = not many and len(runs[0].stages) > 1
    axes.set_title(panel.title, pad=20 if staged else 8)
    axes.set_xlabel("epoch")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    if panel.log_scale:
        axes.set_yscale("log")
    if panel.from_zero:
        axes.set_ylim(bottom=0)
    axes.set_xlim(0.5, max(row["epoch"] for run in runs for row in run.rows) + 1.5)
    if staged:
        _draw_stages(axes, runs[0])
    if not many and "val/AP" in panel.columns:
        _draw_best(axes, runs[0])
    if len(panel.columns) > 1 or many:
        axes.legend(ncols=2 if len(panel.columns) > 4 else 1, loc="best")


def _draw_stages(axes: Axes, run: RunCurves) -> None:
    """A dashed line where a stage begins, and its name above the diagram."""
    last = run.rows[-1]["epoch"]
    seen = [(name, first) for name, first in run.stages if first <= last]
    if len(seen) < 2:
        return
    ends = [first for _, first in seen[1:]] + [last + 1]
    for (name, first), end in zip(seen, ends, strict=True):
        if first:
            axes.axvline(first + 0.5, color="#999999", linewidth=0.9, linestyle="--")
        room = (end - first) / (last + 1) / _LETTER
        shown = name if len(name) <= room else name.split()[0]
        if len(shown) <= room:
            axes.annotate(
                shown,
                ((first + end + 1) / 2, 1.02),
                xycoords=("data", "axes fraction"),
                ha="center",
                fontsize=7.5,
                color="#777777",
            )


def _draw_best(axes: Axes, run: RunCurves) -> None:
    """A star at the best epoch, and its numbers."""
    from matplotlib.patheffects import withStroke

    best = best_row(run.rows)
    value = best.get("val/AP") if best else None
    if best is None or value is None or value < 0:
        return
    epoch = best["epoch"] + 1
    axes.plot([epoch], [value], marker="*", markersize=13, color=_COLORS[0],
              markeredgecolor="white", linestyle="none", zorder=5)  # fmt: skip
    middle = (run.rows[0]["epoch"] + run.rows[-1]["epoch"]) / 2 + 1
    low = value < 0.15 * axes.get_ylim()[1]
    axes.annotate(
        f"AP {value:.3f} in epoch {epoch}",
        (epoch, value),
        textcoords="offset points",
        xytext=(-8 if epoch > middle else 8, 8 if low else -14),
        ha="right" if epoch > middle else "left",
        fontsize=8.5,
        fontweight="bold",
        color=_COLORS[0],
        path_effects=[withStroke(linewidth=3, foreground="white")],
    )


def _points(rows: Sequence[Row], column: str) -> tuple[list[int], list[float]]:
    """Epochs from 1 and values; what is missing, undefined (COCO's -1) or infinite is left out."""
    epochs, values = [], []
    for row in rows:
        value = names.value(row, column)
        undefined = column.startswith("val/") and value == -1
        if isinstance(value, (int, float)) and abs(value) < float("inf") and not undefined:
            epochs.append(int(row["epoch"]) + 1)
            values.append(float(value))
    return epochs, values


def _title(run: RunCurves) -> str:
    best = best_row(run.rows)
    words = [run.name, f"{len(run.rows)} epoch{'s' if len(run.rows) != 1 else ''}"]
    if best is not None and best.get("val/AP", -1) >= 0:
        values = [f"{n} {best[f'val/{n}']:.3f}" for n in ("AP", "AP50", "AP75")
                  if best.get(f"val/{n}", -1) >= 0]  # fmt: skip
        words.append(f"best epoch {best['epoch'] + 1}: {'  '.join(values)}")
    return "   ·   ".join(words)
