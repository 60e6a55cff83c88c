"""Why an image file is refused: too large, empty, damaged, of a kind that has no reader here."""

from __future__ import annotations

import os
import struct

from PIL import Image, UnidentifiedImageError

from detrkit.data.image_bytes import ImageFile, is_empty, opened
from detrkit.errors import DataError, UsageError


class FolderGone(DataError):
    """Not an image but the folder of images cannot be reached: another image is no help."""

    def __init__(
        self, message: str, *, hint: str | None = "is the disk or the share still mounted?"
    ) -> None:
        super().__init__(message, hint=hint)


class TooManyPixels(DataError):
    """The picture is larger than `max_pixels`."""


#: Larger images are refused: a small file can declare more pixels than the memory holds.
MAX_PIXELS = 178_956_970
#: Environment variable that sets another limit.
MAX_PIXELS_VARIABLE = "DETRKIT_MAX_PIXELS"

#: Damaged files make readers raise about anything.
READER_ERRORS = (
    OSError,
    ValueError,
    SyntaxError,
    TypeError,
    KeyError,
    IndexError,
    AttributeError,
    OverflowError,
    EOFError,
    NotImplementedError,
    ZeroDivisionError,
    MemoryError,
    struct.error,
    Image.DecompressionBombError,
)

_AVIF = {"avif", "avis"}
_HEIF = {"heic", "heix", "heim", "heis", "hevc", "hevx", "mif1", "msf1"}


def max_pixels() -> int:
    """The largest image that is read, in pixels.

    Raises:
        UsageError: `DETRKIT_MAX_PIXELS` is no number.
    """
    text = os.environ.get(MAX_PIXELS_VARIABLE)
    if not text:
        return MAX_PIXELS
    if not text.isdigit() or not int(text):
        raise UsageError(f"{MAX_PIXELS_VARIABLE} must be a number of pixels, got {text!r}")
    return int(text)


def refuse_bomb(path: ImageFile, height: int, width: int, bands: int = 3) -> None:
    """Raises where the picture is larger than `max_pixels`; more than three bands count in thirds.

    Raises:
        TooManyPixels: it is.
    """
    if height * width * max(bands / 3, 1) > max_pixels():
        raise _bomb(path)


def _bomb(path: ImageFile) -> TooManyPixels:
    return TooManyPixels(
        f"{path}: declares more than {max_pixels():,} pixels, not decoded",
        hint=f"cut the picture into tiles, or set {MAX_PIXELS_VARIABLE} to a larger number",
    )


def unreadable(path: ImageFile, error: BaseException) -> DataError:
    """The error for a file that made a reader raise `error`."""
    if isinstance(error, FileNotFoundError):
        return DataError(f"{path}: file not found")
    if isinstance(error, Image.DecompressionBombError):
        return _bomb(path)
    if isinstance(error, MemoryError):
        return DataError(f"{path}: does not fit into the memory that is left")
    if is_empty(path):
        return DataError(f"{path}: the file is empty")
    if isinstance(error, UnidentifiedImageError):
        kind = _kind_without_reader(path)
        if kind is not None:
            return DataError(f"{path}: {kind[0]}", hint=kind[1])
        return DataError(f"{path}: not an image, or damaged at its start")
    return DataError(f"{path}: damaged image ({error or type(error).__name__})")


def _kind_without_reader(path: ImageFile) -> tuple[str, str] | None:
    """What is said about, and what helps with, files that are images, but not to this Pillow."""
    if is_heif(path):
        return (
            "a HEIC picture, which Pillow does not read by itself",
            "pip install pillow-heif, or convert it to JPEG",
        )
    if _brands(path) & _AVIF:
        return "an AVIF picture, which this Pillow does not read", "pip install --upgrade pillow"
    return None


def is_heif(path: ImageFile) -> bool:
    """Whether the file is a HEIC or HEIF picture, by its first bytes."""
    brands = _brands(path)
    return bool(brands & _HEIF) and not brands & _AVIF


def _brands(path: ImageFile) -> set[str]:
    """Kinds that an ISO media file (HEIC, AVIF, MP4) says it belongs to; none of other files."""
    with opened(path) as file:
        start = file.read(128)
    if start[4:8] != b"ftyp":
        return set()
    end = min(int.from_bytes(start[:4], "big"), len(start))
    return {start[i : i + 4].decode("latin-1") for i in (8, *range(16, end, 4))}
