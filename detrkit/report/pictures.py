"""Pictures inside the page, and the way to those outside."""

from __future__ import annotations

import base64
import io
import os
from pathlib import Path
from urllib.parse import quote

from PIL import Image

from detrkit.report.html import Html, tag


def jpeg_uri(picture: Image.Image, quality: int = 80) -> str:
    """`data:image/jpeg;base64,…`."""
    buffer = io.BytesIO()
    picture.convert("RGB").save(buffer, "JPEG", quality=quality, optimize=True)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def drawing(picture: Image.Image, alt: str) -> Html:
    """A picture as wide as the page at most, without loss: its lines stay sharp.

    Args:
        picture: what is shown.
        alt: the same in words, for those who cannot see it.
    """
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", optimize=True)
    data = base64.b64encode(buffer.getvalue()).decode("ascii")
    return tag("img", src=f"data:image/png;base64,{data}", alt=alt, style="max-width: 100%")


def relative_url(path: str, folder: Path) -> str:
    """The address of a file on a page in `folder`; stays right when both are moved together."""
    try:
        relative = os.path.relpath(path, folder)
    except ValueError:  # another drive of Windows
        return Path(path).absolute().as_uri()
    return quote(relative.replace(os.sep, "/"), errors="surrogateescape")
