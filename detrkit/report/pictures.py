"""Pictures inside the page."""

from __future__ import annotations

import base64
import io

from PIL import Image


def jpeg_uri(picture: Image.Image, quality: int = 80) -> str:
    """`data:image/jpeg;base64,…`."""
    buffer = io.BytesIO()
    picture.convert("RGB").save(buffer, "JPEG", quality=quality, optimize=True)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
