"""Figures of feature maps: energies over the picture, and grids of channels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from detrkit.explain.features import ENERGY_TITLES, FeatureMap, Features
from detrkit.explain.figures.canvas import bare
from detrkit.explain.figures.overlay import overlaid, show, shrunk
from detrkit.explain.figures.panels import Panels, color_bar
from detrkit.explain.figures.style import VALUES, drawing
from detrkit.explain.opened import Array

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def draw_energies(
    features: Features, width: str | float, kinds: Sequence[str], on_picture: bool
) -> Figure:
    """A row for each kind: the picture, then each layer."""
    image = features.image
    with drawing():
        panels = Panels(
            width,
            image.size if on_picture else image.spec.size,
            [1 + len(features.maps)] * len(kinds),
            spare=0.35,
            title_lines=2,
            titled_rows=True,
        )
        for number, (kind, cells) in enumerate(zip(kinds, panels.cells, strict=True)):
            show(cells[0], np.asarray(shrunk(image.picture)), image.size)
            cells[0].set_title(ENERGY_TITLES[kind])
            for one, axes in zip(features.maps, cells[1:], strict=True):
                values = _stretched(one.energy(kind))
                if on_picture:
                    back = image.map_back(values)
                    picture = overlaid(shrunk(image.picture), shrunk(back), VALUES)
                    show(axes, picture, image.size)
                else:
                    _show_cells(axes, values)
                if number == 0:
                    axes.set_title(titled(one.layer))
        color_bar(panels.figure, VALUES, "smallest to largest")
    return panels.figure


def draw_channels(features: Features, one: FeatureMap, width: str | float, channels: int) -> Figure:
    """The picture, and the channels that differ most, each from its smallest to its largest."""
    chosen = one.strongest(channels)
    with drawing():
        panels = Panels(width, one.values.shape[1:], [1 + len(chosen)], spare=0.35)
        picture, *cells = panels.cells[0]
        show(picture, np.asarray(shrunk(features.image.picture)), features.image.size)
        picture.set_aspect("auto")  # as the input is stretched
        picture.set_title(one.layer, fontsize=6)
        for channel, axes in zip(chosen, cells, strict=True):
            _show_cells(axes, _stretched(one.values[channel]))
            axes.set_title(f"channel {channel}", fontsize=6)
        color_bar(panels.figure, VALUES, "smallest to largest")
    return panels.figure


def titled(layer: str) -> str:
    """A layer's name on two lines at most, so that neighbours do not meet."""
    part, _, rest = layer.partition(".")
    return f"{part}\n{rest}" if rest else layer


def _stretched(values: Array) -> Array:
    """From the smallest value, 0, to the largest, 1; equal values are 0."""
    low, high = float(values.min()), float(values.max())
    return (values - low) / (high - low) if high > low else np.zeros_like(values)


def _show_cells(axes: Axes, values: Array) -> None:
    axes.imshow(values, vmin=0, vmax=1)
    axes.set_axis_on()
    bare(axes)
