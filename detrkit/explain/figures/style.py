"""One look for all figures, fit for print: sizes in inches, fonts in points, colours for everyone.

    with drawing(*class_names):
        figure = new_figure(parse_width("column"), 2.5)
        ...
    save(figure, Path("figure.pdf"))

Text stays text in SVG and PDF; equal figures make equal files.
"""

from __future__ import annotations

import io
import logging
import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from detrkit.drawing.fonts import matplotlib_fonts
from detrkit.errors import UsageError
from detrkit.files import write_bytes

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: Okabe and Ito's colours, which the colour-blind can tell apart, for kinds of things.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#444444")
#: Colour map, even to the eye, for values from low to high.
VALUES = "viridis"
#: Of edges, ticks and secondary text.
GRAY = "#666666"

#: Widths of a column and of a page of the conferences of the field, in inches.
WIDTHS = {"column": 3.35, "page": 6.9}
FORMATS = ("png", "svg", "pdf")
DPI = 300

_STYLE: dict[Any, Any] = {
    "font.size": 8,
    "axes.titlesize": 8,
    "axes.labelsize": 8,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "legend.fontsize": 7,
    "figure.titlesize": 8,
    "axes.linewidth": 0.6,
    "axes.edgecolor": GRAY,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "grid.color": "#E6E6E6",
    "grid.linewidth": 0.5,
    "xtick.color": GRAY,
    "ytick.color": GRAY,
    "xtick.labelcolor": "black",
    "ytick.labelcolor": "black",
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "xtick.major.size": 2.5,
    "ytick.major.size": 2.5,
    "legend.frameon": False,
    "lines.linewidth": 1.2,
    "image.cmap": VALUES,
    "image.interpolation": "nearest",
    "svg.fonttype": "none",
    "svg.hashsalt": "detrkit",
    "pdf.fonttype": 42,
    "savefig.facecolor": "white",
}


def parse_width(text: str | float) -> float:
    """Inches of "column", "page" or a number.

    Raises:
        UsageError: it is none of them, or not between 0.5 and 50.
    """
    try:
        inches = WIDTHS[text] if isinstance(text, str) and text in WIDTHS else float(text)
    except ValueError:
        inches = math.nan
    if not 0.5 <= inches <= 50:
        raise UsageError(
            f"width {text}: give column ({WIDTHS['column']} in), page ({WIDTHS['page']} in), or "
            "inches between 0.5 and 50"
        )
    return inches


@contextmanager
def drawing(*texts: str) -> Iterator[None]:
    """Inside, matplotlib draws in this style.

    Args:
        texts: what will be written that others chose, such as names of classes and files: they
            get a font that has their characters.
    """
    import matplotlib

    with _quiet(), matplotlib.rc_context({**_STYLE, **matplotlib_fonts(texts)}):
        yield


@contextmanager
def _quiet() -> Iterator[None]:
    """Inside, a sign or weight that a font lacks is no matter for a warning or a line of a log."""
    log = logging.getLogger("matplotlib.font_manager")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        log.setLevel(level)


def new_figure(width: str | float = "column", height: float | None = None) -> Figure:
    """An empty figure that knows no screen and leaves pyplot alone.

    Args:
        width: see `parse_width`.
        height: inches; default three quarters of the width.
    """
    from matplotlib.figure import Figure

    inches = parse_width(width)
    return Figure(figsize=(inches, height or 0.75 * inches), layout="constrained")


def save(figure: Figure, path: str | Path, *, dpi: int = DPI) -> Path:
    """Writes a figure, all of the file or nothing; equal figures make equal files.

    Args:
        figure: made inside `drawing`.
        path: its ending says how: .png, .svg or .pdf.
        dpi: dots per inch of a PNG, and of pictures inside the others.

    Raises:
        UsageError: the ending is another one.
        DetrkitError: the file cannot be written.
    """
    import matplotlib

    path = Path(path)
    kind = path.suffix.lower().removeprefix(".")
    if kind not in FORMATS:
        raise UsageError(f"{path}: figures are written as {', '.join(FORMATS)}")
    undated = {"svg": {"Date": None}, "pdf": {"CreationDate": None}, "png": {"Software": None}}
    content = io.BytesIO()
    with _quiet(), matplotlib.rc_context(_STYLE):
        figure.savefig(content, format=kind, dpi=dpi, metadata=undated[kind])
    write_bytes(path, content.getvalue())
    return path
