"""Pictures against small references: what matters is seen, what fonts do to an edge is not.

`DETRKIT_REDRAW=1 pytest tests/explain` draws the references anew; look at them before a commit.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure
from PIL import Image, ImageFilter

from detrkit.explain.figures.style import save

REFERENCES = Path(__file__).parent / "references"
#: Dots per inch, and the radius of the blur in them.
DPI, BLUR = 40, 3
#: What may differ then, of 255: on average, and anywhere.
MEAN, MOST = 1.5, 40.0


def assert_like(figure: Figure, name: str, folder: Path) -> None:
    """Whether a figure looks like `references/<name>.png`.

    Args:
        figure: drawn.
        name: of the reference.
        folder: where the new picture may lie.
    """
    reference = REFERENCES / f"{name}.png"
    drawn = save(figure, folder / reference.name, dpi=DPI)
    if os.environ.get("DETRKIT_REDRAW"):
        REFERENCES.mkdir(exist_ok=True)
        with Image.open(drawn) as picture:
            picture.convert("RGB").quantize(192).save(reference, optimize=True)
    assert reference.stat().st_size < 30_000, f"{reference} is large for a reference"
    new, old = _blurred(drawn), _blurred(reference)
    assert np.abs(np.subtract(new.shape, old.shape)).max() <= 2, (new.shape, old.shape)
    rows, columns = (min(a, b) for a, b in zip(new.shape[:2], old.shape[:2], strict=True))
    difference = np.abs(new[:rows, :columns] - old[:rows, :columns])
    mean, most = float(difference.mean()), float(difference.max())
    alike = mean < MEAN and most < MOST
    assert alike, f"{name}: differs by {mean:.2f} of 255, at most {most:.0f}"


def _blurred(path: Path) -> npt.NDArray[np.float32]:
    with Image.open(path) as picture:
        soft = picture.convert("RGB").filter(ImageFilter.GaussianBlur(BLUR))
    return np.asarray(soft, np.float32)
