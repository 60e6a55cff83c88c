"""Many pictures on one sheet."""

from __future__ import annotations

import math
from collections.abc import Sequence

from PIL import Image, ImageDraw

from detrkit.drawing.fonts import clean, font_for

_PAPER = (24, 24, 27)
_INK = (228, 228, 231)


def grid(
    pictures: Sequence[Image.Image],
    *,
    columns: int | None = None,
    cell: tuple[int, int] | None = None,
    titles: Sequence[str] | None = None,
    gap: int = 6,
) -> Image.Image:
    """Pictures in rows, each fitted into a cell with its aspect ratio kept.

    Args:
        pictures: at least one.
        columns: per row; default about as many as rows.
        cell: (h, w) in pixels; default the largest picture's, at most 640 on a side.
        titles: a line below each picture.
        gap: pixels between pictures and around them.
    """
    if not pictures:
        raise ValueError("a grid needs at least one picture")
    columns = min(columns or math.ceil(math.sqrt(len(pictures))), len(pictures))
    rows = math.ceil(len(pictures) / columns)
    if cell is None:
        tallest, widest = max(p.height for p in pictures), max(p.width for p in pictures)
        shrink = min(1.0, 640 / max(tallest, widest))
        cell = max(round(tallest * shrink), 1), max(round(widest * shrink), 1)
    height, width = cell
    text = max(12, round(height * 0.05)) if titles else 0
    strip = round(1.6 * text)
    sheet = Image.new(
        "RGB",
        (columns * (width + gap) + gap, rows * (height + strip + gap) + gap),
        _PAPER,
    )
    pen = ImageDraw.Draw(sheet)
    for i, picture in enumerate(pictures):
        left = gap + (i % columns) * (width + gap)
        top = gap + (i // columns) * (height + strip + gap)
        ratio = min(width / picture.width, height / picture.height)
        size = max(round(picture.width * ratio), 1), max(round(picture.height * ratio), 1)
        fitted = picture if size == picture.size else picture.resize(size, Image.Resampling.LANCZOS)
        sheet.paste(fitted, (left + (width - size[0]) // 2, top + (height - size[1]) // 2))
        if titles and (title := _shortened(clean(titles[i]), text, width)):
            at = (left + width / 2, top + height + strip / 2)
            pen.text(at, title, fill=_INK, font=font_for(title, text), anchor="mm")
    return sheet


def _shortened(title: str, size: int, width: int) -> str:
    """The end of the title, which tells file names apart, as far as it fits."""
    if font_for(title, size).getlength(title) <= width:
        return title
    while title and font_for(title, size).getlength("…" + title) > width:
        title = title[1:]
    return "…" + title if title else ""
