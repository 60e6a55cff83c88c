"""Writing COCO JSON: piece by piece, one entry a line, atomically.

    {"info": …, "licenses": …,
    "categories": [
    …],
    "images": [
    …],
    "annotations": [
    …]}

Categories and images come first, so that a reader which streams knows them when it meets the
annotations.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import IO, Any

import msgspec

from detrkit.files import make_folder, open_atomically

_LISTS = ("categories", "images", "annotations")
_AT_ONCE = 1000


@dataclass(frozen=True)
class CocoCounts:
    """How many entries a file got."""

    categories: int
    images: int
    annotations: int


def write_coco(
    path: Path,
    *,
    images: Iterable[Mapping[str, Any]],
    annotations: Iterable[Mapping[str, Any]],
    categories: Iterable[Mapping[str, Any]],
    more: Mapping[str, Any] | None = None,
) -> CocoCounts:
    """Writes a COCO annotation file; folders on the way are made.

    Entries are written as they come, with whatever keys they have, and none is kept in memory:
    generators over millions of boxes are fine. What is not a JSON number (NaN, infinity) becomes
    null. Characters stay readable; undecodable parts of file names are escaped.

    Args:
        path: the file; replaced only when everything is written.
        images: `{"id", "file_name", "height", "width", …}`.
        annotations: `{"id", "image_id", "category_id", "bbox": [x, y, w, h], "area", "iscrowd", …}`
            with pixels as unit.
        categories: `{"id", "name", …}`.
        more: further keys of the file, such as `info` and `licenses`.

    Returns:
        The number of entries.

    Raises:
        DetrkitError: the disk is full, the folder cannot be written.
    """
    make_folder(path.parent)
    lists = dict(zip(_LISTS, (categories, images, annotations), strict=True))
    counts = dict.fromkeys(_LISTS, 0)
    with open_atomically(path) as file:
        file.write(b"{")
        for key, value in (more or {}).items():
            if key not in lists:
                file.write(_encoded(key) + b":" + _encoded(value) + b",\n")
        for place, (key, entries) in enumerate(lists.items()):
            file.write((b",\n" if place else b"") + _encoded(key) + b":[")
            counts[key] = _write_entries(file, iter(entries))
            file.write(b"]")
        file.write(b"}\n")
    return CocoCounts(**counts)


def _write_entries(file: IO[bytes], entries: Iterator[Mapping[str, Any]]) -> int:
    count = 0
    while batch := list(islice(entries, _AT_ONCE)):
        lines = b",\n".join(_encoded(entry) for entry in batch)
        file.write((b",\n" if count else b"\n") + lines)
        count += len(batch)
    return count


def _encoded(value: object) -> bytes:
    try:
        return _ENCODER.encode(value)
    except (UnicodeEncodeError, OverflowError):
        # a lone surrogate, of a file name that is not UTF-8, or an int beyond 64 bits
        return json.dumps(_finite(value)).encode("ascii")


_ENCODER = msgspec.json.Encoder()


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value
