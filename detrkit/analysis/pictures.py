"""One pass over the picture files: what can be decoded, and what looks alike."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from detrkit.analysis.hashing import SIDE, perceptual_hash
from detrkit.data.faults import FaultKind, FaultReport
from detrkit.data.images import read_gray
from detrkit.data.index import DatasetIndex
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
    """Decodes every picture, JPEG at an eighth of its size.

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
            return read_gray(index.paths[image], SIDE, apply_exif=bool(index.apply_exif[image]))
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
