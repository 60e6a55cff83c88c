"""`detrkit eval`: numbers, tables, JSON, predictions, and data that does not fit."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import detrkit
from detrkit.cli.app import main
from detrkit.metrics import METRIC_NAMES
from tests.engine.test_onnx_runtime import write as write_onnx


def run(weights: str, *args: str) -> int:
    return main(["eval", "-w", weights, "--device", "cpu", *args])


def test_tables(weights: str, data: str, capsys: Any) -> None:
    assert run(weights, "--data", data) == 0
    out = capsys.readouterr().out
    for name in METRIC_NAMES:
        assert name in out
    assert "猫" in out
    assert "4 images, 4 boxes" in out


def test_json_and_predictions(weights: str, data: str, tmp_path: Path, capsys: Any) -> None:
    file = tmp_path / "new" / "predictions.json"
    assert run(weights, "--data", data, "--json", "--predictions-out", str(file)) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["kind"] == "eval"
    assert list(answer["metrics"]) == list(METRIC_NAMES)
    assert [c["name"] for c in answer["classes"]] == ["cat", "猫", "dog"]
    rows = json.loads(file.read_text(encoding="utf-8"))
    assert len(rows) == 4 * 20
    assert {r["image_id"] for r in rows} == {7, 3, 12, 5}
    assert {r["category_id"] for r in rows} <= {4, 9, 2}


def test_onnx_files(data: str, tmp_path: Path, capsys: Any) -> None:
    """The same table of speed and size; what the file does not say is null."""
    file = write_onnx(tmp_path / "model.onnx")
    assert run(str(file), "--data", data, "--batch", "2", "-o", str(tmp_path / "out")) == 0
    answer = json.loads((tmp_path / "out" / "metrics.json").read_text(encoding="utf-8"))
    assert answer["detections"] == 4 * 2
    assert answer["speed"]["images"] == 2
    assert answer["model"]["file_bytes"] == file.stat().st_size
    assert answer["model"]["parameters"] > 0
    assert answer["model"]["flops"] is None
    assert "ms per image" in capsys.readouterr().err
    html = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert "FLOPs not counted: the file is no checkpoint" in html
    assert run(str(file), "--data", data, "--full") == 0
    assert "FLOPs not counted: the file is no checkpoint" in capsys.readouterr().out


def test_backends_agree(weights: str, data: str) -> None:
    numbers = [
        detrkit.evaluate(weights, data=data, device="cpu", backend=backend).values
        for backend in ("detrkit", "hotcoco", "pycocotools")
    ]
    assert numbers[0] == pytest.approx(numbers[2], abs=1e-12)
    assert numbers[1] == pytest.approx(numbers[2], abs=1e-12)


def rename(data: str, names: dict[str, str]) -> None:
    truth = json.loads(Path(data).read_text(encoding="utf-8"))
    for category in truth["categories"]:
        category["name"] = names.get(category["name"], category["name"])
    Path(data).write_text(json.dumps(truth), encoding="utf-8")


def test_classes_are_matched_by_name(weights: str, data: str, capsys: Any) -> None:
    rename(data, {"dog": "wolf"})
    assert run(weights, "--data", data) == 0
    captured = capsys.readouterr()
    assert "does not know `wolf`" in captured.err
    assert "3 boxes" in captured.out


def test_classes_by_order_with_a_warning(weights: str, data: str, capsys: Any) -> None:
    rename(data, {"cat": "a", "猫": "b", "dog": "c"})
    assert run(weights, "--data", data) == 0
    assert "matched by order" in capsys.readouterr().err


def test_foreign_data_is_refused(weights: str, data: str, capsys: Any) -> None:
    truth = json.loads(Path(data).read_text(encoding="utf-8"))
    truth["categories"] = [{"id": i, "name": f"x{i}"} for i in range(10)]
    Path(data).write_text(json.dumps(truth), encoding="utf-8")
    assert run(weights, "--data", data) == 4
    assert "its 10 classes" in capsys.readouterr().err


def test_no_data_at_all(weights: str, capsys: Any) -> None:
    assert run(weights) == 4
    captured = capsys.readouterr()
    assert "--data" in captured.err


def test_unknown_backend(weights: str, data: str, capsys: Any) -> None:
    assert run(weights, "--data", data, "--backend", "fast") == 2
    assert "choose one of: detrkit, hotcoco, pycocotools" in capsys.readouterr().err
