"""Reading image files: one rule for each kind, the same in training, evaluation and inference.

A detector of three channels gets uint8 RGB; one of one channel gets gray, with all the bits of
the file; one of C channels gets the C bands of a file that has as many (`detrkit.data.bands`).
The kind is told by the content: the ending of the name does not count. A file that cannot be read
as below is a `DataError` that names it and the reason.

    colour JPEG, PNG, WebP, BMP, …  as they are
    gray, 1 bit                     gray; three equal channels for RGB
    palette                         the colours of the palette
    alpha, transparent colours      dropped, not composited: the colours below are used, as the
                                    authors' code (Pillow's `convert("RGB")`) and OpenCV do. For
                                    four channels RGBA gives its four bands, for two gray + alpha
    CMYK, YCCK (JPEG, TIFF)         converted to RGB without a profile; JPEG's values are taken
                                    as inverted, as Adobe writes them, whether marked so or not
    colour profiles (ICC)           ignored: values as stored, as in the authors' code
    16 bits, gray or RGB            65535 is white: scaled to 8 bits; gray for one channel keeps 16
    32-bit integers (TIFF)          taken for 16 bits: 65535 is white
    floats (TIFF)                   1 is white, clipped to 0–1; values above 2 are no picture and
                                    refused, but for one channel, which takes every value
    EXIF orientation                applied, unless the annotations fit the stored pixels
                                    (`EXIF_ROTATION` of the fault report); damaged EXIF is ignored
    animated GIF, WebP, APNG        the first frame
    TIFF of several pages           the first page; or the pages as bands, where the model takes
                                    as many channels
    TIFF of several bands           three as RGB, else as many as the model takes channels; needs
                                    the extra `multiband` (Pillow and OpenCV read few of them)
    .npy                            see `detrkit.data.bands`; a `.npy` beside a picture of the
                                    same name is a cache of it and is not listed
    AVIF                            where Pillow has it (11.3 and later do)
    HEIC, HEIF                      where the package pillow-heif is installed; else refused
    more than 178,956,970 pixels    refused before decoding (a "decompression bomb"); the
                                    environment variable `DETRKIT_MAX_PIXELS` sets another limit
    truncated, damaged              refused, never filled up with gray
    empty file                      refused
    wrong ending                    read as what it is

JPEG goes straight to libjpeg-turbo, about twice as fast as through Pillow, once its header
proves that it is an ordinary and complete one. All other pictures go through Pillow.
"""

from __future__ import annotations

import struct
import warnings
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import PIL
from PIL import Image, UnidentifiedImageError
from PIL.TiffImagePlugin import IMAGELENGTH, IMAGEWIDTH, TiffImageFile

from detrkit.data import pixels
from detrkit.data.bands import (
    NPY,
    TIFF,
    Bands,
    fitted,
    npy_size,
    read_npy,
    read_tiff,
    tiff_header,
)
from detrkit.data.image_bytes import PILLOW_FORMATS, ImageBytes, ImageFile, opened
from detrkit.data.modes import as_stored, from_pillow, orientation_of, oriented
from detrkit.data.unreadable import (
    MAX_PIXELS,
    READER_ERRORS,
    is_heif,
    max_pixels,
    refuse_bomb,
    unreadable,
)
from detrkit.errors import DataError, MissingExtraError

if TYPE_CHECKING:
    from torch import Tensor

#: Endings of files that are taken for images when a folder is listed; lower case.
IMAGE_SUFFIXES = frozenset(
    f".{ending}"
    for ending in (
        *("jpg", "jpeg", "jpe", "jfif", "png", "bmp", "dib", "gif", "webp", "tif", "tiff"),
        *("avif", "heic", "heif", "jp2", "j2k", "ppm", "pgm", "pbm", "tga", "ico", "npy"),
    )
)

#: Channels for which any picture can be read.
_PICTURE = (None, 1, 3)


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


def readers() -> dict[str, object]:
    """All that decides, besides their content, which files can be read; for what is kept."""
    return {
        "pillow": PIL.__version__,
        "pillow_heif": find_spec("pillow_heif") is not None,
        "tifffile": find_spec("tifffile") is not None,
        "max_pixels": max_pixels(),
    }


def read_header(path: ImageFile) -> ImageHeader:
    """Size and orientation, without decoding the pixels.

    Raises:
        DataError: the file is missing, not an image, or larger than `max_pixels`.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # damaged EXIF, large pictures
        try:
            header = _header(path)
        except READER_ERRORS as error:
            raise unreadable(path, error) from error
        except MissingExtraError as error:
            raise DataError(f"{path}: {error.message}", hint=error.hint) from error
    refuse_bomb(path, *header.size)
    return header


def _header(path: ImageFile) -> ImageHeader:
    try:
        with _opened(path) as image:
            size = image.height, image.width
            if isinstance(image, TiffImageFile):  # whose size is that of the turned picture
                size = image.tag_v2[IMAGELENGTH], image.tag_v2[IMAGEWIDTH]
            return ImageHeader(size, orientation_of(image))
    except UnidentifiedImageError:
        with opened(path) as file:
            start = file.read(1 << 17)
        if start.startswith(NPY):
            return ImageHeader(npy_size(start)[:2])
        if start.startswith(TIFF):
            return ImageHeader(*tiff_header(path))
        raise


def read_image(path: ImageFile, *, apply_exif: bool = True, channels: int | None = 3) -> Tensor:
    """Reads an image file of any kind, as the table above says.

    Args:
        path: the file, or its content as `ImageBytes`.
        apply_exif: turn and mirror the pixels as the EXIF orientation says.
        channels: C, how many the model takes: 3 for RGB, 1 for gray, another number for files
            with as many bands. None, for looking at it: RGB for pictures, one band for gray of
            more than 8 bits, all bands of arrays.

    Returns:
        (C, H, W), in memory the channels come last, as decoders and resizing like it. uint8; or
        float32 on the same scale of 0–255 for what has more than 8 bits, which for three channels
        are arrays only (`.npy`, TIFF that Pillow does not know).

    Raises:
        DataError: the file is missing, truncated, corrupt, not an image, or larger than
            `max_pixels`.
        WrongBands: a `DataError`: it has not the bands that the model takes.
        MissingExtraError: a TIFF, other than 1 or 3 channels, and tifffile is not installed.
    """
    import torch  # not needed for reading annotations

    try:
        if isinstance(path, ImageBytes):
            data = np.frombuffer(path.content, np.uint8)
        else:
            data = np.fromfile(path, np.uint8)
    except (OSError, ValueError) as error:
        raise unreadable(path, error) from error
    image = _decode_jpeg(path, data, apply_exif, channels)
    if image is None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                image = _decode_any(path, data, apply_exif, channels)
            except READER_ERRORS as error:
                raise unreadable(path, error) from error
            except MissingExtraError as error:
                if channels not in _PICTURE:
                    raise
                raise DataError(f"{path}: {error.message}", hint=error.hint) from error
    return torch.from_numpy(image).permute(2, 0, 1)


def _decode_jpeg(
    path: ImageFile, data: npt.NDArray[np.uint8], apply_exif: bool, channels: int | None
) -> npt.NDArray[np.uint8] | None:
    """Pixels (H, W, C) of an ordinary complete JPEG; None for everything else."""
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
    # CMYK: Pillow knows Adobe's inversion
    if components not in (1, 3) or channels not in _PICTURE:
        return None
    if channels == 1 and components == 3:  # Pillow's gray is made of RGB, libjpeg's is not
        return None
    refuse_bomb(path, height, width)
    return pixels.decode(data, apply_exif=apply_exif, gray=channels == 1)


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


def _decode_any(
    path: ImageFile, data: npt.NDArray[np.uint8], apply_exif: bool, channels: int | None
) -> Bands:
    """Pixels (H, W, C) of what is no ordinary JPEG."""
    start = data[:8].tobytes()
    if start.startswith(NPY):
        refuse_bomb(path, *npy_size(data[: 1 << 17].tobytes()))
        return fitted(path, read_npy(data), channels)
    is_tiff = start.startswith(TIFF)
    if is_tiff and channels not in _PICTURE:
        return _decode_tiff(path, apply_exif, channels)
    try:
        with _opened(path) as image:
            refuse_bomb(path, image.height, image.width)
            orientation = orientation_of(image)
            image.load()
    except (UnidentifiedImageError, ValueError):  # of what Pillow does not know
        if is_tiff:
            return _decode_tiff(path, apply_exif, channels)
        raise
    found = from_pillow(image, channels, path)
    if is_tiff == apply_exif:  # Pillow has turned TIFF, and nothing else
        return found
    return oriented(found, orientation) if apply_exif else as_stored(found, orientation)


def _decode_tiff(path: ImageFile, apply_exif: bool, channels: int | None) -> Bands:
    found, orientation = read_tiff(path, channels, 3 * max_pixels())
    return oriented(found, orientation) if apply_exif else found


def _opened(path: ImageFile) -> Image.Image:
    """The file in Pillow, with the reader of HEIC if there is one."""
    if max_pixels() > MAX_PIXELS and Image.MAX_IMAGE_PIXELS is not None:
        # Pillow's own guard refuses twice this number
        Image.MAX_IMAGE_PIXELS = max(Image.MAX_IMAGE_PIXELS, max_pixels())
    try:
        return _open(path)
    except UnidentifiedImageError:
        if not (is_heif(path) and _register_heif()):
            raise
        return _open(path)


def _open(path: ImageFile) -> Image.Image:
    if isinstance(path, ImageBytes):
        return Image.open(opened(path), formats=[f for f in PILLOW_FORMATS if _is_known(f)])
    return Image.open(path)


def _is_known(kind: str) -> bool:
    """Whether this Pillow has a reader of that name."""
    Image.init()
    return kind in Image.OPEN


def _register_heif() -> bool:
    """Teaches Pillow HEIC, where the package is there that can do that."""
    try:
        import pillow_heif
    except ImportError:
        return False
    pillow_heif.register_heif_opener()
    return True
