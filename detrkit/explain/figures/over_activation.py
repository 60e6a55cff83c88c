"""The figure of over-activation: where false detections lie, of which classes, the worst images."""

from __future__ import annotations

from pathlib import PurePath
from typing import TYPE_CHECKING

import numpy as np

from detrkit.data.image_check import read_indexed
from detrkit.drawing.viewable import viewable
from detrkit.explain.figures.canvas import draw_box, framed, show_picture
from detrkit.explain.figures.style import COLORS, drawing, new_figure, parse_width

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from detrkit.explain.over_activation import OverActivationMaps

#: Pictures of the worst images, and classes that are named.
_WORST, _CLASSES = 4, 8
#: Boxes that are drawn in one picture, the best ones.
_BOXES = 5


def over_activation_figure(found: OverActivationMaps, width: str | float = "page") -> Figure:
    """Map, classes, false detections by score, and the images with the highest scores.

    Args:
        found: what was seen.
        width: of the figure, see `parse_width`.
    """
    inches = parse_width(width)
    names = found.negatives.index.class_map.names
    worst = found.negatives.found.worst(_WORST)
    files = [PurePath(found.negatives.found.paths[number]).name for number in worst]
    with drawing(*names, *files):
        figure = new_figure(inches, inches * (0.64 if worst else 0.36))
        rows = (1.35, 1) if worst else (1,)
        parts = figure.subfigures(len(rows), 1, height_ratios=rows, squeeze=False)[:, 0]
        place, classes, levels = parts[0].subplots(1, 3, width_ratios=(1.25, 1, 1))
        _map(place, found)
        _classes(classes, found)
        _levels(levels, found)
        if worst:
            grid = parts[1].subplots(1, _WORST)
            for axes in grid[len(worst) :]:
                axes.set_visible(False)
            for axes, number in zip(grid, worst, strict=False):
                _picture(axes, found, number)
        figure.draw_without_rendering()
    return figure


def _map(axes: Axes, found: OverActivationMaps) -> None:
    image = axes.imshow(found.activation, extent=(0, 1, 1, 0), cmap="Greys", vmin=0, vmax=1)
    dots = found.boxes[:, :2]
    axes.scatter(
        dots[:, 0], dots[:, 1], s=8 * found.scores, color=COLORS[1], alpha=0.6, linewidth=0
    )
    axes.set_xlim(0, 1)
    axes.set_ylim(1, 0)
    framed(axes)
    axes.set_title(f"False detections, score ≥ {found.conf:g}")
    bar = axes.figure.colorbar(image, ax=axes, fraction=0.046, pad=0.03)
    bar.outline.set_visible(False)
    bar.set_label("highest score, mean", fontsize=7)


def _classes(axes: Axes, found: OverActivationMaps) -> None:
    names = found.negatives.index.class_map.names
    counts = np.bincount(found.labels, minlength=len(names))
    order = np.argsort(-counts, kind="stable")[:_CLASSES]
    order = order[counts[order] > 0][::-1]
    axes.barh(np.arange(len(order)), counts[order], color=COLORS[1])
    axes.set_yticks(np.arange(len(order)), [names[i] for i in order])
    axes.set_xlabel("false detections")
    axes.set_title("Classes")


def _levels(axes: Axes, found: OverActivationMaps) -> None:
    """False detections per image over the score, by level."""
    images = max(len(found.negatives.found.paths), 1)
    thresholds = np.linspace(found.conf, 1, 100)
    for level, stride in enumerate(found.strides):
        scores = found.scores[found.levels == level]
        counts = (scores[:, None] >= thresholds).sum(0) / images
        axes.plot(thresholds, counts, color=COLORS[level % len(COLORS)], label=f"stride {stride:g}")
    axes.set_xlim(found.conf, 1)
    axes.set_ylim(bottom=0)
    axes.set_xlabel("score from")
    axes.set_ylabel("per image")
    axes.set_title("False detections by level")
    axes.legend()


def _picture(axes: Axes, found: OverActivationMaps, number: int) -> None:
    seen, index = found.negatives.found, found.negatives.index
    place = list(index.paths).index(seen.paths[number])
    image = viewable(read_indexed(index, place, channels=None).image)
    show_picture(axes, image.permute(1, 2, 0).numpy())
    shown = seen.shown[number].above(found.conf)
    for box in shown.boxes_xyxy[:_BOXES][::-1]:
        draw_box(axes, box, COLORS[1])
    if len(shown):
        axes.set_title(f"{shown.names[0]} {shown.scores[0]:.2f}", fontsize=7, pad=2)
    axes.set_xlim(0, image.shape[2])
    axes.set_ylim(image.shape[1], 0)
