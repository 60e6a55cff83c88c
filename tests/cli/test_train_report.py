"""`report.html` and `metrics.json` at the end of a training."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from detrkit.cli.app import main
from detrkit.engine.checkpoint import Checkpoint
from detrkit.engine.curves import read_curves
from detrkit.errors import DetrkitError
from detrkit.metrics import METRIC_NAMES
from detrkit.metrics.schema import EvaluationJson
from tests.conftest import REPOSITORY
from tests.engine.tiny_data import write_coco, write_config
from tests.report.browser import opened
from tests.report.parsing import check, check_accessible


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("train")
    write_coco(folder / "data", train=4, val=3)
    write_config(folder, REPOSITORY)
    assert train(folder, "run") == 0
    return folder


def train(place: Path, name: str, *more: str) -> int:
    data, output = str(place / "data"), str(place / name)
    arguments = ["train", str(place / "tiny.yml"), "--data", data, "--epochs", "1", *more]
    return main([*arguments, "--output", output])


@pytest.fixture
def run(place: Path, tmp_path: Path) -> Path:
    """A copy of the finished run."""
    shutil.copytree(place / "run", tmp_path / "run")
    return tmp_path / "run"


def test_it_explains_the_best_epoch(run: Path) -> None:
    numbers = json.loads((run / "metrics.json").read_text(encoding="utf-8"))
    assert numbers.keys() >= EvaluationJson.__annotations__.keys()
    best = Checkpoint.load(run / "best.pth").metrics
    assert numbers["metrics"] == pytest.approx({name: best[name] for name in METRIC_NAMES})
    assert numbers["weights"].endswith("best.pth")
    assert "DFINETransformer" in numbers["config"]
    page = check((run / "report.html").read_text(encoding="utf-8"), links=True)
    check_accessible(page)
    assert "Evaluation of run" in page.text
    assert "Losses, metrics and learning rates over the epochs" in str(page.attributes)


def test_a_browser_shows_it_without_complaints(run: Path) -> None:
    assert opened(run / "report.html")[1] == []


def test_it_is_named_among_the_files(place: Path, capsys: Any) -> None:
    assert train(place, "named", "--json") == 0
    files = json.loads(capsys.readouterr().out)["files"]
    assert Path(files["report"]) == place / "named" / "report.html"


def test_it_can_be_left_out(place: Path, capsys: Any) -> None:
    assert train(place, "without", "--no-report") == 0
    assert not {"report.html", "metrics.json"} & {p.name for p in (place / "without").iterdir()}
    assert main(["resume", str(place / "without")]) == 2
    assert "is finished" in capsys.readouterr().err


def test_a_run_killed_before_it_is_completed_by_resume(run: Path, capsys: Any) -> None:
    (run / "report.html").unlink()
    assert main(["resume", str(run)]) == 0
    assert str(run / "report.html") in capsys.readouterr().out
    assert (run / "report.html").is_file()
    assert main(["resume", str(run)]) == 2
    assert "is finished" in capsys.readouterr().err


def test_a_report_that_fails_is_a_warning(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise DetrkitError("cannot write report.html: the disk is full")

    (run / "report.html").unlink()
    monkeypatch.setattr("detrkit.eval_report.write", full)
    assert main(["resume", str(run)]) == 0
    captured = capsys.readouterr()
    assert "no report on the best epoch: cannot write report.html" in captured.err
    assert "best epoch 1 of 1" in captured.out


def test_damaged_detections_are_a_warning(run: Path, capsys: Any) -> None:
    (run / "report.html").unlink()
    (run / "best_predictions.json").write_text("[{", encoding="utf-8")
    assert main(["resume", str(run)]) == 0
    assert "warning: no report on the best epoch" in capsys.readouterr().err
    assert not (run / "report.html").exists()


def test_a_picture_of_curves_that_is_damaged_is_left_out(run: Path) -> None:
    assert read_curves(run / "curves.png") is not None
    whole = (run / "curves.png").read_bytes()
    (run / "curves.png").write_bytes(whole[: len(whole) // 2])
    assert read_curves(run / "curves.png") is None
    (run / "curves.png").unlink()
    assert read_curves(run / "curves.png") is None
