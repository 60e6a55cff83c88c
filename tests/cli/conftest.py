"""Runs the command line inside the process, as the entry point does."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from detrkit.cli.app import main
from tests.conftest import REPOSITORY
from tests.engine.tiny_data import write_coco, write_config


class Result(NamedTuple):
    """What a command left behind."""

    code: int
    out: str
    err: str


Run = Callable[..., Result]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `data/` and `tiny.yml`."""
    folder = tmp_path_factory.mktemp("tiny")
    write_coco(folder / "data", train=6, val=2)
    write_config(folder, REPOSITORY)
    return folder


@pytest.fixture
def place(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The same, as the working folder."""
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """`run("show-config", "quickstart")` -> exit code, stdout, stderr."""

    def runner(*args: object) -> Result:
        code = main([str(arg) for arg in args])
        captured = capsys.readouterr()
        return Result(code, captured.out, captured.err)

    return runner
