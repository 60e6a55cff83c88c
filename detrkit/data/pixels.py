"""Operations on pixels, with OpenCV where it can be imported and without it where it cannot.

OpenCV is several times faster. Yet its usual wheel needs a system library (libGL) that servers
often lack, and which of the two wheels lies on a machine is not ours to say, so nothing here
depends on it: Pillow and torch do the same, within rounding.

All arrays are C-contiguous, (h, w, C): uint8 RGB, which is what is fast; or uint8 or float32 of
any number of bands, on a scale of 0–255.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import PIL
from PIL import Image

from detrkit.data.quiet import quiet_c_stderr
from detrkit.errors import ConfigError

if TYPE_CHECKING:
    from torch import Tensor

    from detrkit.structures import ImageSpec

try:
    import cv2

    HAVE_OPENCV = hasattr(cv2, "IMREAD_COLOR_RGB")  # since 4.11
except ImportError:
    HAVE_OPENCV = False

Pixels = npt.NDArray[Any]

#: What decodes here; others, or other versions, may round differently.
DECODERS = f"Pillow {PIL.__version__}" + (f", OpenCV {cv2.__version__}" if HAVE_OPENCV else "")


def use_one_thread() -> None:
    """For loader workers, each of which would otherwise start a thread per core."""
    import torch

    torch.set_num_threads(1)
    if HAVE_OPENCV:
        cv2.setNumThreads(0)


def decode(data: npt.NDArray[np.uint8], *, apply_exif: bool, gray: bool = False) -> Pixels | None:
    """Decodes a complete JPEG of one or three components, to RGB or to one gray band.

    None when that fails or OpenCV is missing: the caller turns to Pillow then. Damage that the
    decoder repairs is not worth a line on stderr that names no file.
    """
    if not HAVE_OPENCV:
        return None
    flags = cv2.IMREAD_GRAYSCALE if gray else cv2.IMREAD_COLOR_RGB
    try:
        with quiet_c_stderr():
            image = cv2.imdecode(data, flags | (0 if apply_exif else cv2.IMREAD_IGNORE_ORIENTATION))
    except cv2.error:
        return None
    return _array(image[..., None] if gray and image is not None else image)


def affine(pixels: Pixels, matrix: npt.NDArray[np.float32]) -> Pixels:
    """Each RGB pixel times a (3, 4) matrix, rounded and clipped."""
    if HAVE_OPENCV:
        return _array(cv2.transform(pixels, matrix))
    values = tuple(float(v) for v in matrix.ravel())
    return np.array(Image.fromarray(pixels).convert("RGB", values))


def gain(pixels: Pixels, factor: float, offset: npt.NDArray[np.floating]) -> Pixels:
    """Each band times `factor` plus its offset; bytes are rounded and clipped."""
    values = pixels * np.float32(factor) + offset.astype(np.float32)
    return values if pixels.dtype != np.uint8 else values.round().clip(0, 255).astype(np.uint8)


def turn_hue(pixels: Pixels, shift: int) -> Pixels:
    """Hue of RGB moved by `shift` 256ths of the colour circle, in place of a float computation."""
    amount = np.uint8(shift % 256)
    if HAVE_OPENCV:
        hsv = _array(cv2.cvtColor(pixels, cv2.COLOR_RGB2HSV_FULL))
        hsv[..., 0] += amount  # wraps around, as hues do
        return _array(cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB_FULL, dst=hsv))
    hsv = np.array(Image.fromarray(pixels).convert("HSV"))
    hsv[..., 0] += amount
    return np.array(Image.fromarray(hsv, "HSV").convert("RGB"))


def mean_luma(pixels: Pixels) -> float:
    """Mean of 0.299 R + 0.587 G + 0.114 B."""
    if HAVE_OPENCV:
        return float(cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY).mean())
    return float(np.asarray(Image.fromarray(pixels).convert("L")).mean())


def mirror(pixels: Pixels) -> Pixels:
    """Left and right exchanged."""
    if _fast(pixels):
        return _array(cv2.flip(pixels, 1)).reshape(pixels.shape)
    return np.ascontiguousarray(pixels[:, ::-1])


def warp(
    pixels: Pixels,
    backwards: npt.NDArray[np.float64],
    size: tuple[int, int],
    fill: Sequence[int],
) -> Pixels:
    """An affine change of place, bilinear.

    Args:
        pixels: the source.
        backwards: (2, 3), takes points of the output to points of the source; pixel (i, j) covers
            i to i + 1 and j to j + 1.
        size: (h, w) of the output.
        fill: 0-255 where the source does not reach, one value or one per band.
    """
    fill = filled(fill, pixels.shape[2])
    if pixels.shape[2] == 3 and pixels.dtype == np.uint8:
        return _warp(pixels, backwards, size, fill)
    bands = np.moveaxis(pixels, -1, 0)
    return np.stack(
        [
            _warp(np.ascontiguousarray(band), backwards, size, value)
            for band, value in zip(bands, fill, strict=True)
        ],
        axis=-1,
    )


def _warp(
    pixels: Pixels,
    backwards: npt.NDArray[np.float64],
    size: tuple[int, int],
    fill: tuple[int, ...] | int,
) -> Pixels:
    """RGB (h, w, 3), or one band (h, w)."""
    if HAVE_OPENCV:
        centres = backwards.copy()  # OpenCV counts from the middle of the first pixel
        centres[:, 2] += backwards[:, :2].sum(1) / 2 - 0.5
        flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        return _array(cv2.warpAffine(pixels, centres, size[::-1], flags=flags, borderValue=fill))
    image = Image.fromarray(pixels).transform(
        size[::-1],
        Image.Transform.AFFINE,
        tuple(float(v) for v in backwards.ravel()),
        Image.Resampling.BILINEAR,
        fillcolor=fill,
    )
    return np.array(image)


def filled(fill: Sequence[int], bands: int) -> tuple[int, ...]:
    """A value for each band, of one for all or one for each.

    Raises:
        ConfigError: there are neither.
    """
    if len(fill) not in (1, bands):
        raise ConfigError(
            f"a fill of {len(fill)} values for images of {bands} channels",
            hint="give one value, or one per channel",
        )
    return tuple(fill) * (bands // len(fill))


def blend(first: Pixels, second: Pixels, share: float) -> Pixels:
    """`share` of the first and the rest of the second; bytes are rounded."""
    if _fast(first):
        mixed = _array(cv2.addWeighted(first, share, second, 1 - share, 0))
        return mixed.reshape(first.shape)
    mixed = first * np.float32(share) + second * np.float32(1 - share)
    return mixed if first.dtype != np.uint8 else (mixed + np.float32(0.5)).astype(np.uint8)


def nearest(pixels: Pixels, size: tuple[int, int]) -> Pixels:
    """Resized to (h, w) by taking the nearest pixel above and to the left."""
    if _fast(pixels):
        small = _array(cv2.resize(pixels, size[::-1], interpolation=cv2.INTER_NEAREST))
        return small.reshape(*size, pixels.shape[2])
    rows, columns = (np.arange(n) * old // n for n, old in zip(size, pixels.shape, strict=False))
    return np.ascontiguousarray(pixels[rows][:, columns])


def normalized(batch: Tensor, spec: ImageSpec) -> Tensor:
    """(B, h, w, C) -> float32 (B, C, h, w), equal to `spec.normalized` bit by bit."""
    import torch

    if batch.dtype != torch.uint8 or not _fast(batch.numpy()):
        return spec.normalized(batch.permute(0, 3, 1, 2).contiguous())
    # Two passes in place of four: separate the channels, then look up each byte's value.
    count, height, width, bands = batch.shape
    tables = spec.normalized(torch.arange(256, dtype=torch.uint8).expand(bands, 1, 256)).numpy()
    # NumPy asks for huge pages: a batch of 100 MB takes a third of the time to fill
    images = np.empty((count, bands, height, width), np.float32)
    planes = np.empty((bands, height, width), np.uint8)
    for source, image in zip(batch.numpy(), images, strict=True):
        cv2.split(source, list(planes))
        for plane, table, out in zip(planes, tables, image, strict=True):
            cv2.LUT(plane, table, dst=out)
    return torch.from_numpy(images)


def _fast(pixels: Pixels) -> bool:
    """Whether OpenCV is there and takes so many bands (some versions take 128, others 512)."""
    return HAVE_OPENCV and pixels.shape[-1] <= 64


def _array(result: Any) -> Pixels:
    """OpenCV's results are typed as any kind of number."""
    return result
