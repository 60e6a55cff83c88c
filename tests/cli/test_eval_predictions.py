"""`detrkit eval --predictions`: numbers without a model, files, and input that does not fit."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from detrkit.cli.app import main
from detrkit.metrics import METRIC_NAMES
from detrkit.metrics.schema import EvaluationJson

BOXES = {1: [(10, 10, 40, 40)], 2: [(5, 5, 30, 50), (50, 50, 20, 20)], 3: []}


@pytest.fixture
def truth(tmp_path: Path) -> Path:
    """Three images, whose files do not exist; class ids 4 and 9."""
    boxes = [(image, box) for image, own in BOXES.items() for box in own]
    content = {
        "images": [
            {"id": i, "file_name": f"gone/{i}.jpg", "height": 100, "width": 100} for i in BOXES
        ],
        "categories": [{"id": 4, "name": "cat"}, {"id": 9, "name": "猫"}],
        "annotations": [
            {"id": n, "image_id": image, "category_id": 4, "bbox": box, "iscrowd": 0,
             "area": box[2] * box[3]}
            for n, (image, box) in enumerate(boxes, start=1)
        ],
    }  # fmt: skip
    file = tmp_path / "truth.json"
    file.write_text(json.dumps(content), encoding="utf-8")
    return file


def rows(*more: dict[str, Any]) -> list[dict[str, Any]]:
    """All boxes found, and a false detection in the empty image."""
    found = [
        {"image_id": image, "category_id": 4, "bbox": box, "score": 0.9}
        for image, own in BOXES.items()
        for box in own
    ]
    return [*found, {"image_id": 3, "category_id": 9, "bbox": [1, 1, 9, 9], "score": 0.1}, *more]


def write(folder: Path, content: Any) -> Path:
    file = folder / "p.json"
    file.write_text(json.dumps(content), encoding="utf-8")
    return file


def run(predictions: Path, truth: Path, *args: str) -> int:
    return main(["eval", "--predictions", str(predictions), "--annotations", str(truth), *args])


def test_tables(tmp_path: Path, truth: Path, capsys: Any) -> None:
    file = write(tmp_path, rows())
    assert run(file, truth) == 0
    out = capsys.readouterr().out
    assert "3 images, 3 boxes, 4 detections" in out
    assert "precision 1.000, recall 1.000, F1 1.000" in out
    assert "TIDE" not in out
    assert run(file, truth, "--full") == 0
    out = capsys.readouterr().out
    for part in ("YOLO metrics", "Most confused", "TIDE", "Recall by size", "Calibration", "猫"):
        assert part in out


def test_json_is_metrics_json(tmp_path: Path, truth: Path, capsys: Any) -> None:
    wrong = {"image_id": 77, "category_id": 4, "bbox": [1, 1, 9, 9], "score": 0.1}
    nan = {"image_id": 1, "category_id": 4, "bbox": [1, 1, None, 9], "score": 0.1}
    file, folder = write(tmp_path, rows(wrong, nan)), tmp_path / "out"
    assert run(file, truth, "--json", "-o", str(folder)) == 0
    captured = capsys.readouterr()
    answer = json.loads(captured.out)
    assert answer == json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    assert answer.keys() >= EvaluationJson.__annotations__.keys()
    assert list(answer["metrics"]) == list(METRIC_NAMES)
    assert answer["rows"] == answer["detections"] + sum(answer["left_out"].values()) == 6
    assert answer["yolo"]["background"]["images"] == 1
    assert answer["model"] is answer["speed"] is None
    assert "image_id 77" in captured.err


def test_written_predictions_give_the_same(tmp_path: Path, truth: Path, capsys: Any) -> None:
    again = tmp_path / "new" / "again.json"
    assert run(write(tmp_path, rows()), truth, "--json", "--predictions-out", str(again)) == 0
    first = json.loads(capsys.readouterr().out)
    assert run(again, truth, "--json") == 0
    assert json.loads(capsys.readouterr().out)["metrics"] == first["metrics"]
    assert first["metrics"]["AP"] == pytest.approx(1)


def test_many_classes_are_cut_short(tmp_path: Path, truth: Path, capsys: Any) -> None:
    content = json.loads(truth.read_text(encoding="utf-8"))
    content["categories"] += [{"id": 100 + i, "name": f"more{i:02d}"} for i in range(30)]
    truth.write_text(json.dumps(content), encoding="utf-8")
    file = write(tmp_path, rows())
    assert run(file, truth) == 0
    out = capsys.readouterr().out
    assert "and 12 classes with fewer boxes: --full" in out
    assert "more29" not in out
    assert run(file, truth, "--full") == 0
    assert "more29" in capsys.readouterr().out


def test_torch_stays_unimported(tmp_path: Path, truth: Path) -> None:
    code = (
        "import sys; from detrkit.cli.app import main;"
        "code = main(sys.argv[1:]);"
        "heavy = {'torch', 'pycocotools', 'tidecv'} & set(sys.modules);"
        "sys.exit(f'imports {heavy}' if heavy else code)"
    )
    options = ["--predictions", str(write(tmp_path, rows())), "--annotations", str(truth)]
    command = [sys.executable, "-c", code, "eval", *options, "--full"]
    done = subprocess.run(command, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr


def test_known_numbers_in_every_backend(shared_data: Any, capsys: Any) -> None:
    """The published numbers, through the command and the real reader."""
    from tests.metrics.test_coco import TestStoredNumbers

    folder = shared_data("eval_fixtures")
    found: dict[str, dict[str, float]] = {}
    for backend in ("detrkit", "hotcoco", "pycocotools"):
        code = run(
            folder / "instances_val2014_fakebbox100_results.json",
            folder / "instances_val2014_100.json",
            "--json", "--backend", backend,
        )  # fmt: skip
        assert code == 0
        answer = json.loads(capsys.readouterr().out)
        assert answer["backend"] == backend
        found[backend] = answer["metrics"]
    expected = dict(zip(METRIC_NAMES, TestStoredNumbers.EXPECTED, strict=True))
    assert found["pycocotools"] == pytest.approx(expected, abs=1e-4)
    assert found["detrkit"] == pytest.approx(found["pycocotools"], abs=1e-12)
    assert found["hotcoco"] == pytest.approx(found["pycocotools"], abs=1e-12)


@pytest.mark.parametrize(
    "annotation",
    [
        {"id": 1, "image_id": 1, "caption": "a cat"},
        {"image_id": 1, "file_name": "1.png", "segments_info": [{"id": 1, "category_id": 4}]},
        {"id": 1, "image_id": 1, "category_id": 4, "segmentation": [[1, 1, 5, 1, 5, 5]]},
    ],
    ids=["captions", "panoptic", "masks"],
)
def test_annotations_of_another_task(
    tmp_path: Path, truth: Path, capsys: Any, annotation: dict[str, Any]
) -> None:
    content = {**json.loads(truth.read_text(encoding="utf-8")), "annotations": [annotation]}
    truth.write_text(json.dumps(content), encoding="utf-8")
    assert run(write(tmp_path, rows()), truth) == 4
    assert "none of its 1 annotation is a box with a class" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ([], 2, "give either weights or a file of detections"),
        (["-w", "a.pth", "--predictions", "p.json"], 2, "give either weights"),
        (["--predictions", "p.json"], 2, "needs one set of annotations"),
        (["--predictions", "p.json", "--annotations", "t.json", "--data", "d"], 2, "one set of"),
        (["--predictions", "p.json", "--annotations", "t.json", "--size", "64"], 2, "--size is"),
        (["-w", "a.pth", "--annotations", "t.json"], 2, "--annotations goes with --predictions"),
        (["--predictions", "p.json", "--annotations", "nowhere.json"], 4, "nowhere.json"),
    ],
)
def test_options_that_contradict(
    arguments: list[str], code: int, message: str, capsys: Any
) -> None:
    assert main(["eval", *arguments]) == code
    assert message in capsys.readouterr().err


def test_unusable_files(tmp_path: Path, truth: Path, capsys: Any) -> None:
    assert run(truth, truth) == 4  # the wrong way round
    assert "annotations, not a list of detections" in capsys.readouterr().err
    assert run(write(tmp_path, rows()), tmp_path / "p.json") == 4
    assert "expected a JSON object" in capsys.readouterr().err
    assert run(write(tmp_path, rows()), truth, "-o", str(truth)) == 1  # a file, no folder
    assert f"cannot write {truth}" in capsys.readouterr().err
    assert run(write(tmp_path, rows()), truth, "--backend", "fast") == 2
    assert "detrkit, hotcoco, pycocotools" in capsys.readouterr().err
