"""The figure of cross-attention: what a detection's query samples, layer by layer."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from detrkit.explain.attention import CrossAttention
from detrkit.explain.figures.overlay import overlaid, show, shrunk
from detrkit.explain.figures.panels import Panels, color_bar, draw_detection, zoom
from detrkit.explain.figures.style import COLORS, VALUES, drawing
from detrkit.explain.heatmap import one_at_most

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

#: Colour of each level's points, finest first; they show on the dark ends of the colour map.
_LEVELS = (COLORS[4], COLORS[5], COLORS[3], "white")
#: Area of a point with all the weight of its head, in square points.
_LARGEST = 25.0


def draw(attention: CrossAttention, width: str | float, detections: int) -> Figure:
    """A row for each detection: the picture, then its surroundings with each layer's points."""
    count = min(detections, len(attention.found))
    layers = range(len(attention.layers))
    image = attention.image
    with drawing(*attention.found.names):
        panels = Panels(width, image.size, [1 + len(layers)] * max(count, 1), spare=0.35)
        if not count:
            show(panels.cells[0][0], np.asarray(shrunk(image.picture)), image.size)
            return panels.figure
        for row in range(count):
            cells = panels.cells[row]
            show(cells[0], np.asarray(shrunk(image.picture)), image.size)
            draw_detection(cells[0], attention.found, row)
            for layer, axes in zip(layers, cells[1:], strict=True):
                values = one_at_most(attention.density(layer, row))
                show(axes, overlaid(shrunk(image.picture), shrunk(values), VALUES), image.size)
                draw_detection(axes, attention.found, row, named=False)
                _draw_points(axes, attention, layer, row)
                zoom(axes, attention.found.boxes_xyxy[row], image.size)
                if row == 0:
                    axes.set_title(f"decoder layer {layer + 1}")
        _level_legend(panels.cells[0][0], attention)
        color_bar(panels.figure, VALUES, "attention, relative")
    return panels.figure


def _draw_points(axes: Axes, attention: CrossAttention, layer: int, row: int) -> None:
    """A point for each head and sample: colour by level, area by weight."""
    sampling = attention.layers[layer]
    places = attention.pixels(layer, row)
    weights = sampling.weights[row].numpy()
    for level in range(len(sampling.points)):
        mine = sampling.levels == level
        axes.scatter(
            places[:, mine, 0].ravel(),
            places[:, mine, 1].ravel(),
            s=_LARGEST * weights[:, mine].ravel(),
            color=_LEVELS[level % len(_LEVELS)],
            alpha=0.8,
            linewidths=0,
        )


def _level_legend(axes: Axes, attention: CrossAttention) -> None:
    for level, (h, w) in enumerate(attention.layers[0].shapes):
        color = _LEVELS[level % len(_LEVELS)]
        axes.scatter([], [], s=10, color=color, edgecolor="#444444", linewidths=0.3,
                     label=f"level {level} ({h} x {w})")  # fmt: skip
    axes.legend(
        loc="best", fontsize=5, frameon=True, framealpha=0.8, handletextpad=0.1,
        borderpad=0.3, borderaxespad=0.3, labelspacing=0.2, edgecolor="none",
    )  # fmt: skip
