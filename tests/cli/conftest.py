"""Runs the command line inside the process, as the entry point does."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import pytest

from detrkit.cli.app import main


class Result(NamedTuple):
    """What a command left behind."""

    code: int
    out: str
    err: str


Run = Callable[..., Result]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """`run("show-config", "quickstart")` -> exit code, stdout, stderr."""

    def runner(*args: object) -> Result:
        code = main([str(arg) for arg in args])
        captured = capsys.readouterr()
        return Result(code, captured.out, captured.err)

    return runner
