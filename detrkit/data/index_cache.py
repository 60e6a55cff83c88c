"""Indices kept on disk, so that a data set is read once and opened in no time after that.

They lie in `cache_dir()/index`, at most 4 GiB of them; those not used for longest go first. An
entry belongs to a file and all settings that matter to reading it, and holds the stamps of what it
was made from (`detrkit.data.sources`): when one no longer holds, the data set is read again.

The cache never stops a run: what cannot be written or read costs the time to read again.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar
from uuid import uuid4

from detrkit.data.cache import cache_dir
from detrkit.data.folders import new_folder, remove_folder
from detrkit.data.images import readers
from detrkit.data.index import FORMAT, DatasetIndex
from detrkit.data.sources import Sources, Stamp, unchanged
from detrkit.errors import DataError

logger = logging.getLogger("detrkit")

#: What took longer to read is kept: opening an entry takes some milliseconds. Most data sets of up
#: to a few thousand images are read faster than that.
WORTH_SECONDS = 0.5

#: Bytes of all entries.
LIMIT = 4 << 30

#: To be raised when the readers come to other results for the same files.
_READERS = 2

_ENTRY = "entry.json"
_INDEX = "index"

T = TypeVar("T")


def cached_index(
    key: Mapping[str, Any], read: Callable[[Sources], DatasetIndex], *, contents: bool = False
) -> DatasetIndex:
    """The index that `read` makes, from the cache if its sources are unchanged.

    Args:
        key: all that `read` depends on besides the content of files; `path` names the data set.
        read: tells its argument which files it reads, and asks it for folders.
        contents: whether the files in the folders count, and not only their names.
    """

    def load(folder: Path, _: Mapping[str, Any]) -> DatasetIndex:
        return DatasetIndex.load(folder / _INDEX)

    def save(index: DatasetIndex, folder: Path) -> dict[str, Any]:
        index.save(folder / _INDEX)
        return {}

    return _cached(key, read, load, save, contents)


def cached_value(
    key: Mapping[str, Any], read: Callable[[Sources], Any], *, contents: bool = False
) -> Any:
    """As `cached_index`, for anything that JSON holds."""
    return _cached(
        key,
        read,
        lambda _, entry: entry["value"],
        lambda value, _: {"value": value},
        contents,
    )


def _cached(
    key: Mapping[str, Any],
    read: Callable[[Sources], T],
    load: Callable[[Path, Mapping[str, Any]], T],
    save: Callable[[T, Path], dict[str, Any]],
    contents: bool,
) -> T:
    folder = cache_dir() / "index"
    name = _name_of(key)
    found = _find(folder, name, load)
    if found is not None:
        return found[0]
    sources = Sources(contents)
    started = time.perf_counter()
    value = read(sources)
    if time.perf_counter() - started < WORTH_SECONDS:
        return value
    stamps = sources.stamps()
    if stamps is None:
        logger.info("%s: changed while it was read, so its index is not kept", key["path"])
        return value
    try:
        entry = folder / f"{name}-{uuid4().hex[:8]}"
        with new_folder(entry) as draft:
            content = {"stamps": [asdict(s) for s in stamps], **save(value, draft)}
            _write(draft / _ENTRY, content)
        _prune(folder, entry, name)
        return load(entry, content)  # mapped from there, so that the memory is free
    except (OSError, DataError) as error:
        logger.info("%s: its index is not kept: %s", key["path"], error)
        return value


def _name_of(key: Mapping[str, Any]) -> str:
    """Readable, and different for every key."""
    text = json.dumps([FORMAT, _READERS, readers(), key, os.path.abspath(key["path"])], default=str)
    digest = hashlib.blake2b(text.encode(), digest_size=8).hexdigest()
    stem = "".join(c if c.isalnum() else "_" for c in Path(key["path"]).stem)[:40]
    return f"{stem}-{digest}"


def _find(folder: Path, name: str, load: Callable[[Path, Mapping[str, Any]], T]) -> tuple[T] | None:
    """What the newest entry holds whose sources are unchanged; entries that do not hold go."""
    entries = [e for e in _entries(folder) if e.name.startswith(f"{name}-")]
    for entry in sorted(entries, key=_last_used, reverse=True):
        try:
            content = json.loads((entry / _ENTRY).read_text(encoding="utf-8"))
            stamps = [Stamp(**s) for s in content["stamps"]]
            now = unchanged(stamps)
            if now is not None:
                value = load(entry, content)
                _use(entry, content, stamps, now)
                return (value,)
        except (OSError, ValueError, KeyError, TypeError, DataError) as error:
            logger.debug("%s: %s", entry, error)
        remove_folder(entry)
    return None


def _use(entry: Path, content: dict[str, Any], before: list[Stamp], now: list[Stamp]) -> None:
    """Notes that an entry was used, and new times of files whose content is as before."""
    with suppress(OSError):
        if now != before:
            draft = entry / f".{_ENTRY}-{uuid4().hex[:8]}"
            _write(draft, {**content, "stamps": [asdict(s) for s in now]})
            os.replace(draft, entry / _ENTRY)
        os.utime(entry / _ENTRY)


def _write(path: Path, content: Mapping[str, Any]) -> None:
    with open(path, "w", encoding="utf-8") as file:
        json.dump(content, file)
        file.flush()
        os.fsync(file.fileno())


def _prune(folder: Path, newest: Path, name: str) -> None:
    """Leaves of the entries called `name` the newest; of all, those last used, up to `LIMIT`."""
    total = _bytes_of(newest)
    others = [entry for entry in _entries(folder) if entry != newest]
    for entry in sorted(others, key=_last_used, reverse=True):
        total += _bytes_of(entry)
        if total > LIMIT or entry.name.startswith(f"{name}-"):
            remove_folder(entry)
    for leftover in folder.glob(".*"):  # of processes that were killed
        with suppress(OSError):
            if time.time() - leftover.stat().st_mtime > 86_400:
                remove_folder(leftover)


def _entries(folder: Path) -> list[Path]:
    try:
        return [entry for entry in folder.iterdir() if not entry.name.startswith(".")]
    except OSError:
        return []


def _last_used(entry: Path) -> float:
    try:
        return (entry / _ENTRY).stat().st_mtime
    except OSError:
        return 0


def _bytes_of(entry: Path) -> int:
    total = 0
    for file in entry.rglob("*"):
        with suppress(OSError):
            total += file.stat().st_size
    return total
