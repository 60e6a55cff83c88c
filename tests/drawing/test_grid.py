"""Sheets of pictures."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from detrkit.drawing import grid


def test_cells_hold_their_pictures_in_order() -> None:
    colors = [(255, 0, 0), (0, 255, 0), (0, 0, 255)]
    sheet = np.asarray(grid([Image.new("RGB", (40, 20), c) for c in colors], gap=2))
    assert sheet.shape == (2 * 20 + 3 * 2, 2 * 40 + 3 * 2, 3)
    assert tuple(sheet[10, 20]) == colors[0]
    assert tuple(sheet[10, 64]) == colors[1]
    assert tuple(sheet[34, 20]) == colors[2]


def test_aspect_ratio_is_kept() -> None:
    sheet = np.asarray(grid([Image.new("RGB", (40, 20), "white")], cell=(40, 40), gap=0))
    white = (sheet == 255).all(2)
    assert white.sum() == 40 * 20
    assert white[10:30].all()


def test_titles_take_room_and_are_cut_to_fit() -> None:
    pictures = [Image.new("RGB", (60, 40), "white")] * 2
    plain = grid(pictures)
    titled = grid(pictures, titles=["a", "a very long file name that does not fit.jpg"])
    assert titled.width == plain.width
    assert titled.height > plain.height
    assert grid(pictures, titles=["", ""]).height == titled.height


def test_no_pictures() -> None:
    with pytest.raises(ValueError, match="at least one"):
        grid([])
