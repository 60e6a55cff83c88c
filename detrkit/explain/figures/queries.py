"""The figures of what queries do: where they start, what they find, how many are needed."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from detrkit.explain.figures.canvas import framed
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
    from matplotlib.lines import Line2D

    from detrkit.explain.queries import QueryStatistics

#: Narrower figures have two diagrams in a row, not three.
_WIDE = 5.0
#: Cells of the maps of places, in each direction.
_CELLS = 64
#: Standard deviation of the dot that stands for a point there, in cells.
_BLUR = 1.5
#: Sides of boxes, as a share of the picture's: bins of their logarithm.
_SIDES = np.geomspace(0.01, 1.2, 36)
#: Smaller boxes have no shape worth a colour: share of the picture's area.
_SMALL = 0.02


def query_figure(found: QueryStatistics, width: str | float = "page") -> Figure:
    """Places of start and of detections, sizes by level, usage, scores, coverage.

    Args:
        found: the statistics.
        width: of the figure, see `parse_width`.
    """
    inches = parse_width(width)
    columns = 3 if inches >= _WIDE else 2
    with drawing(*found.class_map.names):
        figure = new_figure(inches, inches * 0.64 if columns == 3 else inches * 1.4)
        axes = figure.subplots(6 // columns, columns).flatten()
        hits = found.found
        _places(axes[0], found.start[..., :2].reshape(-1, 2), "Where queries start")
        _places(axes[1], found.boxes[hits][:, :2], f"Detections, score ≥ {found.conf:g}")
        _sizes(axes[2], found)
        _usage(axes[3], found)
        _scores(axes[4], found)
        _coverage(axes[5], found) if len(found.first_answer) else _classes(axes[5], found)
        figure.draw_without_rendering()
    return figure


def slots_figure(found: QueryStatistics, width: str | float = "page", count: int = 20) -> Figure:
    """The centres of single queries' boxes over all images, as in figure 7 of DETR.

    Args:
        found: the statistics.
        width: of the figure, see `parse_width`.
        count: of queries: those with the most detections, in the order of their numbers.
    """
    inches = parse_width(width)
    columns = 5 if inches >= _WIDE else 3
    chosen = np.sort(np.argsort(-found.usage, kind="stable")[:count])
    rows = math.ceil(len(chosen) / columns)
    with drawing(*found.class_map.names):
        figure = new_figure(inches, inches / columns * rows * 1.16 + 0.3)
        grid = figure.subplots(rows, columns, squeeze=False).flatten()
        for axes in grid[len(chosen) :]:
            axes.set_visible(False)
        for axes, query in zip(grid, chosen.tolist(), strict=False):
            _slot(axes, found, query)
        figure.legend(
            handles=_kinds_legend(), loc="outside lower center", ncols=3, handletextpad=0.2
        )
        figure.draw_without_rendering()
    return figure


def _places(axes: Axes, centres: npt.NDArray[np.float32], title: str) -> None:
    """Density of points of the picture's plane."""
    from scipy.ndimage import gaussian_filter

    bins = np.linspace(0, 1, _CELLS + 1)
    counts, _, _ = np.histogram2d(centres[:, 1], centres[:, 0], bins=[bins, bins])
    density = gaussian_filter(counts, _BLUR, mode="nearest")
    axes.imshow(density, extent=(0, 1, 1, 0), cmap=VALUES, vmin=0, aspect="equal")
    framed(axes)
    axes.set_title(title)
    axes.set_xlabel(f"{len(centres):,} centres", fontsize=7)


def _sizes(axes: Axes, found: QueryStatistics) -> None:
    hits = found.found
    sides = np.sqrt(np.maximum(found.boxes[..., 2:], 0).prod(-1))
    parts = [sides[hits & (found.levels == level)] for level in range(len(found.strides))]
    axes.hist(
        [np.clip(part, _SIDES[0], _SIDES[-1]) for part in parts],
        bins=_SIDES.tolist(),
        stacked=True,
        color=[COLORS[level % len(COLORS)] for level in range(len(parts))],
        label=[f"stride {stride:g}" for stride in found.strides],
    )
    axes.set_xscale("log")
    axes.set_xticks([0.01, 0.1, 1], ["1 %", "10 %", "100 %"])
    axes.minorticks_off()
    axes.set_xlim(_SIDES[0], _SIDES[-1])
    axes.set_xlabel("side, of the picture's")
    axes.set_ylabel("detections")
    axes.set_title("Sizes by level")
    axes.set_ylim(top=1.35 * axes.get_ylim()[1])  # room for the legend
    axes.legend(loc="upper left")


def _usage(axes: Axes, found: QueryStatistics) -> None:
    from matplotlib.ticker import MaxNLocator

    usage = found.usage
    numbers = np.arange(found.queries)
    axes.bar(numbers, usage, width=1.0, color=COLORS[0])
    axes.set_xlim(-0.5, found.queries - 0.5)
    axes.set_xlabel("number of the query")
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    axes.set_ylabel("detections", color=COLORS[0])
    total = usage.sum()
    axes.set_title(f"Who detects: Gini {found.inequality:.2f}" if total else "Who detects")
    if not total:
        return
    share = axes.twinx()
    share.plot(numbers, np.cumsum(usage) / total, color=COLORS[1])
    share.set_ylim(0, 1.02)
    share.spines["right"].set_visible(True)
    share.set_ylabel("share, added up", color=COLORS[1])
    needed = found.needed(0.9)
    share.plot([needed - 1] * 2, [0, 0.9], color=GRAY, linewidth=0.6, linestyle="--")
    share.annotate(
        f"90 %: {needed}", (needed - 1, 0.5), xytext=(3, 0), textcoords="offset points",
        va="center", fontsize=7,
    )  # fmt: skip


def _scores(axes: Axes, found: QueryStatistics) -> None:
    from matplotlib.ticker import MaxNLocator

    numbers = np.arange(found.queries)
    low, middle, high = np.quantile(found.scores, [0.05, 0.5, 0.95], axis=0)
    axes.fill_between(numbers, low, high, color=COLORS[0], alpha=0.2, linewidth=0)
    axes.plot(numbers, middle, color=COLORS[0])
    axes.axhline(found.conf, color=GRAY, linewidth=0.6, linestyle="--")
    axes.set_xlim(0, max(found.queries - 1, 1))
    axes.set_ylim(0, 1)
    axes.set_xlabel("number of the query")
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    axes.set_ylabel("score")
    axes.set_title("Scores: median, 5 to 95 %")


def _coverage(axes: Axes, found: QueryStatistics) -> None:
    numbers = np.arange(1, found.queries + 1)
    axes.plot(numbers, found.coverage(found.first_proposal), color=GRAY, label="proposal")
    axes.plot(numbers, found.coverage(found.first_answer), color=COLORS[2], label="answer")
    axes.set_xscale("log")
    axes.set_xlim(1, found.queries)
    axes.set_ylim(0, 1)
    axes.set_xlabel("first queries")
    axes.set_ylabel("share of true boxes")
    axes.set_title("Covered at IoU 0.5")
    axes.legend(loc="upper left")


def _classes(axes: Axes, found: QueryStatistics) -> None:
    counts = found.class_counts.sum(0)
    order = np.argsort(-counts, kind="stable")[:10]
    order = order[counts[order] > 0][::-1]
    axes.barh(np.arange(len(order)), counts[order], color=COLORS[0])
    axes.set_yticks(np.arange(len(order)), [found.class_map.names[i] for i in order])
    axes.set_xlabel("detections")
    axes.set_title("Classes")


#: Kinds of boxes and their colours: those of DETR's figure, for everyone's eyes.
_KINDS = (("small", COLORS[2]), ("wide", COLORS[1]), ("tall", COLORS[0]))


def _slot(axes: Axes, found: QueryStatistics, query: int) -> None:
    boxes = found.boxes[:, query]
    small = boxes[:, 2] * boxes[:, 3] < _SMALL
    kind = np.where(small, 0, np.where(boxes[:, 2] >= boxes[:, 3], 1, 2))
    for number, (_, color) in enumerate(_KINDS):
        own = boxes[kind == number]
        axes.scatter(
            own[:, 0], own[:, 1], s=_dot(len(boxes)), color=color, linewidth=0, alpha=0.7,
            rasterized=True,
        )  # fmt: skip
    axes.set_xlim(0, 1)
    axes.set_ylim(1, 0)
    axes.set_aspect("equal")
    framed(axes)
    axes.set_title(f"query {query} ({found.usage[query]} found)", fontsize=7, pad=2)


def _dot(images: int) -> float:
    """Area of a dot in square points, smaller where there are many."""
    return float(np.clip(400 / max(images, 1), 1.0, 10.0))


def _kinds_legend() -> list[Line2D]:
    from matplotlib.lines import Line2D

    return [
        Line2D([], [], color=color, marker="o", markersize=3, linestyle="", label=name)
        for name, color in _KINDS
    ]
