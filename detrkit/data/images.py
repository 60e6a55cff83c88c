"""Reading image files: any format and mode becomes uint8 RGB (3, H, W), or a `DataError`.

JPEG goes straight to libjpeg-turbo, about twice as fast as through Pillow, once its header
proves that it is an ordinary and complete one. Everything else goes through Pillow.
"""

from __future__ import annotations

import struct
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from detrkit.data import pixels
from detrkit.errors import DataError

#: Larger images are refused: a small file can declare more pixels than the memory holds.
MAX_PIXELS = 178_956_970

#: Endings of files that are taken for images when a folder is listed; lower case.
IMAGE_SUFFIXES = frozenset(
    f".{ending}"
    for ending in (
        *("jpg", "jpeg", "jpe", "jfif", "png", "bmp", "dib", "gif", "webp", "tif", "tiff"),
        *("avif", "jp2", "j2k", "ppm", "pgm", "pbm", "tga", "ico"),
    )
)

_ORIENTATION = 0x0112  # EXIF tag


@dataclass(frozen=True, slots=True)
class ImageHeader:
    """What an image file says about itself.

    Attributes:
        size: (h, w) of the stored pixels.
        orientation: EXIF orientation 1–8; 5–8 swap height and width when applied.
    """

    size: tuple[int, int]
    orientation: int = 1

    @property
    def shown_size(self) -> tuple[int, int]:
        """(h, w) with the orientation applied."""
        return self.size[::-1] if self.orientation >= 5 else self.size


def is_image_file(path: Path) -> bool:
    """Whether the ending is one of an image; hidden files are not."""
    return path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".")


def read_header(path: str | Path) -> ImageHeader:
    """Size and orientation, without decoding the pixels.

    Raises:
        DataError: the file is missing, not an image, or declares more than `MAX_PIXELS` pixels.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # damaged EXIF, large pictures
        try:
            with Image.open(path) as image:
                w, h = image.size
                orientation = _orientation(image)
        except _PILLOW_ERRORS as error:
            raise _unreadable(path, error) from error
    _refuse_bomb(path, h, w)
    return ImageHeader((h, w), orientation)


def read_image(path: str | Path, *, apply_exif: bool = True) -> Tensor:
    """Reads an image file of any format and mode.

    16-bit values are scaled to 8, alpha is dropped, of several frames the first is taken.

    Args:
        path: the file.
        apply_exif: turn and mirror the pixels as the EXIF orientation says.

    Returns:
        uint8 RGB (3, H, W); in memory the channels come last, as decoders and resizing like it.

    Raises:
        DataError: the file is missing, truncated, corrupt, not an image, or declares more than
            `MAX_PIXELS` pixels.
    """
    try:
        data = np.fromfile(path, np.uint8)
    except (OSError, ValueError) as error:
        raise _unreadable(path, error) from error
    image = _decode_jpeg(path, data, apply_exif)
    if image is None:
        image = _decode_any(path, apply_exif)
    return torch.from_numpy(image).permute(2, 0, 1)


def _decode_jpeg(
    path: str | Path, data: npt.NDArray[np.uint8], apply_exif: bool
) -> npt.NDArray[np.uint8] | None:
    """Pixels (H, W, 3) of an ordinary complete JPEG; None for everything else."""
    if len(data) < 4 or data[0] != 0xFF or data[1] != 0xD8:
        return None
    # A file that does not close with the end marker may be truncated, which OpenCV would not
    # say; Pillow is the judge of those.
    if data[-2] != 0xFF or data[-1] != 0xD9:
        return None
    frame = _jpeg_frame(data.data)
    if frame is None:
        return None
    height, width, components = frame
    if components not in (1, 3):  # CMYK: Pillow knows Adobe's inversion
        return None
    _refuse_bomb(path, height, width)
    return pixels.decode(data, apply_exif=apply_exif)


def _jpeg_frame(data: memoryview) -> tuple[int, int, int] | None:
    """(height, width, components) of the first 8-bit frame header, or None."""
    at = 2
    while at + 9 < len(data):
        if data[at] != 0xFF:
            return None
        marker = data[at + 1]
        if marker == 0xFF:  # padding
            at += 1
            continue
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            precision, height, width, components = struct.unpack_from(">BHHB", data, at + 4)
            return (height, width, components) if precision == 8 and height and width else None
        if marker == 0xDA:  # scan data before any frame header
            return None
        at += 2 + struct.unpack_from(">H", data, at + 2)[0]
    return None


def _decode_any(path: str | Path, apply_exif: bool) -> npt.NDArray[np.uint8]:
    """Pixels (H, W, 3) through Pillow."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            with Image.open(path) as image:
                _refuse_bomb(path, image.height, image.width)
                orientation = _orientation(image) if apply_exif else 1
                image.load()
                rgb = _as_rgb(image)
        except _PILLOW_ERRORS as error:
            raise _unreadable(path, error) from error
    return _oriented(rgb, orientation)


def _as_rgb(image: Image.Image) -> npt.NDArray[np.uint8]:
    if image.mode.startswith(("I", "F")):  # 16 or 32 bits per pixel, gray
        gray = np.asarray(image).astype(np.float64)
        if image.mode.startswith("I;16") or (image.mode == "I" and gray.max(initial=0) > 255):
            gray = gray / 257.0  # 65535 -> 255
        elif image.mode == "F" and gray.max(initial=0) <= 1:
            gray = gray * 255
        gray = np.nan_to_num(gray).clip(0, 255).round().astype(np.uint8)
        return np.repeat(gray[..., None], 3, axis=2)
    return np.array(image.convert("RGB"))


def _orientation(image: Image.Image) -> int:
    try:
        value = image.getexif().get(_ORIENTATION, 1)
    except Exception:  # Pillow raises many kinds on damaged EXIF, which is not worth an image
        return 1
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def _oriented(image: npt.NDArray[np.uint8], orientation: int) -> npt.NDArray[np.uint8]:
    """Undoes an EXIF orientation."""
    if orientation >= 5:
        image = image.transpose(1, 0, 2)
    if orientation in (2, 3, 6, 7):
        image = image[:, ::-1]
    if orientation in (3, 4, 7, 8):
        image = image[::-1]
    return np.ascontiguousarray(image)


def _refuse_bomb(path: str | Path, height: int, width: int) -> None:
    if height * width > MAX_PIXELS:
        raise _bomb(path)


def _bomb(path: str | Path) -> DataError:
    return DataError(
        f"{path}: declares more than {MAX_PIXELS:,} pixels, not decoded",
        hint="cut the picture into tiles",
    )


def _unreadable(path: str | Path, error: Exception) -> DataError:
    if isinstance(error, FileNotFoundError):
        return DataError(f"{path}: file not found")
    if isinstance(error, Image.DecompressionBombError):
        return _bomb(path)
    if Path(path).is_file() and not Path(path).stat().st_size:
        return DataError(f"{path}: the file is empty")
    if isinstance(error, UnidentifiedImageError):
        return DataError(f"{path}: not an image, or damaged at its start")
    return DataError(f"{path}: damaged image ({error or type(error).__name__})")


# Damaged files make Pillow's readers raise about anything.
_PILLOW_ERRORS = (
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
    struct.error,
    Image.DecompressionBombError,
)
