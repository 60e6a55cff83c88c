"""Reading a run's `log.jsonl`: what curves, summaries and comparisons are made of."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from detrkit.engine import log_names as names

#: An epoch, under the names of `detrkit.engine.log_names`.
Row = dict[str, Any]


def read_log(path: Path) -> list[Row]:
    """The epochs of a run, in order; none without the file.

    Lines that were cut off (a full disk, a power cut) are left out. Where an epoch was done
    twice, the later line counts.
    """
    if not path.is_file():
        return []
    rows: dict[int, Row] = {}
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            row = json.loads(line)
            rows[int(row["epoch"])] = row
        except (ValueError, KeyError, TypeError):
            continue
    return [rows[epoch] for epoch in sorted(rows)]


def best_row(rows: Sequence[Row]) -> Row | None:
    """The best epoch: the last that was better than all before it."""
    return next((row for row in reversed(rows) if row.get("best")), None)


def seconds_of(rows: Sequence[Row]) -> float:
    """Wall time of all epochs, evaluation included."""
    keys = (names.TRAIN_SECONDS, names.EVAL_SECONDS)
    return sum(float(row.get(key) or 0) for row in rows for key in keys)
