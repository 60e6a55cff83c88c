"""The figures of matching over a training: its numbers, and one image with its pairs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch

from detrkit.data.image_check import read_indexed
from detrkit.drawing.viewable import viewable
from detrkit.explain.figures.canvas import draw_box, show_picture
from detrkit.explain.figures.style import (
    COLORS,
    GRAY,
    VALUES,
    drawing,
    new_figure,
    parse_width,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from detrkit.explain.assignments import Assignments

#: Narrower figures have one diagram in a row.
_WIDE = 5.0
#: Moments of which a picture is drawn where nobody chooses.
_PICTURES = 4


def assignments_figure(found: Assignments, width: str | float = "page") -> Figure:
    """Instability, boxes that changed hands, agreement of the layers, quality of the pairs.

    Args:
        found: matches of at least one moment.
        width: of the figure, see `parse_width`.
    """
    from matplotlib.ticker import MaxNLocator

    inches = parse_width(width)
    columns = 2 if inches >= _WIDE else 1
    with drawing():
        figure = new_figure(inches, (2.0 if columns == 2 else 1.8) * 4 / columns + 0.3)
        grid = figure.subplots(4 // columns, columns, squeeze=False).flatten()
        colors = _colors(found.outputs)
        _instability(grid[0], found, colors)
        _lines(grid[1], found, found.changed("place"), colors, found.epochs[1:])
        grid[1].set_title("Boxes that another query answers for")
        _lines(grid[2], found, found.agreement[:, :-1], colors[:-1], found.epochs)
        grid[2].set_title("Boxes with the last layer's query")
        for axes in grid[1:3]:
            axes.set_ylim(0, 1)
            axes.set_ylabel("share of boxes")
        _quality(grid[3], found)
        for axes in grid:
            axes.set_xlabel("epoch")
            axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
            axes.set_xlim(*_limits(found.epochs))
        lines = [
            grid[0].plot([], [], color=c, label=n)[0]
            for n, c in zip(found.outputs, colors, strict=True)
        ]
        figure.legend(
            handles=lines,
            loc="outside lower center",
            ncols=min(len(lines), 4 if columns == 2 else 2),
        )
        figure.draw_without_rendering()
    return figure


def _colors(outputs: Sequence[str]) -> list[Any]:
    """The encoder gray, what follows from pale to dark."""
    import matplotlib

    after = [name for name in outputs if name != "encoder"]
    shades = matplotlib.colormaps[VALUES](np.linspace(0.85, 0.05, len(after)))
    named = dict(zip(after, shades.tolist(), strict=True))
    return [named.get(name, COLORS[3]) for name in outputs]


def _limits(epochs: Sequence[int]) -> tuple[float, float]:
    margin = max((epochs[-1] - epochs[0]) * 0.03, 0.5)
    return epochs[0] - margin, epochs[-1] + margin


def _lines(
    axes: Axes,
    found: Assignments,
    values: npt.NDArray[Any],
    colors: Sequence[Any],
    epochs: Sequence[int],
) -> None:
    """One line per output; values (moments, outputs)."""
    for column, color in enumerate(colors):
        axes.plot(epochs, values[:, column], color=color, marker="o", markersize=2)


def _instability(axes: Axes, found: Assignments, colors: Sequence[Any]) -> None:
    _lines(axes, found, found.instability("place"), colors, found.epochs[1:])
    by_number = found.instability("query")[:, -1]
    axes.plot(
        found.epochs[1:], by_number, color=GRAY, linestyle="--", linewidth=0.8,
        label="last layer, by number",
    )  # fmt: skip
    most = 2 * len(found.truth.labels) / max(len(found.truth.paths), 1)
    axes.axhline(most, color=GRAY, linewidth=0.6, linestyle=":")
    axes.set_ylim(0, 1.28 * most)  # room for the legend
    axes.annotate(
        "at most", (0.01, most), xycoords=("axes fraction", "data"), va="bottom",
        fontsize=7, color=GRAY,
    )  # fmt: skip
    axes.set_ylabel("IS")
    axes.set_title("Instability of the matching")
    axes.legend(loc="upper right")


def _quality(axes: Axes, found: Assignments) -> None:
    for values, color, name in (
        (found.iou[:, -1], COLORS[2], "IoU with the box"),
        (found.scores[:, -1], COLORS[1], "score of its class"),
    ):
        axes.plot(found.epochs, values, color=color, marker="o", markersize=2, label=name)
    axes.set_ylim(0, 1)
    axes.set_ylabel("mean of the pairs")
    axes.set_title("Pairs of the last layer")
    axes.legend(loc="lower right")


def pairs_figure(
    found: Assignments,
    image: int,
    width: str | float = "page",
    moments: Sequence[int] | None = None,
) -> Figure:
    """One image at several moments: where the matched queries start, and where their boxes go.

    Every true box has a colour. The dashed box is what its query predicts; the line leads there
    from where the query starts. A hollow dot: another query than in the picture before.

    Args:
        found: the matches.
        image: 0 … N - 1.
        width: of the figure, see `parse_width`.
        moments: which; default up to four, evenly spread.
    """
    inches = parse_width(width)
    count = len(found.moments)
    if moments is None:
        moments = (
            np.unique(np.linspace(0, count - 1, min(_PICTURES, count)).round()).astype(int).tolist()
        )
    read = read_indexed(found.truth.index, image, found.spec.in_channels)
    pixels = viewable(read.image).permute(1, 2, 0).numpy()
    columns = min(len(moments), 4 if inches >= _WIDE else 2)
    rows = -(-len(moments) // columns)
    with drawing():
        aspect = pixels.shape[0] / pixels.shape[1]
        figure = new_figure(inches, rows * (inches / columns * aspect + 0.25) + 0.1)
        grid = figure.subplots(rows, columns, squeeze=False).flatten()
        for axes in grid[len(moments) :]:
            axes.set_visible(False)
        before: int | None = None
        for axes, moment in zip(grid, moments, strict=False):
            show_picture(axes, pixels, faded=0.35)
            _pairs(axes, found, image, moment, before)
            before = moment
        figure.draw_without_rendering()
    return figure


def _pairs(axes: Axes, found: Assignments, image: int, moment: int, before: int | None) -> None:
    height, width = (int(v) for v in found.truth.sizes[image])
    own = slice(*found.truth.offsets[image : image + 2].tolist())
    matches = found.matches[moment]
    restored = [
        found.spec.restore_boxes(torch.from_numpy(boxes[own]), (height, width)).numpy()
        for boxes in (found.truth.boxes, matches.boxes, matches.start)
    ]
    places = matches.places[-1, own]
    changed = np.zeros(len(places), bool)
    if before is not None:
        changed = places != found.matches[before].places[-1, own]
    for number, (true, box, start) in enumerate(zip(*restored, strict=True)):
        color = COLORS[number % len(COLORS)]
        draw_box(axes, true, color)
        if not np.isfinite(box).all():
            continue
        draw_box(axes, box, color, linestyle=(0, (3, 2)), linewidth=0.9, halo=0.8)
        x, y = (start[:2] + start[2:]) / 2
        to_x, to_y = (box[:2] + box[2:]) / 2
        axes.plot([x, to_x], [y, to_y], color=color, linewidth=0.8)
        axes.plot(
            x, y, marker="o", markersize=3.5, color=color, markeredgewidth=0.9,
            markerfacecolor="white" if changed[number] else color,
        )  # fmt: skip
    axes.set_xlim(0, width)
    axes.set_ylim(height, 0)
    share = f", {100 * changed.mean():.0f} % changed" if before is not None and len(changed) else ""
    axes.set_title(f"epoch {found.moments[moment].epochs}{share}", fontsize=7, pad=3)
