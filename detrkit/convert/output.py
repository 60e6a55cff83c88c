"""Folders that appear as a whole or not at all, and never over someone's data."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from detrkit.errors import UsageError
from detrkit.files import cannot_write


def refuse_to_replace(
    folder: Path, parts: Sequence[str], *, force: bool, sources: Iterable[Path]
) -> None:
    """Stops where a result would replace what it must not; parameters as of `staged`.

    Raises:
        UsageError: one of `parts` is there without `force`, or would replace a source.
    """
    present = [part for part in parts if _holds_anything(folder / part)]
    if present and not force:
        raise UsageError(
            f"{folder}: already holds {', '.join(f'`{part}`' for part in present)}",
            hint="choose another --output, or replace it with --force",
        )
    targets = [os.path.realpath(folder / part) for part in present]
    for source in sources if targets else ():
        path = os.path.realpath(source)
        if any(path == target or path.startswith(target + os.sep) for target in targets):
            raise UsageError(
                f"{folder}: the result would replace {source}, which it is made of",
                hint="choose another --output",
            )


@contextlib.contextmanager
def staged(
    folder: Path, parts: Sequence[str], *, force: bool, sources: Iterable[Path]
) -> Iterator[Path]:
    """A new folder; when the block ends, its `parts` move to `folder`, in their order.

    They replace what is there. A process that is killed in between leaves a hidden folder
    `.detrkit-…` and nothing else.

    Args:
        folder: made if it is missing.
        parts: files and folders of the result, `/` between; those that the block did not write
            are removed from `folder` as well, as they belonged to a former result.
        force: replace what is there.
        sources: files that the block reads; none may be replaced.

    Raises:
        UsageError: as in `refuse_to_replace`.
        DetrkitError: the folder cannot be written.
    """
    refuse_to_replace(folder, parts, force=force, sources=sources)
    stage: Path | None = None
    try:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            stage = Path(tempfile.mkdtemp(prefix=".detrkit-", dir=folder))
        except OSError as error:
            raise cannot_write(folder, error) from error
        yield stage
        _exchange(stage, folder, parts)
    finally:
        if stage is not None:
            shutil.rmtree(stage, ignore_errors=True)


def _exchange(stage: Path, folder: Path, parts: Sequence[str]) -> None:
    old = stage / ".old"
    for part in parts:
        target = folder / part
        try:
            if target.exists():
                (old / part).parent.mkdir(parents=True, exist_ok=True)
                target.rename(old / part)
            if (stage / part).exists():
                target.parent.mkdir(parents=True, exist_ok=True)
                (stage / part).rename(target)
        except OSError as error:
            with contextlib.suppress(OSError):
                if (old / part).exists() and not target.exists():
                    (old / part).rename(target)
            raise cannot_write(target, error) from error


def _holds_anything(path: Path) -> bool:
    return any(path.iterdir()) if path.is_dir() else path.exists()
