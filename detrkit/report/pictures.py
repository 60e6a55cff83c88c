"""Pictures inside the page, and the way to those outside."""

from __future__ import annotations

import base64
import io
import os
from pathlib import Path
from urllib.parse import quote

from PIL import Image


def jpeg_uri(picture: Image.Image, quality: int = 80) -> str:
    """`data:image/jpeg;base64,…`."""
    buffer = io.BytesIO()
    picture.convert("RGB").save(buffer, "JPEG", quality=quality, optimize=True)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def relative_url(path: str, folder: Path) -> str:
    """The address of a file on a page in `folder`; stays right when both are moved together."""
    try:
        relative = os.path.relpath(path, folder)
    except ValueError:  # another drive of Windows
        return Path(path).absolute().as_uri()
    return quote(relative.replace(os.sep, "/"), errors="surrogateescape")
