"""`detrkit explain queries`: a data set, negatives, and weights that name no data."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from tests.cli.conftest import Run
from tests.engine.bright import picture
from tests.export.families import family


@pytest.fixture
def negatives(tmp_path: Path) -> Path:
    folder = tmp_path / "nothing"
    folder.mkdir()
    for number in range(3):
        picture((60 + 10 * number, 90)).save(folder / f"{number}.png")
    return folder


def test_data_and_negatives(
    run: Run, weights: str, data: str, negatives: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    done = run(
        "explain", "queries", "-w", weights, "--data", data, "--negatives", negatives,
        "--conf", 0, "-o", out,
    )  # fmt: skip
    assert done.code == 0, done.err
    assert {file.name for file in out.iterdir()} == {
        "queries.png", "slots.png", "queries.csv", "queries.npz",
        "over_activation.png", "over_activation.csv", "over_activation.npz",
    }  # fmt: skip
    assert "4 images: 80 detections from 0 on, made by 20 of 20 queries (Gini 0.00)" in done.out
    assert "3 images without targets" in done.out
    with (out / "queries.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [int(row["query"]) for row in rows] == list(range(20))
    assert {int(row["detections"]) for row in rows} == {4}


def test_json_of_negatives_alone(run: Run, weights: str, negatives: Path, tmp_path: Path) -> None:
    done = run(
        "explain", "queries", "-w", weights, "--negatives", negatives, "--json", "-o",
        tmp_path / "out",
    )  # fmt: skip
    assert done.code == 0, done.err
    answer = json.loads(done.out)
    assert answer["kind"] == "queries"
    assert answer["data"] is None
    assert answer["negatives"]["images"] == 3
    assert all(Path(file).is_file() for file in answer["files"])


def test_every_family(run: Run, data: str, tmp_path: Path) -> None:
    for name in ("rtdetrv2", "deimv2_hgnet"):
        weights = family(name).save(tmp_path / f"{name}.pth")
        done = run(
            "explain", "queries", "-w", weights, "--data", data, "--limit", 2, "--json", "-o",
            tmp_path / name,
        )  # fmt: skip
        assert done.code == 0, done.err
        assert json.loads(done.out)["data"]["images"] == 2


def test_what_cannot_be_done(run: Run, weights: str, tmp_path: Path) -> None:
    done = run("explain", "queries", "-w", weights, "-o", tmp_path / "out")
    assert done.code in (3, 4)
    assert "--data" in done.err
    done = run("explain", "queries", "-w", weights, "--negatives", tmp_path / "gone")
    assert done.code == 4
    assert "--negatives: there is no" in done.err
    assert not (tmp_path / "out").exists()
