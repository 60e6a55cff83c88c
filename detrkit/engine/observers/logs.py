"""`log.jsonl` and `results.csv`: one line per epoch, complete after every epoch.

Where a file cannot be written (a full disk), one warning says so, the run goes on, and the lines
are written after a later epoch, once there is room.
"""

from __future__ import annotations

import csv
import io
import json
import logging
from collections.abc import Callable
from pathlib import Path

from detrkit.engine.observers.base import EpochReport, LateReport, Observer
from detrkit.engine.run_log import read_log
from detrkit.errors import DetrkitError
from detrkit.files import write_bytes

log = logging.getLogger("detrkit")


class _Table(Observer):
    """A file with a line per epoch.

    It is written anew after each: it is small, and never left half written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._warned = False

    def _write(self, content: Callable[[], str]) -> None:
        try:
            write_bytes(self.path, content().encode())
        except DetrkitError as error:
            if not self._warned:
                self._warned = True
                log.warning("%s; the run goes on without", error.message)


class JSONLog(_Table):
    """One JSON object per epoch.

    Args:
        path: the file; lines of epochs from `first_epoch` on, left by an interrupted run, go.
        first_epoch: the epoch this run begins with.
    """

    def __init__(self, path: Path, first_epoch: int = 0) -> None:
        super().__init__(path)
        self.rows = [row for row in read_log(path) if row["epoch"] < first_epoch]
        if path.exists():
            self._write(self._text)

    def epoch(self, report: EpochReport) -> None:
        """Appends the epoch's line."""
        self.rows.append(report.to_dict())
        self._write(self._text)

    def late(self, report: LateReport) -> None:
        """Adds to the epoch's line."""
        for row in self.rows:
            if row["epoch"] == report.epoch:
                row.update(report.to_dict())
        self._write(self._text)

    def _text(self) -> str:
        return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in self.rows)


class CSVLog(_Table):
    """The same as a table. Columns are added when an epoch brings new ones."""

    def __init__(self, path: Path, first_epoch: int = 0) -> None:
        super().__init__(path)
        self.rows: list[dict[str, str]] = []
        if path.exists():
            with path.open(encoding="utf-8", newline="") as file:
                self.rows = [row for row in csv.DictReader(file) if _epoch(row) < first_epoch]

    def epoch(self, report: EpochReport) -> None:
        """Adds the epoch's row."""
        self.rows.append({name: _text(value) for name, value in report.to_dict().items()})
        self._write(self._table)

    def late(self, report: LateReport) -> None:
        """Adds to the epoch's row."""
        for row in self.rows:
            if _epoch(row) == report.epoch:
                row.update({name: _text(value) for name, value in report.to_dict().items()})
        self._write(self._table)

    def _table(self) -> str:
        columns = list(dict.fromkeys(name for row in self.rows for name in row))
        buffer = io.StringIO()
        writer = csv.DictWriter(buffer, columns, restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows(self.rows)
        return buffer.getvalue()


def _epoch(row: dict[str, str]) -> float:
    """The row's epoch; a row that was cut off counts as the future."""
    try:
        return int(row["epoch"])
    except (ValueError, KeyError, TypeError):
        return float("inf")


def _text(value: object) -> str:
    if value is None:
        return ""
    return f"{value:.6g}" if isinstance(value, float) else str(value)
