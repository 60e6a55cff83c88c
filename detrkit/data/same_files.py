"""Images that two data sets share: the same file, or a copy of it."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterable
from functools import cache

from detrkit.data.sources import file_digest


def same_files(
    paths: Iterable[str], others: Iterable[str], *, contents: bool = True
) -> list[tuple[str, str]]:
    """Each of `paths` that is also in `others`, with the first of these that it is.

    Args:
        paths: of the smaller set.
        others: of the larger one.
        contents: also find copies, by size and, where that is equal, by content.
    """
    resolved = cache(os.path.realpath)  # a folder is looked up once, not with each of its files

    def place(path: str) -> str:
        folder, name = os.path.split(path)
        return os.path.normcase(os.path.join(resolved(folder or "."), name))

    others = list(others)
    by_place: dict[str, str] = {}
    for other in others:
        by_place.setdefault(place(other), other)
    found, rest = [], []
    for path in paths:
        other = by_place.get(place(path), "")
        if other:
            found.append((path, other))
        else:
            rest.append(path)
    return [*found, *_copies(rest, others)] if contents and rest else found


def _copies(paths: list[str], others: list[str]) -> list[tuple[str, str]]:
    by_size: defaultdict[int, list[str]] = defaultdict(list)
    for path in paths:
        by_size[_size(path)].append(path)
    by_size.pop(-1, None)
    digests: defaultdict[int, dict[str, str]] = defaultdict(dict)
    for other in others:
        size = _size(other)
        if size in by_size and (digest := _digest(other)):
            digests[size].setdefault(digest, other)
    found = []
    for size, same_size in by_size.items():
        for path in same_size if digests[size] else ():
            other = digests[size].get(_digest(path) or "", "")
            if other:
                found.append((path, other))
    return found


def _size(path: str) -> int:
    """Bytes; -1 of a file that is not there."""
    try:
        return os.stat(path).st_size
    except OSError:
        return -1


def _digest(path: str) -> str | None:
    try:
        return file_digest(path)
    except OSError:
        return None
