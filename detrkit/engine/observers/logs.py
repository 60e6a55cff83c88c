"""`log.jsonl` and `results.csv`: one line per epoch, complete after every epoch."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

from detrkit.engine.observers.base import EpochReport, Observer
from detrkit.files import cannot_write, write_atomically


class JSONLog(Observer):
    """One JSON object per epoch.

    Args:
        path: the file; lines of epochs from `first_epoch` on, left by an interrupted run, go.
        first_epoch: the epoch this run begins with.
    """

    def __init__(self, path: Path, first_epoch: int = 0) -> None:
        self.path = path
        kept = [line for line in _lines(path) if _epoch(line) < first_epoch]
        if path.exists():
            write_atomically(path, lambda file: file.write("".join(kept).encode()))

    def epoch(self, report: EpochReport) -> None:
        """Appends the epoch's line."""
        line = json.dumps(report.to_dict(), ensure_ascii=False) + "\n"
        try:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(line)
        except OSError as error:
            raise cannot_write(self.path, error) from error


class CSVLog(Observer):
    """The same as a table. Columns are added when an epoch brings new ones."""

    def __init__(self, path: Path, first_epoch: int = 0) -> None:
        self.path = path
        self.rows: list[dict[str, str]] = []
        if path.exists():
            with path.open(encoding="utf-8", newline="") as file:
                self.rows = [row for row in csv.DictReader(file) if _number(row) < first_epoch]

    def epoch(self, report: EpochReport) -> None:
        """Writes the whole table again: it is small, and never left half written."""
        self.rows.append({name: _text(value) for name, value in report.to_dict().items()})
        columns = list(dict.fromkeys(name for row in self.rows for name in row))
        buffer = io.StringIO()
        writer = csv.DictWriter(buffer, columns, restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows(self.rows)
        write_atomically(self.path, lambda file: file.write(buffer.getvalue().encode()))


def _lines(path: Path) -> list[str]:
    if not path.exists():
        return []
    return path.read_text(encoding="utf-8").splitlines(keepends=True)


def _epoch(line: str) -> float:
    """The line's epoch; a line that was cut off counts as the future."""
    try:
        return int(json.loads(line)["epoch"])
    except (ValueError, KeyError, TypeError):
        return float("inf")


def _number(row: dict[str, str]) -> float:
    try:
        return int(row["epoch"])
    except (ValueError, KeyError, TypeError):
        return float("inf")


def _text(value: object) -> str:
    if value is None:
        return ""
    return f"{value:.6g}" if isinstance(value, float) else str(value)
