"""Charts as inline SVG: bars, histograms, lines, heat maps, matrices.

Colours come from the page's style sheet (classes `s0`, `s1`, … for series, opacity for intensity),
so that one drawing serves light and dark. Each mark carries its value as a tooltip.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from detrkit.report.html import Html, join, tag

Ticks = Sequence[tuple[float, str]]
#: Steps of intensity in heat maps; cells of one step are one path.
_LEVELS = 12
#: Side of a matrix's cells from which they show their value.
_NUMBERED = 28
#: Characters of a label before it is cut.
_LABEL = 22


def bars(
    labels: Sequence[str], series: Mapping[str, Sequence[float]], *, title: str, unit: str = ""
) -> Html:
    """Horizontal bars, one row per label, one bar per series.

    Args:
        labels: of the rows.
        series: {name: a value per label}.
        title: what the chart shows.
        unit: behind the values in tooltips.
    """
    if not labels:
        return Html("")
    left, width, thick = 150, 560, 10 if len(series) > 1 else 14
    row, above = thick * len(series) + 8, 20 if len(series) > 1 else 2
    top = max((v for values in series.values() for v in values), default=0) or 1
    marks = []
    for i, label in enumerate(labels):
        y = above + i * row
        marks.append(_text(left - 8, y + (row - 8) / 2, _short(label), anchor="end", full=label))
        for number, (name, values) in enumerate(series.items()):
            length = (width - left - 60) * values[i] / top
            at = y + number * thick
            if values[i]:
                words = f"{label}, {name}: {_shown(values[i])}{unit}"
                style = f"s{number % 6}"
                marks.append(_rect(left, at, max(length, 0.5), thick - 2, style, words))
            marks.append(
                _text(left + length + 4, at + (thick - 2) / 2, _shown(values[i]), small=True)
            )
    return _svg(width, above + len(labels) * row, title, *marks, _legend(list(series), width))


def histogram(
    bins: Sequence[str],
    series: Mapping[str, Sequence[int]],
    *,
    title: str,
    axis: str,
    edges: bool = False,
    marks: Mapping[int, str] | None = None,
) -> Html:
    """Vertical bars: shares of each series, so that series of different size can be compared.

    Args:
        bins: a label for each.
        series: {name: counts per bin}.
        title: what the chart shows.
        axis: below the labels.
        edges: the labels are lower edges and stand below the left side of their bins.
        marks: {bin: text}: a line before that bin, e.g. a limit.
    """
    totals = {name: sum(counts) for name, counts in series.items()}
    if not any(totals.values()):
        return Html("")
    width, height, left, bottom, above = 560, 250, 44, 52, 26
    plot_w, plot_h = width - left - 8, height - bottom - above
    shares = {n: [v / max(totals[n], 1) for v in counts] for n, counts in series.items()}
    top = max(max(values) for values in shares.values())
    step, ceiling = _scale(top)
    parts: list[Html] = []
    for k in range(round(ceiling / step) + 1):
        y = above + plot_h * (1 - k * step / ceiling)
        parts.append(tag("line", x1=left, x2=width - 8, y1=_n(y), y2=_n(y), class_="grid"))
        parts.append(_text(left - 6, y, f"{100 * k * step:g} %", anchor="end", small=True))
    slot = plot_w / len(bins)
    bar = slot * 0.84 / len(series)
    every = max(1, math.ceil(len(bins) * max(map(len, bins)) * 6.2 / plot_w))
    for i, label in enumerate(bins):
        x = left + i * slot
        for number, (name, values) in enumerate(shares.items()):
            if not values[i]:
                continue
            h = max(plot_h * values[i] / ceiling, 0.8)
            count = series[name][i]
            parts.append(
                _rect(x + slot * 0.08 + number * bar, above + plot_h - h, bar * 0.94, h,
                      f"s{number % 6}", f"{label}, {name}: {count:,} ({100 * values[i]:.2g} %)")
            )  # fmt: skip
        if i % every == 0:
            at = x if edges else x + slot / 2
            parts.append(_text(at, above + plot_h + 12, label, anchor="middle", small=True))
    for i, words in (marks or {}).items():
        x = left + i * slot
        parts.append(tag("line", x1=_n(x), x2=_n(x), y1=above, y2=above + plot_h, class_="mark"))
        parts.append(_text(x + 3, above + 7, words, small=True))
    parts.append(_text(left + plot_w / 2, height - 18, axis, anchor="middle", small=True))
    return _svg(width, height, title, *parts, _legend(list(series), width))


def heat_map(
    counts: npt.NDArray[Any],
    *,
    title: str,
    x_axis: str,
    y_axis: str,
    x_ticks: Ticks = (),
    y_ticks: Ticks = (),
    upwards: bool = False,
    aspect: float = 1.0,
) -> Html:
    """A grid of cells, darker where there is more; intensity is logarithmic.

    Args:
        counts: (rows, columns); row 0 is at the top, or at the bottom with `upwards`.
        title: what the chart shows.
        x_axis, y_axis: what the axes are.
        x_ticks, y_ticks: (position in cells, text).
        upwards: whether y grows upwards.
        aspect: width over height of the plot.
    """
    counts = np.asarray(counts)
    if not counts.size or not counts.any():
        return Html("")
    rows, columns = counts.shape
    plot_w = 300.0 if aspect >= 1 else 300.0 * aspect
    plot_h = 300.0 / aspect if aspect >= 1 else 300.0
    left, above = 52.0, 10.0
    cell_w, cell_h = plot_w / columns, plot_h / rows
    level = np.ceil(np.log1p(counts) / np.log1p(counts.max()) * _LEVELS).astype(int)
    if upwards:
        level = level[::-1]
    parts = [tag("rect", x=left, y=above, width=_n(plot_w), height=_n(plot_h), class_="paper")]
    for value in range(1, _LEVELS + 1):
        path = "".join(
            f"M{_n(left + j * cell_w)} {_n(above + i * cell_h)}h{_n(cell_w)}v{_n(cell_h)}"
            f"h{_n(-cell_w)}z"
            for i, j in np.argwhere(level == value)
        )
        if path:
            parts.append(tag("path", d=path, class_="s0", fill_opacity=_n(value / _LEVELS)))
    for position, words in x_ticks:
        x = left + position * cell_w
        parts.append(_text(x, above + plot_h + 12, words, anchor="middle", small=True))
    for position, words in y_ticks:
        y = above + (rows - position if upwards else position) * cell_h
        parts.append(_text(left - 6, y, words, anchor="end", small=True))
    parts.append(_text(left + plot_w / 2, above + plot_h + 30, x_axis, anchor="middle", small=True))
    parts.append(
        tag("text", y_axis, x=0, y=0, text_anchor="middle", class_="small",
            transform=f"translate(12 {_n(above + plot_h / 2)}) rotate(-90)")
    )  # fmt: skip
    return _svg(left + plot_w + 10, above + plot_h + 40, title, *parts)


def lines(
    x: Sequence[float],
    series: Mapping[str, npt.NDArray[np.floating]],
    *,
    title: str,
    x_axis: str,
    y_axis: str,
    thin: Mapping[str, npt.NDArray[np.floating]] | None = None,
    mark: tuple[float, str] | None = None,
) -> Html:
    """Curves over 0–1 with values in 0–1, each of another dash, so that colour is not needed.

    Args:
        x: N places.
        series: {name: (N,)}, at most four.
        title: what the chart shows.
        x_axis, y_axis: what the axes are.
        thin: {name: (N,)} more curves, thin in the background, named by tooltips.
        mark: a place on the axis and what it is.
    """
    if not series:
        return Html("")
    width, height, left, bottom, above = 560.0, 330.0, 44.0, 44.0, 26.0
    plot_w, plot_h = width - left - 12, height - bottom - above
    parts: list[Html] = []
    for k in range(6):
        across, up = left + plot_w * k / 5, above + plot_h * (1 - k / 5)
        ends = {"x1": _n(left), "x2": _n(left + plot_w), "y1": _n(up), "y2": _n(up)}
        parts.append(tag("line", **ends, class_="grid"))
        parts.append(_text(left - 6, up, f"{k / 5:g}", anchor="end", small=True))
        parts.append(_text(across, above + plot_h + 12, f"{k / 5:g}", anchor="middle", small=True))
    places = left + plot_w * np.asarray(x)

    def curve(name: str, values: npt.NDArray[np.floating], style: str) -> Html:
        heights = above + plot_h * (1 - np.clip(values, 0, 1))
        points = " ".join(f"{a:.1f} {b:.1f}" for a, b in zip(places, heights, strict=True))
        return tag("path", tag("title", name), d=f"M{points}", class_=f"line {style}")

    parts += [curve(name, values, "thin") for name, values in (thin or {}).items()]
    parts += [curve(name, values, f"l{i}") for i, (name, values) in enumerate(series.items())]
    if mark is not None:
        at = left + plot_w * mark[0]
        ends = {"x1": _n(at), "x2": _n(at), "y1": _n(above), "y2": _n(above + plot_h)}
        parts.append(tag("line", **ends, class_="mark"))
        side = "end" if mark[0] > 0.6 else "start"
        parts.append(_text(at + (-4 if side == "end" else 4), above + 7, mark[1], anchor=side))
    parts.append(_text(left + plot_w / 2, height - 12, x_axis, anchor="middle", small=True))
    parts.append(
        tag("text", y_axis, x=0, y=0, text_anchor="middle", class_="small",
            transform=f"translate(10 {_n(above + plot_h / 2)}) rotate(-90)")
    )  # fmt: skip
    at = left
    for number, name in enumerate(series):
        parts.append(tag("path", d=f"M{_n(at)} 9h24", class_=f"line l{number}"))
        parts.append(_text(at + 30, 9, name, small=True))
        at += 52 + 6.2 * len(name)
    return _svg(width, height, title, *parts)


def matrix(
    labels: Sequence[str],
    values: npt.NDArray[Any],
    *,
    title: str,
    tooltips: str = "{a}, {b}: {v}",
    columns: Sequence[str] | None = None,
) -> Html:
    """A square of labelled cells, darker where the value is larger; values lie in 0–1.

    Args:
        labels: of rows and columns.
        values: (n, n).
        title: what the chart shows.
        tooltips: of a cell in row `a`, column `b` with value `v`.
        columns: other labels of the columns, equally many.
    """
    count, columns = len(labels), columns or labels
    if not count:
        return Html("")
    cell = max(12.0, min(44.0, 560 / count))
    left, above = 150.0, 12 + 5.5 * max(len(_short(label, 18)) for label in columns)
    parts = []
    for i, label in enumerate(labels):
        middle = (i + 0.5) * cell
        parts.append(_text(left - 6, above + middle, _short(label), anchor="end", full=label))
        parts.append(
            tag("text", _short(columns[i], 18), x=0, y=0, class_="small",
                transform=f"translate({_n(left + middle)} {_n(above - 6)}) rotate(-60)")
        )  # fmt: skip
        for j, other in enumerate(columns):
            value = float(values[i, j])
            words = tooltips.format(a=label, b=other, v=f"{100 * value:.3g} %")
            x, y = left + j * cell, above + i * cell
            parts.append(
                tag("rect", tag("title", words), x=_n(x), y=_n(y),
                    width=_n(cell - 1), height=_n(cell - 1),
                    class_="s0" if value else "paper",
                    fill_opacity=_n(0.08 + 0.6 * value) if value else None)
            )  # fmt: skip
            if cell >= _NUMBERED:
                middle_x, middle_y = x + cell / 2, y + cell / 2
                parts.append(_text(middle_x, middle_y, f"{100 * value:.0f}", anchor="middle"))
    side = count * cell
    return _svg(left + side + 60, above + side + 6, title, *parts)


def _svg(width: float, height: float, title: str, *content: object) -> Html:
    return tag(
        "svg",
        tag("title", title),
        join(content),
        viewBox=f"0 0 {_n(width)} {_n(height)}",
        role="img",
        aria_label=title,
        style=f"max-width: {_n(width * 1.15)}px",
    )


def _legend(names: Sequence[str], width: float) -> Html:
    """Names of the series at the top right; none for a single one."""
    if len(names) < 2:
        return Html("")
    parts, x = [], width - 8.0
    for number, name in reversed(list(enumerate(names))):
        x -= 6.4 * len(name)
        parts.append(_text(x, 8, name, small=True))
        x -= 14
        parts.append(_rect(x, 3, 10, 10, f"s{number % 6}", name))
        x -= 12
    return join(parts)


def _rect(x: float, y: float, width: float, height: float, style: str, words: str) -> Html:
    return tag(
        "rect", tag("title", words), x=_n(x), y=_n(y), width=_n(width), height=_n(height),
        class_=style,
    )  # fmt: skip


def _text(
    x: float,
    y: float,
    words: str,
    *,
    anchor: str | None = None,
    small: bool = False,
    full: str | None = None,
) -> Html:
    tooltip = tag("title", full) if full is not None and full != words else ""
    return tag(
        "text", tooltip, words, x=_n(x), y=_n(y), text_anchor=anchor, dominant_baseline="central",
        class_="small" if small else None,
    )  # fmt: skip


def _short(label: str, limit: int = _LABEL) -> str:
    """At most `limit` characters; wide ones (Chinese, …) count twice."""
    used = 0
    for position, character in enumerate(label):
        used += 2 if ord(character) >= 0x1100 else 1
        if used > limit:
            return label[: max(position - 1, 1)] + "…"
    return label


def _shown(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:.3g}"


def _scale(top: float) -> tuple[float, float]:
    """A round step and the ceiling, for three to six lines."""
    rough = top / 4
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(m * power for m in (1, 2, 2.5, 5, 10) if m * power >= rough)
    return step, step * math.ceil(top / step - 1e-9)


def _n(value: float) -> str:
    """A short number: one tenth of a pixel is enough."""
    return f"{value:.2f}".rstrip("0").rstrip(".") or "0"
