"""Runs the command line inside the process, as the entry point does."""

from __future__ import annotations

from collections.abc import Callable, Iterator
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
def run(capsys: pytest.CaptureFixture[str]) -> Iterator[Run]:
    """`run("show-config", "quickstart")` -> exit code, stdout, stderr."""
    import logging

    logger = logging.getLogger("detrkit")
    before = (list(logger.handlers), logger.level, logger.propagate)

    def runner(*args: object) -> Result:
        code = main([str(arg) for arg in args])
        captured = capsys.readouterr()
        return Result(code, captured.out, captured.err)

    yield runner
    logger.handlers[:], logger.level, logger.propagate = before
