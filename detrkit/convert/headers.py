"""Sizes of many images: read by threads, because the disk is what takes time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path

from detrkit.data.faults import FaultKind, FaultReport
from detrkit.data.images import ImageHeader, read_header
from detrkit.errors import DataError
from detrkit.words import count

#: Called with the number of images done, and of all.
Progress = Callable[[int, int], None]

_READERS = 16
_AT_ONCE = 1024


def read_headers(
    paths: Sequence[Path], progress: Progress | None = None
) -> Iterator[ImageHeader | DataError]:
    """The header of each image in order, or why it cannot be read."""
    remaining = iter(paths)
    done = 0
    with ThreadPoolExecutor(_READERS) as threads:
        while batch := list(islice(remaining, _AT_ONCE)):
            for header in threads.map(_header, batch):
                done += 1
                if progress is not None:
                    progress(done, len(paths))
                yield header


def report_unreadable(
    path: Path, error: DataError, where: str, boxes: int, faults: FaultReport
) -> None:
    """Counts an image that is left out for its file, and its boxes."""
    kind = FaultKind.CORRUPT_IMAGE if path.is_file() else FaultKind.MISSING_IMAGE
    faults.add(kind, path, where, error.message.removeprefix(f"{path}: "))
    if boxes:
        kind = FaultKind.SKIPPED_WITH_IMAGE
        faults.add(kind, path, where, count(boxes, "box"), count=boxes)


def _header(path: Path) -> ImageHeader | DataError:
    try:
        return read_header(path)
    except DataError as error:
        return error
