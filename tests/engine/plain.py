"""Curves of a run that are not drawn: with matplotlib they take longer than the epochs of a test.

`test_curves` is about the drawing.
"""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image

from detrkit.engine.curves import RunCurves, draw_curves


def plain_curves(runs: Sequence[RunCurves]) -> Image.Image:
    """In place of `draw_curves`, which draws a comparison of several."""
    return draw_curves(runs) if len(runs) > 1 else Image.new("RGB", (64, 48))
