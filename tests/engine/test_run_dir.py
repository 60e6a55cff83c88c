"""Run directories are numbered and never overwritten."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from detrkit.engine.run_dir import RunDirectory
from detrkit.errors import DetrkitError, UsageError


def test_numbers_go_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert [str(RunDirectory.create("cfg")) for _ in range(3)] == [
        "runs/cfg-1",
        "runs/cfg-2",
        "runs/cfg-3",
    ]


def test_output_is_taken_when_free(tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    assert RunDirectory.create("c", empty).path == empty
    (empty / "last.pth").write_bytes(b"x")
    assert RunDirectory.create("c", empty).path == tmp_path / "empty-2"
    assert RunDirectory.create("c", tmp_path / "a" / "new").path == tmp_path / "a" / "new"
    assert RunDirectory.create("c", tmp_path / "a" / "new").path == tmp_path / "a" / "new"
    assert (empty / "last.pth").read_bytes() == b"x"


def test_odd_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert str(RunDirectory.create("../a b/猫")) == "runs/a_b_猫-1"
    assert str(RunDirectory.create("..")) == "runs/run-1"


def test_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DetrkitError, match="cannot write"):
        RunDirectory.create("c", tmp_path / "file" / "run")


def test_read_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "write_bytes", denied)
    with pytest.raises(DetrkitError, match="no permission") as error:
        RunDirectory.create("c", tmp_path / "run")
    assert "--output" in (error.value.hint or "")


def test_open(tmp_path: Path) -> None:
    (tmp_path / "last.pth").write_bytes(b"")
    assert RunDirectory.open(tmp_path).last == RunDirectory.open(tmp_path / "last.pth").last
    with pytest.raises(UsageError, match="no run at"):
        RunDirectory.open(tmp_path / "absent")


def test_start_files(tmp_path: Path) -> None:
    run = RunDirectory.create("c", tmp_path / "run")
    run.write_start("epochs: 3\n", {"data": Path("x"), "name": "猫"})
    assert (run.path / "config.yml").read_text() == "epochs: 3\n"
    assert json.loads((run.path / "args.json").read_text(encoding="utf-8"))["name"] == "猫"
    assert "torch" in json.loads((run.path / "environment.json").read_text())
    assert run.numbered(12).name == "epoch_0012.pth"
