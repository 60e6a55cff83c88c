"""Writing files so that a crash or a full disk never leaves half of one behind."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, TypeVar

from detrkit.errors import DetrkitError
from detrkit.words import amount

log = logging.getLogger("detrkit")

T = TypeVar("T")

#: Seconds before each new attempt at a place that has gone away, see `patiently`.
WAITS = (1.0, 2.0, 4.0, 8.0)

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_FORBIDDEN = (errno.EACCES, errno.EPERM, errno.EROFS)
#: What a network share says while its server is away. Not every system knows all of them.
_AWAY = {
    getattr(errno, name)
    for name in (
        *("ESTALE", "ETIMEDOUT", "ENOTCONN", "ECONNRESET", "ECONNABORTED", "ECONNREFUSED"),
        *("EHOSTDOWN", "EHOSTUNREACH", "ENETDOWN", "ENETUNREACH", "EREMOTEIO"),
    )
    if hasattr(errno, name)
}


@contextlib.contextmanager
def open_atomically(path: Path, *, size: int | None = None) -> Iterator[IO[bytes]]:
    """A temporary file beside `path`, renamed over `path` when the block ends without an error.

    The file is on the disk (fsync) before it gets its name, and its name before this returns:
    after a power cut `path` holds either the old content or the new, and of several files
    written one after another never only the later ones.

    Args:
        path: of the file.
        size: bytes that will be needed, where known; for the message about a full disk.

    Raises:
        DetrkitError: the disk is full, the folder cannot be written, …; `path` is unchanged.
    """
    temporary: Path | None = None
    failed: BaseException | None = None
    try:
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
        temporary = Path(name)
        with os.fdopen(handle, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.chmod(0o644)
        os.replace(temporary, path)
        temporary = None
        _sync_folder(path.parent)
    except (OSError, RuntimeError) as error:
        # torch's zip writer turns a failed write into a RuntimeError
        failed = error
    finally:
        if temporary is not None:
            with contextlib.suppress(OSError):
                temporary.unlink()
    if failed is not None:  # what the half file took is free again, and so counts as room
        raise cannot_write(path, failed, size=size) from failed


def _sync_folder(folder: Path) -> None:
    """Makes the names in a folder durable, where the system can (not on Windows)."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def write_atomically(
    path: Path, write: Callable[[IO[bytes]], object], *, size: int | None = None
) -> None:
    """Calls `write` with the file of `open_atomically`.

    Raises:
        DetrkitError: as there.
    """
    with open_atomically(path, size=size) as file:
        write(file)


def write_bytes(path: Path, content: bytes) -> None:
    """Writes a file, all of it or nothing.

    Raises:
        DetrkitError: as of `open_atomically`.
    """
    with open_atomically(path, size=len(content)) as file:
        file.write(content)


def make_folder(folder: Path) -> Path:
    """Makes a folder, and those above it, where it is not there yet.

    Raises:
        DetrkitError: it cannot be made, or a file is in its place.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise cannot_write(folder, error) from error
    return folder


def remove_leftovers(folder: Path) -> None:
    """Removes the temporary files that processes left which were killed while they wrote.

    Only for a folder in which no other process writes now.
    """
    for leftover in folder.glob(".*.tmp"):
        with contextlib.suppress(OSError):
            leftover.unlink()


def cannot_write(path: Path, error: BaseException, *, size: int | None = None) -> DetrkitError:
    """The error to show when `path` cannot be written.

    Args:
        path: file or folder.
        error: what came of the attempt.
        size: bytes that were needed, where known.
    """
    cause = _system_error(error)
    number = cause.errno if cause is not None else None
    if number in _FULL:
        return DetrkitError(
            f"cannot write {path}: no space left{_room(path, number, size)}",
            hint="free some space and try again; a training continues with `detrkit resume`",
        )
    if number in _FORBIDDEN:
        return DetrkitError(
            f"cannot write {path}: no permission, or a read-only file system",
            hint="mend that, or choose another place with --output DIR",
        )
    if number == errno.ENOENT and not os.path.isdir(path.parent):
        return DetrkitError(
            f"cannot write {path}: there is no folder {path.parent} any more",
            hint="was it removed or renamed, or is its disk or share gone?",
        )
    reason = str(cause or error).splitlines()[0] if str(cause or error) else type(error).__name__
    return DetrkitError(f"cannot write {path}: {reason}", hint="check the disk and the path")


def _room(path: Path, number: int | None, size: int | None) -> str:
    """What is needed and what there is, for a message."""
    needed = f"{amount(size)} are needed" if size else ""
    if number == errno.EDQUOT:
        rest = "your quota is used up"
    elif number == errno.EFBIG:
        rest = "files may not grow that large here"
    else:
        try:
            rest = f"{amount(shutil.disk_usage(path.parent).free)} are free"
        except OSError:
            rest = ""
    found = ", ".join(part for part in (needed, rest) if part)
    return f" ({found})" if found else ""


def patiently(attempt: Callable[[], T], path: str | Path) -> T:
    """Calls `attempt`, again and again for a quarter of a minute while its place has gone away.

    A network share that is remounted or a server that starts again then costs a pause, not a
    run. Gone away means: the folder of `path` cannot be reached, or the system speaks of a
    connection; a file that is missing from its folder is missing.

    Args:
        attempt: reads or writes `path`; its errors have the system's as their cause.
        path: of a file.

    Raises:
        DetrkitError, OSError: of the last attempt.
    """
    for number, seconds in enumerate(WAITS):
        try:
            return attempt()
        except (DetrkitError, OSError) as error:
            if not has_gone(path, error):
                raise
            if number == 0:
                log.warning("%s; trying again for %g s", error, sum(WAITS))
        time.sleep(seconds)
    return attempt()


def has_gone(path: str | Path, error: BaseException) -> bool:
    """Whether `error` says that the place of `path` has gone away, as a network share may."""
    cause = _system_error(error)
    if cause is None:
        return False
    if cause.errno in _AWAY:
        return True
    return not os.path.isdir(os.path.dirname(path) or ".")


def _system_error(error: BaseException) -> OSError | None:
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, OSError):
        cause = cause.__cause__ or cause.__context__
    return cause
