"""JSON as detrkit writes it, to stdout and into files: one versioned object."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from detrkit.files import write_bytes

#: Version of the objects; raised when a key changes its meaning.
JSON_VERSION = 1


def json_text(kind: str, payload: Mapping[str, Any], encoding: str = "utf-8") -> str:
    """`{"detrkit": …, "kind": kind, "version": 1, **payload}` as JSON.

    NaN and infinities, which JSON lacks, become null. Paths and other objects become text.

    Args:
        kind: of object, e.g. the command.
        payload: its content.
        encoding: what it will be written in. A Windows console may not speak UTF-8, and a file name
            may hold bytes that are no text: then all but ASCII is escaped, which is safe anywhere
            and reads back as the same name.
    """
    from detrkit import __version__

    head = {"detrkit": __version__, "kind": kind, "version": JSON_VERSION}
    plain = {**head, **_plain(payload)}
    text = json.dumps(plain, ensure_ascii=False, indent=2, allow_nan=False, default=str)
    try:
        text.encode(encoding)
    except UnicodeEncodeError:
        return json.dumps(json.loads(text), indent=2)
    return text


def write_json(path: Path, kind: str, payload: Mapping[str, Any]) -> None:
    """Writes `json_text` into a file, all of it or nothing.

    Raises:
        DetrkitError: the file cannot be written.
    """
    content = json_text(kind, payload).encode()
    write_bytes(path, content)


def _plain(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if hasattr(value, "tolist"):  # NumPy and torch
        return _plain(value.tolist())
    return value
