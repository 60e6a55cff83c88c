"""One pass over the picture files: what can be decoded, and what looks alike."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps

from detrkit.analysis.hashing import SIDE, perceptual_hash
from detrkit.data.faults import FaultKind, FaultReport
from detrkit.data.images import read_image
from detrkit.data.index import DatasetIndex
from detrkit.data.unreadable import max_pixels
from detrkit.drawing import viewable
from detrkit.errors import DataError

#: Side of the miniature that is kept of each picture.
MINIATURE = 16
_CHUNK = 512  # pictures between two reports of progress

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class PictureScan:
    """What was seen of N pictures.

    Attributes:
        hashes: (N,) uint64 perceptual hashes; 0 for unreadable ones.
        miniatures: (N, 16, 16) uint8 grey.
        readable: (N,) bool.
        faults: the pictures that cannot be decoded.
    """

    hashes: npt.NDArray[np.uint64]
    miniatures: npt.NDArray[np.uint8]
    readable: npt.NDArray[np.bool_]
    faults: FaultReport


def scan_pictures(index: DatasetIndex, progress: Progress | None = None) -> PictureScan:
    """Decodes every picture, JPEG no larger than needed.

    Args:
        index: which ones.
        progress: called with (done, total).
    """
    total = len(index)
    hashes = np.zeros(total, np.uint64)
    miniatures = np.zeros((total, MINIATURE, MINIATURE), np.uint8)
    readable = np.zeros(total, bool)
    faults = FaultReport()

    def read(image: int) -> npt.NDArray[np.uint8] | DataError:
        try:
            return gray_of(index.paths[image], apply_exif=bool(index.apply_exif[image]))
        except DataError as error:
            return error

    # Pillow decodes without the interpreter's lock. The filters of warnings belong to all threads:
    # they are set once around them.
    with warnings.catch_warnings(), ThreadPoolExecutor(min(os.cpu_count() or 1, 8)) as pool:
        warnings.simplefilter("ignore")
        for start in range(0, total, _CHUNK):
            images = range(start, min(start + _CHUNK, total))
            seen = list(pool.map(read, images))
            good = [i for i, gray in zip(images, seen, strict=True) if isinstance(gray, np.ndarray)]
            for image, error in zip(images, seen, strict=True):
                if isinstance(error, DataError):
                    path = index.paths[image]
                    reason = error.message.removeprefix(f"{path}: ")
                    where = f"image {index.image_id(image)}"
                    missing = not os.path.isfile(path)
                    kind = FaultKind.MISSING_IMAGE if missing else FaultKind.CORRUPT_IMAGE
                    faults.add(kind, path, where, reason)
            if good:
                grays = np.stack([gray for gray in seen if isinstance(gray, np.ndarray)])
                hashes[good] = perceptual_hash(grays)
                cell = SIDE // MINIATURE
                cells = grays.reshape(len(good), MINIATURE, cell, MINIATURE, cell)
                miniatures[good] = cells.mean((2, 4)).round()
                readable[good] = True
            if progress is not None:
                progress(images.stop, total)
    return PictureScan(hashes, miniatures, readable, faults)


def gray_of(path: str, *, apply_exif: bool = True) -> npt.NDArray[np.uint8]:
    """A picture stretched to grey (32, 32).

    Args:
        path: the file.
        apply_exif: turn and mirror the pixels as the EXIF orientation says.

    Raises:
        DataError: it cannot be read.
    """
    picture = _reduced_jpeg(path, apply_exif)
    if picture is None:
        image = viewable(read_image(path, apply_exif=apply_exif, channels=None))
        pixels = image.permute(1, 2, 0).numpy()
        picture = Image.fromarray(np.ascontiguousarray(pixels)).convert("L")
    return np.asarray(picture.resize((SIDE, SIDE), Image.Resampling.BILINEAR))


def _reduced_jpeg(path: str, apply_exif: bool) -> Image.Image | None:
    """The luma of an ordinary JPEG, decoded at half to an eighth of its size; None for others."""
    try:
        with Image.open(path) as image:
            ordinary = image.format == "JPEG" and image.mode in ("L", "RGB")
            if not ordinary or image.width * image.height > max_pixels():
                return None
            image.draft("L", (4 * SIDE, 4 * SIDE))
            image.load()
            return (ImageOps.exif_transpose(image) if apply_exif else image).convert("L")
    except Exception:  # Pillow raises about anything; what is wrong, `read_image` says
        return None
