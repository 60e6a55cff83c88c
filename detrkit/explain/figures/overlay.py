"""Maps of values over a picture, so that both can be seen."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from detrkit.explain.figures.canvas import bare

if TYPE_CHECKING:
    from matplotlib.axes import Axes

#: Longer side of the pictures inside a figure, in pixels; more is not seen in print.
LONGEST = 1200
#: Brightness that the ground of a map loses.
_DARKENED = 0.25


def overlaid(
    picture: npt.NDArray[np.uint8], values: npt.NDArray[Any], colors: str
) -> npt.NDArray[np.uint8]:
    """A picture in gray under a map; the higher a value, the less of the picture shines through.

    Args:
        picture: (H, W, 3) RGB.
        values: (H, W), 0–1.
        colors: a colour map of matplotlib's.
    """
    import matplotlib

    gray = picture.astype(np.float32) @ np.array([0.299, 0.587, 0.114], np.float32) / 255
    ground = (1 - _DARKENED) * gray[..., None].repeat(3, axis=2)
    values = np.clip(values, 0, 1)
    heat = matplotlib.colormaps[colors](values)[..., :3].astype(np.float32)
    alpha = (0.8 * np.sqrt(values))[..., None]
    mixed: npt.NDArray[np.uint8] = np.round(255 * (alpha * heat + (1 - alpha) * ground)).astype(
        np.uint8
    )
    return mixed


def show(axes: Axes, pixels: npt.NDArray[np.uint8], size: tuple[int, int]) -> None:
    """A picture (h, w, 3) whose axes count pixels of `size` (H, W), without ticks."""
    h, w = size
    axes.imshow(pixels, extent=(0, w, h, 0), interpolation="antialiased", aspect="equal")
    axes.set_xlim(0, w)
    axes.set_ylim(h, 0)
    axes.set_axis_on()
    bare(axes)


def shrunk(values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Every n-th row and column, so that the longer side is at most `LONGEST`."""
    step = -(-max(values.shape[:2]) // LONGEST)
    return values[::step, ::step]
