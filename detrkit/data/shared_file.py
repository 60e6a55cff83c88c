"""A file that threads append to and processes read from, in memory or on a disk.

One "in memory" has no name and is gone with the last process that uses it, however that ends. It
does not lie in /dev/shm, so the small limit that containers have there does not count; what it
holds counts as memory of the container. Where the system has no such files (macOS, Windows), it
is a temporary file, which stays in memory as far as there is room.

Reading copies: what comes out is the caller's own, and a damaged disk is an error that can be
handled, where a mapped file would end the process.
"""

from __future__ import annotations

import logging
import os
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

logger = logging.getLogger("detrkit")


class SharedFile:
    """Arrays one after the other. Processes that get it pickled open it again.

    Args:
        path: the file; None makes one in memory.
        new: it must not exist yet; else it must.

    Attributes:
        path: where any process of this machine can open it while this one lives.
        size: bytes written; kept by the process that writes.
    """

    def __init__(self, path: Path | None = None, *, new: bool = False) -> None:
        self._lock = threading.Lock()
        self._temporary = path is None
        self._file: IO[bytes]
        if path is not None:
            self.path = path
            self._file = path.open("x+b", buffering=0) if new else _opened(path)
        elif hasattr(os, "memfd_create"):
            handle = os.memfd_create("detrkit-pictures")
            self.path = Path(f"/proc/{os.getpid()}/fd/{handle}")
            self._file = os.fdopen(handle, "w+b", buffering=0)
        else:
            self._file = tempfile.NamedTemporaryFile(prefix="detrkit-", buffering=0)  # noqa: SIM115
            self.path = Path(self._file.name)
        self.size = os.fstat(self._file.fileno()).st_size

    def append(self, array: npt.NDArray[Any]) -> int:
        """Writes an array behind the last one, from any thread; returns where it begins.

        Raises:
            OSError: the disk is full, …
        """
        with self._lock:
            start = self.size
            self._write(start, array)
            self.size += array.nbytes
            return start

    def overwrite(self, offset: int, array: npt.NDArray[Any]) -> None:
        """Writes an array over what begins at `offset`.

        Raises:
            OSError: the file cannot be written.
        """
        with self._lock:
            self._write(offset, array)

    def _write(self, offset: int, array: npt.NDArray[Any]) -> None:
        data = np.ascontiguousarray(array).reshape(-1).view(np.uint8).data
        self._file.seek(offset)
        while data:
            data = data[self._file.write(data) :]

    def read_into(self, offset: int, array: npt.NDArray[Any]) -> bool:
        """Fills a C-contiguous array with what begins at `offset`; False when that fails."""
        data = array.reshape(-1).view(np.uint8).data
        try:
            while data:
                count = self._read(offset, data)
                if not count:
                    return False
                data, offset = data[count:], offset + count
        except OSError:
            return False
        return True

    def _read(self, offset: int, data: memoryview) -> int:
        if hasattr(os, "preadv"):  # forked processes share the position that `seek` moves
            return os.preadv(self._file.fileno(), [data], offset)
        with self._lock:
            self._file.seek(offset)
            part = self._file.read(len(data))
            data[: len(part)] = part
            return len(part)

    def close(self) -> None:
        """Gives the file up here; other processes keep it."""
        self._file.close()

    def __del__(self) -> None:
        if "_file" in self.__dict__:
            self._file.close()

    def remove(self) -> None:
        """Deletes it."""
        self._file.close()
        if not self._temporary:
            self.path.unlink()

    def __reduce__(self) -> tuple[Callable[..., SharedFile | None], tuple[str, bool]]:
        return _reopened, (str(self.path), self._temporary)


def _opened(path: Path) -> IO[bytes]:
    try:
        return path.open("r+b", buffering=0)
    except OSError:  # reading is enough
        return path.open("rb", buffering=0)


def _memory(path: str) -> IO[bytes]:
    """Memory of another process, for reading: where that path leads on another machine is unknown.

    Windows lets those open a temporary file who agree that it goes with its last user.
    """
    flags = os.O_RDONLY | getattr(os, "O_BINARY", 0) | getattr(os, "O_TEMPORARY", 0)
    return os.fdopen(os.open(path, flags), "rb", buffering=0)


def _reopened(path: str, temporary: bool) -> SharedFile | None:
    """The file in another process; None, and a warning, when it cannot be opened there."""
    file = SharedFile.__new__(SharedFile)
    file._lock, file._temporary, file.path = threading.Lock(), temporary, Path(path)
    try:
        file._file = _memory(path) if temporary else _opened(file.path)
    except OSError as error:
        logger.warning("%s: cannot be opened (%s), images are decoded again", path, error.strerror)
        return None
    file.size = os.fstat(file._file.fileno()).st_size
    return file
