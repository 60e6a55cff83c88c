"""The figure of heat maps: the picture with its detections, and the maps over it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from detrkit.explain.cam import TITLES
from detrkit.explain.figures.overlay import overlaid, show, shrunk
from detrkit.explain.figures.panels import Panels, color_bar, draw_detection
from detrkit.explain.figures.style import VALUES, drawing
from detrkit.explain.heatmap import HeatMaps, one_at_most

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

#: Detections that get a row of their own; the numbers have all.
MOST_ROWS = 8


@dataclass(frozen=True)
class _Panel:
    title: str
    values: npt.NDArray[Any]


def draw(maps: HeatMaps, width: str | float, per_layer: bool) -> Figure:
    """A row for each target; a single one flows over as many rows as its panels need.

    Args:
        maps: to draw.
        width: of the figure, see `parse_width`.
        per_layer: whether each layer gets a panel, not all layers together.
    """
    targets = maps.targets[:MOST_ROWS]
    rows = [_panels(maps, target, per_layer) for target in targets] or [[]]
    with drawing(*maps.found.names):
        panels = Panels(
            width, maps.image.size, [1 + len(row) for row in rows], spare=0.35 if maps.maps else 0
        )
        for number, (row, cells) in enumerate(zip(rows, panels.cells, strict=True)):
            target = targets[number] if targets else None
            _show_detections(cells[0], maps, target)
            for panel, axes in zip(row, cells[1:], strict=True):
                picture = overlaid(shrunk(maps.image.picture), shrunk(panel.values), VALUES)
                show(axes, picture, maps.image.size)
                axes.set_title(panel.title if number == 0 else "")
                for i in _rows_of(maps, target):
                    draw_detection(axes, maps.found, i, named=False)
        if maps.maps:
            color_bar(panels.figure, VALUES, "relative to the largest")
    return panels.figure


def _panels(maps: HeatMaps, target: int | None, per_layer: bool) -> list[_Panel]:
    found = []
    for method in maps.methods:
        if per_layer:
            for one in maps.of(method, target):
                values = one_at_most(maps.image.map_back(one.values))
                found.append(_Panel(f"{TITLES[method]}\n{one.layer}", values))
        else:
            found.append(_Panel(TITLES[method], maps.on_picture(method, target)))
    return found


def _rows_of(maps: HeatMaps, target: int | None) -> list[int]:
    return list(range(len(maps.found))) if target is None else [target]


def _show_detections(axes: Axes, maps: HeatMaps, target: int | None) -> None:
    show(axes, np.asarray(shrunk(maps.image.picture)), maps.image.size)
    for i in reversed(_rows_of(maps, target)):  # better ones above
        draw_detection(axes, maps.found, i)
