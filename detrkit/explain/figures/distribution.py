"""The figure of D-FINE's distributions: boxes on the picture, and what each edge's bins say."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from detrkit.explain.distribution import EDGES, EdgeDistributions
from detrkit.explain.figures.canvas import draw_box, show_picture
from detrkit.explain.figures.style import COLORS, GRAY, VALUES, drawing, new_figure, parse_width

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, SubFigure

#: Narrower figures have the picture above the diagrams, not beside them.
_WIDE = 5.0
#: What is shown around the boxes, as a share of their longer side.
_MARGIN = 0.25
#: Start, and the box before refinement.
_START, _FIRST = "black", COLORS[1]
_DOTTED, _DASHED = (0, (1, 1)), (0, (4, 2))


def distribution_figure(found: EdgeDistributions, width: str | float = "page") -> Figure:
    """The picture with all boxes, and W(n), Pr(n) and W(n) · Pr(n) of all layers.

    Args:
        found: one detection.
        width: of the figure, see `parse_width`.
    """
    inches = parse_width(width)
    wide = inches >= _WIDE
    with drawing(found.name):
        figure = new_figure(inches, 4.3 if wide else 7.6)
        parts: Any
        if wide:
            parts = figure.subfigures(1, 2, width_ratios=(1, 1.55))
        else:
            parts = figure.subfigures(2, 1, height_ratios=(1, 1.3))
        _draw_place(parts[0], found)
        _draw_bins(parts[1], found)
        figure.draw_without_rendering()
    return figure


def layer_colors(count: int) -> list[Any]:
    """One colour per layer, the later the darker."""
    import matplotlib

    colormap = matplotlib.colormaps[VALUES]
    return [colormap(value) for value in np.linspace(0.78, 0.05, count)]


def _draw_place(figure: SubFigure, found: EdgeDistributions) -> None:
    from matplotlib.lines import Line2D

    axes, curve = figure.subplots(2, 1, height_ratios=(3.2, 1))
    show_picture(axes, found.picture)
    colors = layer_colors(found.layers)
    # the answer below, so that the others show where they differ by little
    draw_box(axes, found.boxes_xyxy[-1], colors[-1], linewidth=1.8)
    for box, color in zip(found.boxes_xyxy[:-1], colors, strict=False):
        draw_box(axes, box, color, linewidth=0.8, halo=0)
    draw_box(axes, found.first_xyxy, _FIRST, linestyle=_DASHED, linewidth=0.8, halo=0)
    draw_box(axes, found.start_xyxy, _START, linestyle=_DOTTED, linewidth=0.8, halo=0)
    _zoom(axes, found)
    axes.set_title(f"{found.name} {found.score:.2f}, query {found.query}")
    lines = [
        Line2D([], [], color=_START, linestyle=_DOTTED, label="start (encoder)"),
        Line2D([], [], color=_FIRST, linestyle=_DASHED, label="before refinement"),
        *(Line2D([], [], color=c, label=f"layer {n}") for n, c in enumerate(colors, 1)),
    ]
    axes.legend(handles=lines, loc="upper center", bbox_to_anchor=(0.5, -0.01), ncols=2)
    bins = np.arange(len(found.weights))
    curve.plot(bins, found.weights, color="black", marker=".", markersize=2.5, linewidth=0.8)
    curve.axhline(0, color=GRAY, linewidth=0.5)
    curve.set_xlabel("bin n")
    curve.set_ylabel("W(n)")


def _zoom(axes: Axes, found: EdgeDistributions) -> None:
    """Shows the boxes and a margin, within the picture."""
    height, width = found.picture.shape[:2]
    boxes = np.stack([found.first_xyxy, *found.boxes_xyxy])
    (x1, y1), (x2, y2) = boxes[:, :2].min(0), boxes[:, 2:].max(0)
    margin = _MARGIN * max(x2 - x1, y2 - y1, 1)
    axes.set_xlim(max(x1 - margin, 0), min(x2 + margin, width))
    axes.set_ylim(min(y2 + margin, height), max(y1 - margin, 0))


def _draw_bins(figure: SubFigure, found: EdgeDistributions) -> None:
    colors = layer_colors(found.layers)
    grid = figure.subplots(len(EDGES), 2, sharex=True)
    bins = np.arange(len(found.weights))
    columns = ((found.probabilities, "Pr(n)"), (found.weighted, "W(n) · Pr(n), pixels"))
    for row, edge in enumerate(EDGES):
        for column, (values, title) in enumerate(columns):
            axes = grid[row, column]
            last = values[-1, row]
            axes.fill_between(bins, last, step="mid", color=colors[-1], alpha=0.15, linewidth=0)
            for layer, color in enumerate(colors):
                axes.step(bins, values[layer, row], where="mid", color=color, linewidth=1)
            axes.axvline(bins[-1] / 2, color=GRAY, linewidth=0.5, linestyle=":")
            axes.set_xlim(-0.5, bins[-1] + 0.5)
            if row == 0:
                axes.set_title(title)
            if row == len(EDGES) - 1:
                axes.set_xlabel("bin n")
        grid[row, 0].set_ylim(0, 1.08 * float(found.probabilities[:, row].max()))
        grid[row, 0].set_ylabel(edge)
        grid[row, 1].axhline(0, color=GRAY, linewidth=0.5)
        shift = f"{round(float(found.shifts[-1, row]), 1) + 0.0:+.1f}".replace(
            "-", "\N{MINUS SIGN}"
        )
        grid[row, 1].annotate(
            f"Σ = {shift}", (1.03, 0.5), xycoords="axes fraction", va="center", fontsize=7,
        )  # fmt: skip
