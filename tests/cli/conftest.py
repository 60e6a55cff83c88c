"""Runs the command line inside the process, as the entry point does."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from detrkit.cli.app import main
from detrkit.engine.curves import draw_curves
from tests.conftest import REPOSITORY
from tests.engine.bright import small_detector
from tests.engine.plain import plain_curves
from tests.engine.test_evaluator import write_coco as write_four
from tests.engine.tiny_data import write_coco, write_config
from tests.forked import forking_launcher


class Result(NamedTuple):
    """What a command left behind."""

    code: int
    out: str
    err: str


Run = Callable[..., Result]


@pytest.fixture(autouse=True, scope="module")
def no_curves() -> Iterator[None]:
    """A training in this process leaves a plain picture as its curves."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("detrkit.engine.curves.draw_curves", plain_curves)
        yield


@pytest.fixture
def drawn_curves(monkeypatch: pytest.MonkeyPatch) -> None:
    """Curves are drawn as they are for users."""
    monkeypatch.setattr("detrkit.engine.curves.draw_curves", draw_curves)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `data/` and `tiny.yml`."""
    folder = tmp_path_factory.mktemp("tiny")
    write_coco(folder / "data", train=6, val=2)
    write_config(folder, REPOSITORY)
    return folder


@pytest.fixture(scope="session")
def weights(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Weights of a small detector of `cat`, `猫` and `dog`."""
    return str(small_detector(tmp_path_factory.mktemp("weights") / "best.pth"))


@pytest.fixture
def data(tmp_path: Path) -> str:
    """A COCO file of the same classes, its images beside it."""
    write_four(tmp_path, [7, 3, 12, 5])
    return str(tmp_path / "instances_val.json")


@pytest.fixture
def place(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The same, as the working folder."""
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def forked(monkeypatch: pytest.MonkeyPatch) -> None:
    """The processes of `--nproc` and `--auto-resume` are forked, which spares them an import."""
    monkeypatch.setattr("detrkit.engine.distributed.launch.Launcher", forking_launcher)


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """`run("show-config", "quickstart")` -> exit code, stdout, stderr."""

    def runner(*args: object) -> Result:
        code = main([str(arg) for arg in args])
        captured = capsys.readouterr()
        return Result(code, captured.out, captured.err)

    return runner
