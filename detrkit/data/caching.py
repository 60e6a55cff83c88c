"""Decodes the images of a data set once, before a run: into memory, or into a folder.

A cached picture equals what would be decoded, so no result depends on whether there is a cache.
What does change results is `DetectionDataset.max_side`, which shrinks pictures before anything
else happens to them: smaller pictures take less memory and are faster to augment, crops of them
are less sharp, and objects that become smaller than a pixel are dropped.

Everything is decoded up front, by threads, since decoders let go of Python's lock. That tells in
the beginning whether all fits and how long it takes; and what is then shared between processes
no longer changes.

On a disk, too, pictures lie as bare pixels. Compressing them without loss would cost more time
than the JPEG did: 3.6 ms (zlib) to 7 ms (PNG) for an image of COCO, against 2 ms. So a cache on
disk helps where it is fast (from 1 GB/s for each core), where the system's memory holds most of
it anyway, and with large images that `max_side` shrinks.
"""

from __future__ import annotations

import errno
import hashlib
import logging
import os
import re
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Lock

import numpy as np
import numpy.typing as npt

from detrkit.data import pixels
from detrkit.data.cache import cache_dir
from detrkit.data.dataset import DetectionDataset
from detrkit.data.picture_store import Keys, PictureStore, new_files, open_folder
from detrkit.data.quiet import quiet_c_stderr
from detrkit.data.shared_file import SharedFile
from detrkit.errors import DataError
from detrkit.words import amount

logger = logging.getLogger("detrkit")

#: Called with images done and images to do.
ProgressCallback = Callable[[int, int], None]

#: Raised when folders that older versions filled must not be used.
_VERSION = 1
#: Bytes of pictures that take long enough for a line before they are there.
_WORTH_A_LINE = 1 << 30
#: Images that wait for a thread at a time.
_AT_ONCE = 4096


def picture_bytes(sizes: npt.NDArray[np.int32], max_side: int | None, pixel: int = 3) -> int:
    """Bytes of decoded pictures, from their sizes alone.

    Args:
        sizes: (N, 2), (h, w) of the image files.
        max_side: limit for the longer side.
        pixel: bytes of one.
    """
    sides = sizes.astype(np.float64)
    if max_side is not None:
        longest = sides.max(1, keepdims=True, initial=1)
        sides = np.where(longest > max_side, (sides * max_side / longest).round().clip(1), sides)
    return int(sides.prod(1).sum()) * pixel


def pixel_bytes(dataset: DetectionDataset) -> int:
    """Bytes of a decoded pixel, as the first image that can be read has them.

    One per channel of pictures; four of what has more than 8 bits.
    """
    for number in range(min(len(dataset), 20)):
        with suppress(DataError):
            picture = dataset.decoded(number).pixels
            return picture.shape[0] * picture.element_size()
    return dataset.in_channels


def largest_side(sizes: npt.NDArray[np.int32], room: int, pixel: int = 3) -> int | None:
    """The largest `max_side`, in steps of 32, with which pictures fit into `room` bytes."""
    low, high = 0, int(sizes.max(initial=0)) // 32
    while low < high:
        middle = (low + high + 1) // 2
        if picture_bytes(sizes, middle * 32, pixel) <= room:
            low = middle
        else:
            high = middle - 1
    return low * 32 or None


@dataclass(frozen=True)
class Room:
    """Bytes that a cache may use.

    Attributes:
        free: that there are.
        reserve: of them, for all else.
    """

    free: int
    reserve: int = 0

    @property
    def usable(self) -> int:
        """What is left for pictures."""
        return max(self.free - self.reserve, 0)


@dataclass(frozen=True)
class Filled:
    """What filling a cache came to.

    Attributes:
        images: pictures that are in it now.
        found: how many of them an earlier run had left.
        nbytes: of all of them.
        seconds: that it took.
        reason: why it was stopped early; empty when it was not.
    """

    images: int
    found: int
    nbytes: int
    seconds: float
    reason: str = ""


def cache_in_memory(
    dataset: DetectionDataset,
    room: Room,
    *,
    threads: int,
    progress: ProgressCallback | None = None,
) -> Filled:
    """Decodes all images into memory that loader processes share.

    Args:
        dataset: gets the `store`.
        room: should the annotations give sizes that are too small, it stops there; the other
            images are then decoded when they are needed.
        threads: that decode.
        progress: called after each image.

    Raises:
        DataError: the pictures do not fit.
    """
    store = PictureStore(len(dataset))
    _forecast(dataset, store, room, f"of {amount(room.free)} free memory", "--cache disk")
    store.write_to(SharedFile())
    return _fill(dataset, store, room, threads, progress)


def cache_on_disk(
    dataset: DetectionDataset,
    folder: Path,
    room: Room,
    *,
    threads: int,
    progress: ProgressCallback | None = None,
) -> Filled:
    """Decodes the images that a folder lacks into it.

    Args:
        dataset: gets the `store`.
        folder: of `picture_folder`.
        room, threads, progress: as in `cache_in_memory`.

    Raises:
        DataError: the pictures do not fit, or the folder cannot be made or written.
    """
    try:
        store = open_folder(folder, image_keys(dataset, threads))
        if len(store) < len(dataset):
            where = f"of {amount(room.free)} free in {folder}"
            other = "another folder: --update disk_cache=DIR"
            _forecast(dataset, store, room, where, other)
            store.write_to(*new_files(folder))
    except OSError as error:
        raise DataError(
            f"cannot keep pictures in {folder}: {error.strerror or error}",
            hint="name another folder: --update disk_cache=DIR",
        ) from error
    return _fill(dataset, store, room, threads, progress)


def _forecast(
    dataset: DetectionDataset, store: PictureStore, room: Room, where: str, other: str
) -> None:
    """Says what the missing pictures need, or raises a `DataError` that says what would fit."""
    sizes, missing, pixel = dataset.index.sizes, store.missing(), pixel_bytes(dataset)
    needed = picture_bytes(sizes[missing], dataset.max_side, pixel)
    if needed <= room.usable:
        if needed > _WORTH_A_LINE:
            logger.info("decoding %d images: %s %s", len(missing), amount(needed), where)
        return
    side = largest_side(sizes, room.usable, pixel)
    kept = f", {amount(room.reserve)} of it kept for everything else" if room.reserve else ""
    raise DataError(
        f"{len(missing)} decoded images need {amount(needed)} {where}{kept}",
        hint=f"--cache-size {side} would fit, or {other}" if side else other,
    )


def picture_folder(dataset: DetectionDataset, root: Path | None = None) -> Path:
    """Where the pictures of a data set are kept.

    Args:
        dataset: its source and `max_side` name the folder.
        root: the user's choice; None: `cache_dir() / "pictures"`.
    """
    source = os.path.abspath(dataset.index.source or "data")
    digest = hashlib.sha256(source.encode("utf-8", "surrogateescape")).hexdigest()[:8]
    name = re.sub(r"[^\w.-]+", "_", Path(source).stem) or "data"
    size = "full" if dataset.max_side is None else f"{dataset.max_side}px"
    return (root or cache_dir() / "pictures") / f"{name}-{digest}" / size


def image_keys(dataset: DetectionDataset, threads: int) -> Keys:
    """(N, 2) uint64, of each image file as it is now and of how it is read; 0 for missing ones."""
    how = f"{_VERSION}|{pixels.DECODERS}|{dataset.max_side}|{dataset.in_channels}"
    index = dataset.index

    def key(number: int) -> bytes:
        path = os.path.abspath(index.paths[number])
        try:
            facts = os.stat(path)
        except OSError:
            return bytes(16)
        expected = f"{index.size(number)}|{bool(index.apply_exif[number])}"
        text = f"{how}|{expected}|{facts.st_size}|{facts.st_mtime_ns}|{path}"
        return hashlib.blake2b(text.encode("utf-8", "surrogateescape"), digest_size=16).digest()

    with ThreadPoolExecutor(threads) as pool:  # a file server answers many at once
        found = b"".join(pool.map(key, range(len(dataset))))
    return np.frombuffer(found, "<u8").reshape(-1, 2)


def _fill(
    dataset: DetectionDataset,
    store: PictureStore,
    room: Room,
    threads: int,
    progress: ProgressCallback | None,
) -> Filled:
    """Decodes what is missing in `store`, in the order of the data set, and hands it over."""
    started = time.perf_counter()
    found, numbers = len(store), store.missing().tolist()
    stop: list[str] = []

    used, lock = 0, Lock()

    def decode(number: int) -> None:
        nonlocal used
        if stop:
            return
        try:
            size = store.put(number, dataset.decoded(number))
        except DataError:  # it is reported when training meets it
            return
        except OSError as error:
            stop.append(_why(error))
            return
        with lock:
            used += size
            if used > room.usable:
                stop.append("images are larger than their annotations say")

    done = 0
    try:
        with quiet_c_stderr(), ThreadPoolExecutor(threads) as pool:
            try:
                for start in range(0, len(numbers), _AT_ONCE):
                    for _ in pool.map(decode, numbers[start : start + _AT_ONCE]):
                        done += 1
                        if progress is not None:
                            progress(done, len(numbers))
            except BaseException:
                stop.append("interrupted")  # the pool waits for what its threads have begun
                raise
    finally:
        store.finish()
    dataset.store = store
    seconds = time.perf_counter() - started
    return Filled(len(store), found, store.nbytes, seconds, stop[0] if stop else "")


def _why(error: OSError) -> str:
    full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.ENOMEM)
    return "no space is left" if full else str(error.strerror or error)
