"""`detrkit explain assignments`: a run of several checkpoints."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from tests.cli.conftest import Run
from tests.explain.test_assignments import write_run


@pytest.fixture
def training(tmp_path: Path) -> Path:
    return write_run(tmp_path / "run", "deimv2_hgnet")


def test_figures_and_numbers(run: Run, training: Path, data: str, tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = run(
        "explain", "assignments", training, "--data", data, "--pictures", 2, "--format", "svg",
        "-o", out,
    )  # fmt: skip
    assert done.code == 0, done.err
    assert {file.name for file in out.iterdir()} == {
        "assignments.svg", "pairs-1.svg", "pairs-2.svg", "assignments.csv", "assignments.npz",
    }  # fmt: skip
    assert "4 images, 4 boxes; layer 2 of the averaged weights" in done.out
    assert "epoch_0002.pth" in done.out
    with (out / "assignments.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["epochs"] for row in rows] == ["1"] * 4 + ["2"] * 4 + ["3"] * 4
    assert {row["changed"] == "" for row in rows[:4]} == {True}
    assert all(0 <= float(row["changed"]) <= 1 for row in rows[4:])


def test_json_of_files(run: Run, training: Path, data: str, tmp_path: Path) -> None:
    done = run(
        "explain", "assignments", training / "last.pth", training / "epoch_0001.pth", "--data",
        data, "--images", 2, "--raw", "--json", "-o", tmp_path / "out",
    )  # fmt: skip
    assert done.code == 0, done.err
    answer = json.loads(done.out)
    assert answer["epochs"] == [1, 3]
    assert answer["images"] == 2
    assert answer["outputs"] == ["encoder", "before refinement", "layer 1", "layer 2"]


def test_a_training_and_its_own_data(place: Path, run: Run, tmp_path: Path) -> None:
    """All of it as users do it: train, keep each epoch, explain; the config names the data."""
    done = run(
        "train", "tiny.yml", "--data", "data", "--epochs", 2, "-u", "checkpoint_freq=1", "-o",
        tmp_path / "run",
    )  # fmt: skip
    assert done.code == 0, done.err
    done = run("explain", "assignments", tmp_path / "run", "--json", "-o", tmp_path / "out")
    assert done.code == 0, done.err
    answer = json.loads(done.out)
    assert answer["epochs"] == [1, 2]
    assert answer["data"].endswith("data, validation")
    assert answer["boxes"] > 0


def test_one_checkpoint_has_nothing_to_compare(
    run: Run, training: Path, data: str, tmp_path: Path
) -> None:
    done = run(
        "explain", "assignments", training / "last.pth", "--data", data, "--images", 1,
        "--pictures", 0, "-o", tmp_path / "out",
    )  # fmt: skip
    assert done.code == 0, done.err
    assert "the only checkpoint" in done.err


def test_mistakes(run: Run, training: Path, tmp_path: Path) -> None:
    done = run("explain", "assignments", tmp_path / "gone.pth")
    assert done.code == 5
    assert "not found" in done.err
    (tmp_path / "empty").mkdir()
    done = run("explain", "assignments", tmp_path / "empty")
    assert done.code == 2
    assert "no checkpoints" in done.err
    done = run("explain", "assignments", training, "--width", "0")
    assert done.code == 2
