"""The figure of effective receptive fields: contributions over the input, and rectangles."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from detrkit.explain.figures.canvas import framed
from detrkit.explain.figures.features import titled
from detrkit.explain.figures.overlay import shrunk
from detrkit.explain.figures.panels import Panels, color_bar
from detrkit.explain.figures.style import drawing
from detrkit.explain.receptive_field import ReceptiveFields

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

#: From white, where nothing contributes.
_COLORS = "viridis"
#: Lines of the rectangles, one for each threshold.
_LINES = ("-", "--", "-.", ":")


def draw(fields: ReceptiveFields, width: str | float) -> Figure:
    """A panel for each layer: log10(P + 1), and the rectangles of the thresholds with their r."""
    size = fields.fields[0].contributions.shape
    with drawing():
        panels = Panels(width, size, [len(fields.fields)], spare=0.35, title_lines=2)
        for field, axes in zip(fields.fields, panels.cells[0], strict=True):
            axes.imshow(
                shrunk(field.logarithmic), cmap=_COLORS, vmin=0, vmax=1,
                extent=(0, size[1], size[0], 0), interpolation="antialiased",
            )  # fmt: skip
            axes.set_axis_on()
            framed(axes)
            axes.set_title(titled(field.layer))
            for part, line in zip(field.rectangles(), _LINES, strict=True):
                _draw_rectangle(
                    axes, size, part.side, line, f"{part.threshold:.0%}: r = {part.area:.1%}"
                )
            axes.legend(
                loc="upper left", fontsize=5.5, labelcolor="white", handlelength=1.6,
                borderpad=0.1, borderaxespad=0.3, labelspacing=0.2, handletextpad=0.4,
            )  # fmt: skip
        color_bar(panels.figure, _COLORS, "log10(P + 1), relative")
    return panels.figure


def _draw_rectangle(axes: Axes, size: tuple[int, ...], side: float, line: str, label: str) -> None:
    """Around the centre, of a side relative to the whole's."""
    height, width = np.array(size) * side
    top, left = (np.array(size) - (height, width)) / 2
    axes.plot(
        [left, left + width, left + width, left, left],
        [top, top, top + height, top + height, top],
        color="white", linewidth=0.7, linestyle=line, label=label,
    )  # fmt: skip
