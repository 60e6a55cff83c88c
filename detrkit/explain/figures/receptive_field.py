"""The figure of effective receptive fields: contributions over the input, and rectangles."""

from __future__ import annotations

from typing import TYPE_CHECKING

from detrkit.explain.figures.canvas import framed
from detrkit.explain.figures.features import titled
from detrkit.explain.figures.overlay import shrunk
from detrkit.explain.figures.panels import Panels, color_bar
from detrkit.explain.figures.style import VALUES, drawing
from detrkit.explain.receptive_field import ReceptiveFields, Rectangle

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

#: Lines of the rectangles, one for each threshold.
_LINES = ("-", "--", "-.", ":")


def draw(fields: ReceptiveFields, width: str | float) -> Figure:
    """A panel for each layer: log10(P + 1), and the rectangles of the thresholds with their r."""
    size = fields.fields[0].contributions.shape
    with drawing():
        panels = Panels(width, size, [len(fields.fields)], spare=0.35, title_lines=2)
        for field, axes in zip(fields.fields, panels.cells[0], strict=True):
            axes.imshow(
                shrunk(field.logarithmic), cmap=VALUES, vmin=0, vmax=1,
                extent=(0, size[1], size[0], 0), interpolation="antialiased",
            )  # fmt: skip
            axes.set_axis_on()
            framed(axes)
            axes.set_title(titled(field.layer))
            for part, line in zip(field.rectangles(), _LINES, strict=False):
                _draw_rectangle(axes, size, part, line)
            axes.legend(
                loc="upper left", fontsize=5.5, labelcolor="white", handlelength=1.8, frameon=True,
                facecolor="#440154", framealpha=0.85, edgecolor="none", fancybox=False,
                borderpad=0.4, borderaxespad=0.0, labelspacing=0.2, handletextpad=0.5,
            )  # fmt: skip
        color_bar(panels.figure, VALUES, "log10(P + 1), relative")
    return panels.figure


def _draw_rectangle(axes: Axes, size: tuple[int, ...], part: Rectangle, line: str) -> None:
    top, bottom = ((0.5 + sign * part.side / 2) * size[0] for sign in (-1, 1))
    left, right = ((0.5 + sign * part.side / 2) * size[1] for sign in (-1, 1))
    axes.plot(
        [left, right, right, left, left],
        [top, top, bottom, bottom, top],
        color="white",
        linewidth=0.7,
        linestyle=line,
        label=f"{part.threshold:.0%}: r = {part.area:.1%}",
    )
