"""The content of an image file that is in memory, as an upload is."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, TypeAlias

#: What Pillow may take such content for. It knows more kinds: readers that are seldom tried, and
#: PostScript, which it hands to another program; content from anywhere is not for those.
PILLOW_FORMATS = (
    *("JPEG", "MPO", "PNG", "BMP", "DIB", "GIF", "WEBP", "TIFF"),
    *("AVIF", "HEIF", "JPEG2000", "PPM", "TGA", "ICO"),
)


@dataclass(frozen=True, slots=True)
class ImageBytes:
    """Stands where the path of an image file may stand.

    Attributes:
        content: all bytes of the file.
        name: for messages.
    """

    content: bytes
    name: str = "the image"

    def __str__(self) -> str:
        return self.name


#: An image file, on disk or in memory.
ImageFile: TypeAlias = str | Path | ImageBytes


def opened(file: ImageFile) -> BinaryIO:
    """The file, ready to be read."""
    if isinstance(file, ImageBytes):
        return io.BytesIO(file.content)
    return open(file, "rb")


def is_empty(file: ImageFile) -> bool:
    """Whether it is there and holds nothing."""
    if isinstance(file, ImageBytes):
        return not file.content
    return Path(file).is_file() and not Path(file).stat().st_size
