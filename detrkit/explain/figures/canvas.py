"""What figures over pictures share: the picture itself, boxes on it, and its plane without it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def show_picture(axes: Axes, picture: npt.NDArray[np.uint8], *, faded: float = 0.0) -> None:
    """A picture (H, W, 3) whose axes count its pixels, without ticks.

    Args:
        axes: to draw on.
        picture: RGB.
        faded: how far it is mixed with white, 0–1.
    """
    height, width = picture.shape[:2]
    shown = picture if not faded else (picture * (1 - faded) + 255 * faded).astype(np.uint8)
    axes.imshow(shown, extent=(0, width, height, 0), interpolation="antialiased")
    bare(axes)


def bare(axes: Axes) -> None:
    """Without ticks and edges."""
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_visible(False)


def framed(axes: Axes) -> None:
    """Without ticks, with all four edges: a plane, not a diagram."""
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_visible(True)


def draw_box(
    axes: Axes, box_xyxy: npt.ArrayLike, color: Any, *, halo: float = 1.0, **style: Any
) -> None:
    """A rectangle with a thin pale edge around its line, so that it shows on any ground.

    Args:
        axes: of a picture.
        box_xyxy: corners in its pixels.
        color: of the line.
        halo: points that the pale edge is wider than the line; 0: none.
        style: more of `matplotlib.patches.Rectangle`.
    """
    from matplotlib.patches import Rectangle
    from matplotlib.patheffects import Normal, Stroke

    x1, y1, x2, y2 = (float(v) for v in np.asarray(box_xyxy))
    style = {"linewidth": 1.1, **style}
    patch = Rectangle((x1, y1), x2 - x1, y2 - y1, fill=False, edgecolor=color, **style)
    if halo:
        pale = Stroke(linewidth=style["linewidth"] + halo, foreground="white", alpha=0.7)
        patch.set_path_effects([pale, Normal()])
    axes.add_patch(patch)
