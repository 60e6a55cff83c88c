"""Pictures of any number of bands: NumPy's `.npy` files and TIFF.

Which axis counts the bands follows from the shape alone, so that whoever reads a file finds the
same height and width:

    (H, W)       one band
    (H, W, C)    C bands; also where H and C are equal
    (C, H, W)    where the first axis is the shorter one of first and last; so a picture must not
                 have more bands than rows or columns

How values become pixels follows from their type alone, never from the content of one file: two
pictures of one camera must stay comparable. Pixels are on a scale of 0–255, so that colours to
fill with, mean and deviation mean the same for every picture; uint8 stays, all else is float32:

    uint8                     as it is
    bool                      0 and 255
    uint16, uint32, uint64    255 for the largest value of the type
    int8 … int64, float       times 255: the model's input is the value itself, 0–1 or not

NaN and infinities, which mark missing data, become 0.
"""

from __future__ import annotations

import io
import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt

from detrkit.data.image_bytes import ImageBytes, ImageFile, opened
from detrkit.errors import DataError, MissingExtraError

#: First bytes of a `.npy` file.
NPY = b"\x93NUMPY"
#: First bytes of TIFF and BigTIFF, little and big end first.
TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")

#: uint8 or float32 (H, W, C), on a scale of 0–255.
Bands = npt.NDArray[Any]


class WrongBands(DataError):
    """A picture has another number of bands than the model takes channels."""

    def __init__(self, path: ImageFile, found: str, channels: int) -> None:
        wanted = "1 channel" if channels == 1 else f"{channels} channels"
        super().__init__(
            f"{path}: has {found}, but the model takes {wanted}",
            hint="train with as many as the pictures have: in_channels in the configuration, "
            "or --update in_channels=N",
        )


def hwc(shape: tuple[int, ...]) -> tuple[int, int, int]:
    """Height, width and bands of an array of `shape`.

    Raises:
        ValueError: it has other than two or three axes, or an empty one.
    """
    if len(shape) not in (2, 3) or not all(shape):
        raise ValueError(f"an array of shape {shape} is no picture")
    if len(shape) == 2:
        return shape[0], shape[1], 1
    first, middle, last = shape
    return (middle, last, first) if first < last else (first, middle, last)


def bands_last(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """(H, W), (H, W, C) or (C, H, W) -> a view (H, W, C).

    Raises:
        ValueError: as `hwc`.
    """
    size = hwc(array.shape)
    if array.ndim == 2:
        return array[..., None]
    return array if array.shape == size else np.moveaxis(array, 0, -1)


def as_pixels(array: npt.NDArray[Any]) -> Bands:
    """Values of any type -> a new array of pixels, uint8 or float32 on a scale of 0–255.

    Raises:
        ValueError: complex numbers, text, records.
    """
    kind = array.dtype.kind
    if array.dtype == np.uint8:
        return np.array(array, order="C")
    if kind == "b":
        return np.array(array, np.uint8, order="C") * np.uint8(255)
    if kind not in "uif":
        raise ValueError(f"values of type {array.dtype} are no pixels")
    factor = 255 / np.iinfo(array.dtype).max if kind == "u" else 255.0
    with np.errstate(over="ignore", invalid="ignore"):
        pixels = np.array(array, np.float32, order="C")
        pixels *= np.float32(factor)
    return np.nan_to_num(pixels, copy=False, nan=0.0, posinf=0.0, neginf=0.0)


def fitted(path: ImageFile, pixels: Bands, channels: int | None) -> Bands:
    """The bands that a model of so many channels takes; one band serves as gray for three.

    Raises:
        WrongBands: there are more or fewer.
    """
    found = pixels.shape[2]
    if channels in (None, found):
        return pixels
    if (found, channels) == (1, 3):
        return np.repeat(pixels, 3, axis=2)
    raise WrongBands(path, _count(found, "band"), channels)


def npy_size(data: bytes) -> tuple[int, int, int]:
    """Height, width and bands of a `.npy` file, from its first 128 KB.

    Raises:
        ValueError: damaged, or no picture.
    """
    shape, _, _, _ = _npy_header(data)
    return hwc(shape)


def read_npy(data: npt.NDArray[np.uint8]) -> Bands:
    """Pixels (H, W, C) of a `.npy` file, given its bytes.

    Raises:
        ValueError: damaged, truncated, or no picture.
    """
    shape, fortran, dtype, start = _npy_header(data[: 1 << 17].tobytes())
    hwc(shape)
    if dtype.hasobject:
        raise ValueError("it holds Python objects, which detrkit does not run")
    count = math.prod(shape)
    if len(data) - start < count * dtype.itemsize:
        raise ValueError(f"truncated: {len(data) - start} of {count * dtype.itemsize} bytes")
    values = np.frombuffer(data, dtype, count, start)
    return as_pixels(bands_last(values.reshape(shape, order="F" if fortran else "C")))


def _npy_header(data: bytes) -> tuple[tuple[int, ...], bool, np.dtype[Any], int]:
    """Shape, whether the first axis runs fastest, type, and where the values start."""
    file = io.BytesIO(data)
    version = np.lib.format.read_magic(file)
    if version == (1, 0):
        header = np.lib.format.read_array_header_1_0(file)
    elif version == (2, 0):
        header = np.lib.format.read_array_header_2_0(file)
    else:
        raise ValueError(f"of version {version} of the format, which only records need")
    return (*header, file.tell())


def tiff_header(path: ImageFile) -> tuple[tuple[int, int], int]:
    """(h, w) of the stored pixels, and orientation, of a TIFF that Pillow does not know.

    Raises:
        MissingExtraError: tifffile is not installed.
        ValueError: damaged.
    """
    with _opened(path) as file:
        return _size(file.pages[0]), _orientation(file.pages[0])


def read_tiff(path: ImageFile, channels: int | None, limit: int) -> tuple[Bands, int]:
    """Pixels (H, W, C) of a TIFF as stored, and their orientation: the bands of its first page.

    Where that has one band and the file has `channels` pages of that size, these are the bands.

    Args:
        path: the file.
        channels: bands that are wanted; None: those of the first page.
        limit: largest number of values.

    Raises:
        MissingExtraError: tifffile, or imagecodecs for its kind of compression, is not installed.
        WrongBands: it has more or fewer bands.
        ValueError: damaged, or it holds more values than `limit`, or they are no pixels.
    """
    with _opened(path) as file:
        pages = [file.pages[0]]
        count = int(pages[0].samplesperpixel)
        if count == 1 and channels not in (None, 1, 3) and len(file.pages) == channels:
            pages = list(file.pages)
        elif channels is not None and count != channels and (count, channels) != (1, 3):
            found = _count(count, "band")
            if len(file.pages) > 1:
                found += f" on each of {len(file.pages)} pages"
            raise WrongBands(path, found, channels)
        size = _size(pages[0])
        if any((_size(page), page.samplesperpixel) != (size, count) for page in pages):
            raise ValueError("its pages differ in size")
        if math.prod(size) * count * len(pages) > limit:
            raise ValueError(f"declares more than {limit:,} values, not decoded")
        orientation = _orientation(pages[0])
        bands = [_page(page) for page in pages]
    return fitted(path, as_pixels(np.concatenate(bands, axis=2)), channels), orientation


def _page(page: Any) -> npt.NDArray[Any]:
    """Values (H, W, C) of one page."""
    try:
        values = page.asarray()
    except ValueError as error:
        if "imagecodecs" in str(error):
            raise MissingExtraError(
                "imagecodecs", "multiband", f"a TIFF with {page.compression.name} compression"
            ) from error
        raise
    if values.ndim == 2:
        return np.asarray(values)[..., None]
    return np.moveaxis(values, 0, -1) if page.axes.startswith("S") else np.asarray(values)


def _size(page: Any) -> tuple[int, int]:
    return int(page.imagelength), int(page.imagewidth)


def _orientation(page: Any) -> int:
    tag = page.tags.get("Orientation")
    return int(tag.value) if tag is not None and tag.value in range(1, 9) else 1


@contextmanager
def _opened(path: ImageFile) -> Iterator[Any]:
    """The file in tifffile, whose errors become ValueErrors."""
    try:
        import tifffile
    except ImportError as error:
        raise MissingExtraError("tifffile", "multiband", "a TIFF of several bands") from error
    try:
        with tifffile.TiffFile(opened(path) if isinstance(path, ImageBytes) else path) as file:
            yield file
    except tifffile.TiffFileError as error:
        raise ValueError(str(error)) from error


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"
