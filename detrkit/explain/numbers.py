"""Numbers beside figures: arrays as `.npz`, rows as `.csv`; equal numbers make equal files."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from detrkit.files import write_bytes


def write_npz(path: Path, arrays: Mapping[str, npt.NDArray[Any]]) -> Path:
    """Writes arrays by name, all of the file or nothing.

    Raises:
        DetrkitError: the file cannot be written.
    """
    content = io.BytesIO()
    named: dict[str, Any] = dict(arrays)
    np.savez_compressed(content, **named)
    write_bytes(path, content.getvalue())
    return path


def write_csv(path: Path, rows: Sequence[Mapping[str, Any]]) -> Path:
    """Writes rows with the same keys as a table with a header; None becomes an empty cell.

    Raises:
        DetrkitError: the file cannot be written.
    """
    text = io.StringIO()
    if rows:
        writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    write_bytes(path, text.getvalue().encode("utf-8", "replace"))
    return path
