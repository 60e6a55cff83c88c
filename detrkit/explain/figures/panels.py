"""Panels of one picture: rows of axes of its shape, its detections, a colour bar."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from detrkit.drawing.fonts import clean
from detrkit.explain.figures.canvas import draw_box
from detrkit.explain.figures.style import COLORS, GRAY, new_figure, parse_width
from detrkit.structures import Detections

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

#: Panels are at least so wide, in inches, where a single row can go on in the next.
_NARROWEST = 1.3
#: Height of a panel's title, in inches for each of its lines, and the gap between panels.
_TITLE, _GAP = 0.17, 0.05
#: Figures of this height, in inches, have room for the name of a colour bar.
_TALL = 1.5


class Panels:
    """A figure of panels that have the shape of one picture.

    Args:
        width: of the figure, see `parse_width`.
        size: (H, W) of the picture.
        counts: panels of each row; a single row goes on below where it gets too narrow.
        spare: inches at the right that other things need.
        title_lines: of the first row's titles.
        titled_rows: whether the other rows have titles too.

    Attributes:
        figure: to draw in.
        cells: the axes of each row.
    """

    def __init__(
        self,
        width: str | float,
        size: tuple[int, int],
        counts: Sequence[int],
        *,
        spare: float = 0.0,
        title_lines: int = 1,
        titled_rows: bool = False,
    ) -> None:
        inches = parse_width(width)
        columns = max(counts)
        if len(counts) == 1:
            columns = min(columns, max(int((inches - spare) / _NARROWEST), 1))
            rows = -(-counts[0] // columns)
            columns = -(-counts[0] // rows)  # as even as can be
        else:
            rows = len(counts)
        side = (inches - spare) / columns - _GAP
        titles = rows if titled_rows or len(counts) == 1 else 1
        height = rows * (side * size[0] / size[1] + _GAP) + titles * title_lines * _TITLE + 0.05
        self.figure: Figure = new_figure(inches, height)
        self.figure.set_layout_engine("compressed", w_pad=_GAP / 2, h_pad=_GAP / 2)
        grid = np.atleast_2d(self.figure.subplots(rows, columns, squeeze=False))
        for axes in grid.flat:
            axes.set_axis_off()
        if len(counts) == 1:
            self.cells: list[list[Axes]] = [list(grid.flat[: counts[0]])]
        else:
            self.cells = [list(row[:n]) for row, n in zip(grid, counts, strict=True)]


def draw_detection(axes: Axes, found: Detections, index: int, *, named: bool = True) -> None:
    """The box of a detection, and its name and score at its corner.

    Args:
        axes: of the picture, in its pixels.
        found: the detections.
        index: which of them.
        named: False draws a thin white box without a name, for the ground of a map.
    """
    one = found[index]
    height, width = found.orig_size
    x1, y1, x2, y2 = np.clip(one.box_xyxy, 0, [width, height, width, height])
    if not named:
        draw_box(axes, (x1, y1, x2, y2), "white", halo=0, linewidth=0.6, alpha=0.9)
        return
    color = COLORS[one.label % len(COLORS)]
    draw_box(axes, (x1, y1, x2, y2), color)
    above, leftwards = y1 > 0.1 * height, x1 > 0.65 * width
    axes.annotate(
        f"{clean(one.name)} {one.score:.2f}",
        (x2 if leftwards else x1, y1),
        xytext=(0, 1.5 if above else -1.5),
        textcoords="offset points",
        ha="right" if leftwards else "left",
        va="bottom" if above else "top",
        fontsize=5.5,
        color="white",
        bbox={"boxstyle": "square,pad=0.15", "facecolor": color, "edgecolor": "none"},
    )


def zoom(axes: Axes, box_xyxy: Sequence[float], size: tuple[int, int]) -> None:
    """Shows the surroundings of a box only: a part of the picture's shape, inside it.

    Args:
        axes: of the picture, in its pixels.
        box_xyxy: takes about half of what is shown.
        size: (H, W) of the picture.
    """
    height, width = size
    x1, y1, x2, y2 = np.clip(box_xyxy, 0, [width, height, width, height])
    part = float(np.clip(2 * max((x2 - x1) / width, (y2 - y1) / height), 0.15, 1))
    left = float(np.clip((x1 + x2) / 2 - part * width / 2, 0, (1 - part) * width))
    top = float(np.clip((y1 + y2) / 2 - part * height / 2, 0, (1 - part) * height))
    axes.set_xlim(left, left + part * width)
    axes.set_ylim(top + part * height, top)


def color_bar(figure: Figure, colors: str, label: str) -> None:
    """A slim bar at the right of all panels, from nothing to the largest value."""
    import matplotlib
    from matplotlib.cm import ScalarMappable

    bar = figure.colorbar(
        ScalarMappable(cmap=matplotlib.colormaps[colors]),
        ax=figure.axes, fraction=0.03, aspect=30, pad=0.01, ticks=[0, 1],
    )  # fmt: skip
    bar.ax.set_yticklabels(["0", "1"], fontsize=6)
    bar.ax.tick_params(size=0, pad=2)
    if figure.get_figheight() >= _TALL:
        bar.set_label(label, fontsize=6, color=GRAY, labelpad=-4)
    bar.outline.set_visible(False)
