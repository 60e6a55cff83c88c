"""Folders that appear complete or not at all."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


@contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """A draft beside `folder` that gets its name in the end, in place of what had it.

    If the block raises, the draft is removed and `folder` is as before.

    Raises:
        OSError: it cannot be written, or what lies there cannot be replaced.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(prefix=f".{folder.name[:80]}-", dir=folder.parent))
    try:
        yield draft
        draft.chmod(0o755)
        if folder.exists():
            remove_folder(folder)
        os.rename(draft, folder)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def remove_folder(folder: Path) -> None:
    """Removes a folder at once, before its content: no one finds half of it."""
    with suppress(OSError):  # in use on Windows, or removed by another process
        doomed = Path(tempfile.mkdtemp(prefix=".removed-", dir=folder.parent))
        with suppress(OSError):
            os.rename(folder, doomed / "content")
        shutil.rmtree(doomed, ignore_errors=True)
