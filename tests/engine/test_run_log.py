"""Reading log.jsonl."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from detrkit.engine.run_log import best_row, read_log, seconds_of


def write(path: Path, *rows: dict[str, Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_the_later_line_of_an_epoch_counts(tmp_path: Path) -> None:
    path = write(tmp_path / "l", {"epoch": 1, "a": 1}, {"epoch": 0}, {"epoch": 1, "a": 2})
    assert read_log(path) == [{"epoch": 0}, {"epoch": 1, "a": 2}]


def test_broken_lines_are_left_out(tmp_path: Path) -> None:
    path = write(tmp_path / "l", {"epoch": 0}, {"stage": "no epoch"})
    with path.open("ab") as file:
        file.write(b'[1]\n"text"\n\xff\xfe\n{"epoch": 1, "sta')
    assert read_log(path) == [{"epoch": 0}]
    assert read_log(tmp_path / "absent") == []


def test_the_best_is_the_last_that_was_better(tmp_path: Path) -> None:
    rows = [{"epoch": 0, "best": True}, {"epoch": 1, "best": True}, {"epoch": 2, "best": False}]
    assert best_row(rows) == rows[1]
    assert best_row([]) is None


def test_seconds_of_all_epochs() -> None:
    row = {"epoch": 0, "resources/train_seconds": 2.0, "resources/eval_seconds": 0.5}
    assert seconds_of([row, {"epoch": 1}]) == 2.5
