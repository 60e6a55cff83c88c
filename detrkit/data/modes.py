"""From Pillow's pictures of all modes to pixels. The rules stand in `detrkit.data.images`."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from PIL import Image

from detrkit.data.bands import Bands, WrongBands
from detrkit.data.image_bytes import ImageFile

_ORIENTATION = 0x0112  # EXIF tag


def from_pillow(
    image: Image.Image, channels: int | None = 3, name: ImageFile = "the picture"
) -> Bands:
    """Pixels of a picture; its EXIF orientation is not applied.

    Args:
        image: of any mode.
        channels: as for `read_image`.
        name: of the file, for messages.

    Returns:
        (H, W, C): uint8; or float32 on the same scale of 0–255 for one channel with more than 8
        bits.

    Raises:
        WrongBands: it has not so many bands.
        ValueError: its mode cannot be converted, or it holds floats that are no picture.
    """
    if channels in (None, 1) and _is_deep(image):
        return _deep(image).astype(np.float32)[..., None]
    if channels in (None, 3):
        return _as_rgb(image)
    if channels == 1:
        return np.array(image.convert("L"))[..., None]
    if image.mode in ("LA", "RGBA") and len(image.getbands()) == channels:
        return np.array(image)
    raise WrongBands(name, f"pixels of mode {image.mode}", channels)


def _as_rgb(image: Image.Image) -> npt.NDArray[np.uint8]:
    """uint8 (H, W, 3)."""
    if not _is_deep(image):
        return np.array(image.convert("RGB"))
    gray = _deep(image)
    if image.mode == "F" and gray.max(initial=0) > 2 * 255:
        raise ValueError(
            f"floats of up to {gray.max() / 255:g}, where 1 is white; in_channels: 1 takes them"
        )
    levels = gray.clip(0, 255).round().astype(np.uint8)
    return np.repeat(levels[..., None], 3, axis=2)


def _is_deep(image: Image.Image) -> bool:
    """Whether it is gray with 16 or 32 bits per pixel."""
    return image.mode.startswith(("I", "F"))


def _deep(image: Image.Image) -> npt.NDArray[np.float64]:
    """Gray values (H, W) on a scale of 0–255, beyond that where the file has such."""
    gray = np.asarray(image).astype(np.float64)
    gray = gray * 255 if image.mode == "F" else gray / 257  # 65535 -> 255
    return np.nan_to_num(gray, nan=0.0, posinf=0.0, neginf=0.0)


def orientation_of(image: Image.Image) -> int:
    """EXIF orientation, 1–8; 1 where it is damaged."""
    try:
        value = image.getexif().get(_ORIENTATION, 1)
    except Exception:  # Pillow raises many kinds on damaged EXIF, which is not worth an image
        return 1
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def oriented(image: Bands, orientation: int) -> Bands:
    """Stored pixels (H, W, C) turned and mirrored as an EXIF orientation says."""
    if orientation >= 5:
        image = image.transpose(1, 0, 2)
    if orientation in (2, 3, 6, 7):
        image = image[:, ::-1]
    if orientation in (3, 4, 7, 8):
        image = image[::-1]
    return np.ascontiguousarray(image)


def as_stored(image: Bands, orientation: int) -> Bands:
    """Undoes `oriented`."""
    return oriented(image, {6: 8, 8: 6}.get(orientation, orientation))
