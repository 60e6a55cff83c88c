"""Decoded pictures that the processes of a run share, and a folder that keeps them for later runs.

Pixels lie bare, one picture after the other, in a `SharedFile`. In memory the table of what is
where lies in the process; in a folder it is a second file beside the pixels:

    a1b2-77.pixels     pixels as the picture's array has them, (h, w, C)
    a1b2-77.rows       one `ROW` each, written after its pixels

Each run that finds pictures missing adds a pair of files. So nothing is ever overwritten, two
runs may fill a folder at the same time, and what a killed run had finished stays useful. A row
has a checksum of itself and one of its pixels, which are compared once in every process: what a
power cut or a bad disk has spoilt is decoded again and mended.
"""

from __future__ import annotations

import contextlib
import os
import time
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from detrkit.data.faults import FaultKind
from detrkit.data.shared_file import SharedFile

#: One picture of a table.
ROW = np.dtype(
    [
        ("key", "<u8", (2,)),
        ("offset", "<i8"),
        ("scale", "<f8", (2,)),
        ("shape", "<i4", (3,)),
        ("size", "<i4", (2,)),
        ("dtype", "S4"),
        ("pixels", "<u4"),  # checksum of the pixels
        ("fault", "<u4"),  # place in `_FAULTS`
        ("checksum", "<u8"),  # of the row up to here
    ]
)
_WORDS = ROW.itemsize // 8
_FACTORS = np.cumprod(np.full(_WORDS - 1, 0x9E3779B97F4A7C15, np.uint64))

_FAULTS = (None, FaultKind.EXIF_ROTATION, FaultKind.SIZE_MISMATCH)

Rows = npt.NDArray[Any]
#: (N, 2) uint64: which image file as of when, and how it is read; zeros for one that is missing.
Keys = npt.NDArray[np.uint64]


class Picture(NamedTuple):
    """A decoded image.

    Attributes:
        pixels: (C, h, w); in memory the channels come last.
        size: (h, w) of the image file; the pixels may be fewer.
        scale: (x, y), factors from pixels of the data set's index to those of the image file.
        fault: what differs from the index, if anything.
    """

    pixels: Tensor
    size: tuple[int, int]
    scale: tuple[float, float] = (1.0, 1.0)
    fault: FaultKind | None = None

    @property
    def box_scale(self) -> tuple[float, float]:
        """(x, y), factors that take boxes of the index to `pixels`."""
        (h, w), (x, y) = self.size, self.scale
        return x * (self.pixels.shape[-1] / w), y * (self.pixels.shape[-2] / h)


def limited(size: tuple[int, int], max_side: int | None) -> tuple[int, int]:
    """(h, w) of a picture that is shrunk, never enlarged, to at most `max_side` pixels."""
    if max_side is None or max(size) <= max_side:
        return size
    h, w = (max(round(side * max_side / max(size)), 1) for side in size)
    return h, w


class PictureStore:
    """Pictures of a data set by their number. What comes out equals what was put in.

    It is filled by one process and then read by all that it is sent to.

    Args:
        count: images of the data set.
        keys: of the images, where the pictures outlive the run.
    """

    def __init__(self, count: int, keys: Keys | None = None) -> None:
        self._rows: Rows = np.zeros(count, ROW)
        if keys is not None:
            self._rows["key"] = keys
        self._file_of = np.full(count, -1, np.int32)
        self._files: list[SharedFile | None] = []
        self._checked = np.zeros(count, bool)
        self._table: SharedFile | None = None

    def __len__(self) -> int:
        """Pictures that are there."""
        return int((self._file_of >= 0).sum())

    def __contains__(self, number: int) -> bool:
        return bool(self._file_of[number] >= 0)

    @property
    def nbytes(self) -> int:
        """Bytes of the pictures that are there."""
        return int(_nbytes(self._rows[self._file_of >= 0]).sum())

    def missing(self) -> npt.NDArray[np.int64]:
        """Numbers of the images that are not there, ascending."""
        return np.flatnonzero(self._file_of < 0)

    def get(self, number: int) -> Picture | None:
        """A copy of picture `number`; None when it is missing or damaged."""
        place = int(self._file_of[number])
        file = self._files[place] if place >= 0 else None
        if file is None:
            return None
        row = self._rows[number]
        pixels = np.empty(tuple(row["shape"]), np.dtype(row["dtype"].decode("ascii")))
        if not file.read_into(int(row["offset"]), pixels):
            return None
        if not self._checked[number]:
            if zlib.crc32(pixels.data) != row["pixels"]:
                return None
            self._checked[number] = True
        (h, w), (x, y) = row["size"].tolist(), row["scale"].tolist()
        fault = _FAULTS[int(row["fault"])]
        return Picture(torch.from_numpy(pixels).permute(2, 0, 1), (h, w), (x, y), fault)

    def put(self, number: int, picture: Picture) -> int:
        """Adds a picture, from any thread; returns its bytes. `write_to` comes first.

        Raises:
            OSError: the disk is full, …
        """
        pixels = _array(picture)
        file = self._files[-1]
        assert file is not None, "this process only reads"
        row = self._rows[number].copy()
        row["offset"] = file.append(pixels)
        row["shape"], row["dtype"] = pixels.shape, pixels.dtype.str.encode("ascii")
        row["size"], row["scale"] = picture.size, picture.scale
        row["fault"] = _FAULTS.index(picture.fault)
        row["pixels"] = zlib.crc32(pixels.data)
        listed = row.reshape(1)
        listed["checksum"] = _checksums(listed)
        if self._table is not None:
            self._table.append(listed)
        self._rows[number], self._checked[number] = row, True
        self._file_of[number] = len(self._files) - 1
        return pixels.nbytes

    def mend(self, number: int, picture: Picture) -> None:
        """Writes picture `number` again, which `get` found damaged; others are left alone."""
        place = int(self._file_of[number])
        file = self._files[place] if place >= 0 else None
        row, pixels = self._rows[number], _array(picture)
        if file is not None and zlib.crc32(pixels.data) == row["pixels"]:
            with contextlib.suppress(OSError):  # then it is decoded the next time, too
                file.overwrite(int(row["offset"]), pixels)

    def write_to(self, pixels: SharedFile, table: SharedFile | None = None) -> None:
        """Where `put` adds pictures from now on."""
        self._files.append(pixels)
        self._table = table

    def finish(self) -> None:
        """No more pictures come; files that got none are removed."""
        pixels, table, self._table = self._files[-1] if self._files else None, self._table, None
        if pixels is not None and not pixels.size:
            self._files.pop()
            pixels.remove()
            if table is not None:
                table.remove()

    def take(self, pixels: SharedFile, rows: Rows) -> int:
        """Takes over pictures of a file that are missing here; returns how many.

        Args:
            pixels: the file.
            rows: what is in it. Damaged rows are left out.
        """
        whole = (rows["checksum"] == _checksums(rows)) & (rows["key"] != 0).any(1)
        whole &= (rows["offset"] >= 0) & (rows["shape"] > 0).all(1)
        rows = rows[whole]
        rows = rows[rows["offset"] + _nbytes(rows) <= pixels.size]
        if not len(rows):
            return 0
        rows = rows[np.argsort(rows["key"][:, 0], kind="stable")]
        numbers = self.missing()
        keys = self._rows["key"][numbers]
        at = np.searchsorted(rows["key"][:, 0], keys[:, 0]).clip(max=len(rows) - 1)
        hits = (rows["key"][at] == keys).all(1) & (keys != 0).any(1)
        numbers, at = numbers[hits], at[hits]
        self._rows[numbers] = rows[at]
        self._file_of[numbers] = len(self._files)
        self._files.append(pixels)
        return len(numbers)

    def __getstate__(self) -> dict[str, Any]:
        """Other processes read, and check for themselves that they read the right file."""
        return {**self.__dict__, "_table": None, "_checked": np.zeros_like(self._checked)}


def open_folder(folder: Path, keys: Keys) -> PictureStore:
    """The pictures that a folder has.

    Args:
        folder: made if it is not there.
        keys: of the images.

    Raises:
        OSError: it cannot be made or read.
    """
    folder.mkdir(parents=True, exist_ok=True)
    store = PictureStore(len(keys), keys)
    for table in sorted(folder.glob("*.rows")):
        with contextlib.suppress(OSError):  # one that another run takes away
            pixels = SharedFile(table.with_suffix(".pixels"))
            if not store.take(pixels, np.fromfile(table, ROW)):
                pixels.close()
    return store


def new_files(folder: Path) -> tuple[SharedFile, SharedFile]:
    """New files for pixels and their table.

    Raises:
        OSError: they cannot be made.
    """
    name = f"{time.time_ns():x}-{os.getpid()}"
    pixels = SharedFile(folder / f"{name}.pixels", new=True)
    return pixels, SharedFile(folder / f"{name}.rows", new=True)


def _array(picture: Picture) -> npt.NDArray[Any]:
    return np.ascontiguousarray(picture.pixels.permute(1, 2, 0).numpy())


def _nbytes(rows: Rows) -> npt.NDArray[np.int64]:
    kinds: Sequence[bytes] = rows["dtype"].tolist()
    sizes = {kind: _itemsize(kind) for kind in set(kinds)}
    return rows["shape"].prod(1, dtype=np.int64) * np.array([sizes[kind] for kind in kinds], int)


def _itemsize(kind: bytes) -> int:
    return np.dtype(kind.decode("ascii")).itemsize


def _checksums(rows: Rows) -> npt.NDArray[np.uint64]:
    words = np.ascontiguousarray(rows).view("<u8").reshape(len(rows), _WORDS)[:, :-1]
    return (words * _FACTORS).sum(1, dtype=np.uint64) + np.uint64(1)
