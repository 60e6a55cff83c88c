"""What the evaluation leaves behind in a training run: the best detections, and YOLO's table."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from detrkit.cli.app import main
from detrkit.engine.checkpoint import Checkpoint
from detrkit.engine.observers.found import Found
from detrkit.engine.scoring import score_predictions
from detrkit.errors import DetrkitError
from detrkit.metrics import evaluate
from tests.conftest import REPOSITORY
from tests.engine.tiny_data import write_coco, write_config
from tests.metrics.made import scene

NAMES = ("precision", "recall", "F1", "mAP50", "mAP75", "mAP50-95")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two epochs with the switch as forks spell it."""
    folder = tmp_path_factory.mktemp("train")
    data = write_coco(folder / "data", train=6, val=3)
    config = write_config(folder, REPOSITORY)
    code = main(
        ["train", str(config), "--data", str(data), "--output", str(folder / "run"),
         "--epochs", "2", "-u", "yolo_metrice=True"]
    )  # fmt: skip
    assert code == 0
    return folder


def test_the_best_predictions_give_the_best_ap(place: Path) -> None:
    """The file holds exactly what was counted, by the averaged weights of the best epoch."""
    best = Checkpoint.load(place / "run" / "best.pth")
    truth = place / "data" / "annotations" / "instances_val.json"
    scoring = score_predictions(place / "run" / "best_predictions.json", truth)
    assert scoring.results.left_out == {}
    table = scoring.report.yolo.values
    for name, value in best.metrics.items():
        found = table[name] if name in table else scoring.report.metrics[name]
        assert found == pytest.approx(value, abs=1e-12), name
    rows = json.loads((place / "run" / "best_predictions.json").read_text(encoding="utf-8"))
    assert {row["category_id"] for row in rows} <= {3, 7}


def test_the_weights_give_them_too(place: Path, tmp_path: Path, capsys: Any) -> None:
    """`eval` of best.pth, speed and costs included."""
    weights = str(place / "run" / "best.pth")
    again = tmp_path / "again.json"
    arguments = ["--data", str(place / "data"), "--device", "cpu", "--json", "--batch", "1"]
    assert main(["eval", "-w", weights, *arguments, "--predictions-out", str(again)]) == 0
    answer = json.loads(capsys.readouterr().out)
    best = Checkpoint.load(place / "run" / "best.pth")
    assert answer["metrics"]["AP"] == pytest.approx(best.metrics["AP"], abs=1e-3)
    speed, model = answer["speed"], answer["model"]
    parts = speed["preprocess"] + speed["model"] + speed["postprocess"]
    assert speed["total"] == pytest.approx(parts)
    assert speed["images"] == 2  # the first one warmed up
    assert min(parts, model["flops"], model["parameters"]) > 0
    assert model["file_bytes"] == (place / "run" / "best.pth").stat().st_size
    ours = json.loads(again.read_text(encoding="utf-8"))
    kept = json.loads((place / "run" / "best_predictions.json").read_text(encoding="utf-8"))
    assert len(ours) == len(kept)


def test_the_table_is_in_every_epoch(place: Path) -> None:
    """Of all classes in the log; and the config has the switch under its present name."""
    lines = (place / "run" / "log.jsonl").read_text(encoding="utf-8").splitlines()
    assert len(lines) == 2
    for line in lines:
        row = json.loads(line)
        assert all(f"val/{name}" in row for name in NAMES)
        assert row["val/mAP50-95"] == row["val/AP"]
    text = (place / "run" / "config.yml").read_text(encoding="utf-8")
    assert "yolo_metrics: true" in text
    assert "yolo_metrice" not in text


def test_the_table_of_the_classes_is_shown(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    truth, predictions = scene(3)
    table = evaluate(truth, predictions).yolo
    evaluator: Any = SimpleNamespace(truth=truth, predictions=predictions, table=table)
    report: Any = SimpleNamespace(is_best=False, metrics={"AP": 0.5})
    caplog.set_level("INFO")
    Found(evaluator, tmp_path / "p.json").epoch(report)
    head, *rows = caplog.messages
    assert head.startswith(f"confidence {table.confidence:.3f}")
    assert [row.split("  ")[0] for row in rows] == ["all", "class 0", "class 1", "class 2"]
    assert f"{table.classes[0].precision:.3f}" in rows[1]
    assert len({len(line) for line in caplog.messages}) == 1  # columns stand below each other


def test_a_full_disk_does_not_end_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(*_: Any) -> None:
        raise DetrkitError("cannot write best_predictions.json: no space left")

    truth, predictions = scene(0)
    evaluator: Any = SimpleNamespace(truth=truth, predictions=predictions, table=None)
    report: Any = SimpleNamespace(is_best=True, metrics={"AP": 0.5})
    observer = Found(evaluator, tmp_path / "best_predictions.json")
    monkeypatch.setattr("detrkit.engine.observers.found.write_results", full)
    observer.epoch(report)
    assert "no space left; the run goes on without" in caplog.text
    monkeypatch.undo()
    observer.epoch(report)
    before = (tmp_path / "best_predictions.json").read_bytes()
    evaluator.predictions = predictions.select(slice(0, 1))
    report.is_best = False
    observer.epoch(report)  # a worse epoch leaves the file
    assert (tmp_path / "best_predictions.json").read_bytes() == before
