"""Writing files so that a crash or a full disk never leaves half of one behind."""

from __future__ import annotations

import contextlib
import errno
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

from detrkit.errors import DetrkitError


@contextlib.contextmanager
def open_atomically(path: Path) -> Iterator[IO[bytes]]:
    """A temporary file beside `path`, renamed over `path` when the block ends without an error.

    The file is on the disk (fsync) before it gets its name: after a power cut `path` holds either
    the old content or the new.

    Raises:
        DetrkitError: the disk is full, the folder cannot be written, …; `path` is unchanged.
    """
    temporary: Path | None = None
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
    except (OSError, RuntimeError) as error:
        # torch's zip writer turns a failed write into a RuntimeError
        raise cannot_write(path, error) from error
    finally:
        if temporary is not None:
            with contextlib.suppress(OSError):
                temporary.unlink()


def write_atomically(path: Path, write: Callable[[IO[bytes]], object]) -> None:
    """Calls `write` with the file of `open_atomically`.

    Raises:
        DetrkitError: as there.
    """
    with open_atomically(path) as file:
        write(file)


def cannot_write(path: Path, error: BaseException) -> DetrkitError:
    """The error to show when `path` cannot be written."""
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, OSError):
        cause = cause.__cause__ or cause.__context__
    number = cause.errno if isinstance(cause, OSError) else None
    if number in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return DetrkitError(
            f"cannot write {path}: no space left",
            hint="free some space and try again; training continues with `detrkit resume`",
        )
    if number in (errno.EACCES, errno.EPERM, errno.EROFS):
        return DetrkitError(
            f"cannot write {path}: no permission, or a read-only file system",
            hint="choose another place with --output DIR",
        )
    reason = str(cause or error).splitlines()[0] if str(cause or error) else type(error).__name__
    return DetrkitError(f"cannot write {path}: {reason}", hint="check the disk and the path")
