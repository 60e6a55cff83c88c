"""`detrkit explain distribution`: figures, numbers, and what cannot be drawn."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from tests.cli.conftest import Run
from tests.engine.bright import picture
from tests.export.families import family


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(2):
        picture((90, 70 + 10 * number), (10, 10, 60, 50), number).save(folder / f"猫 {number}.png")
    return folder


def test_figures_and_numbers(run: Run, weights: str, photos: Path, tmp_path: Path) -> None:
    done = run(
        "explain", "distribution", "-w", weights, photos, "--conf", 0, "--max-det", 2, "-o",
        tmp_path / "out", "--format", "svg", "--format", "png", "--width", "column",
    )  # fmt: skip
    assert done.code == 0, done.err
    names = {file.name for file in (tmp_path / "out").iterdir()}
    stems = [f"猫 {photo}-{number}" for photo in range(2) for number in (1, 2)]
    assert names == {
        "distribution.csv",
        *(f"猫 {photo}.npz" for photo in range(2)),
        *(f"{stem}.{ending}" for stem in stems for ending in ("svg", "png")),
    }
    assert len(done.out.splitlines()) == 2
    with (tmp_path / "out" / "distribution.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    with np.load(tmp_path / "out" / "猫 0.npz") as arrays:
        np.testing.assert_allclose(arrays["probabilities"].sum(-1), 1, atol=1e-5)
        assert len(arrays["probabilities"]) == 2
        shifts = [float(row["shift_pixels"]) for row in rows[: arrays["shifts"].size]]
        np.testing.assert_allclose(shifts, arrays["shifts"].ravel(), atol=1e-5)


def test_json(run: Run, weights: str, photos: Path, tmp_path: Path) -> None:
    done = run(
        "explain", "distribution", "-w", weights, photos, "--conf", 0, "--json", "-o",
        tmp_path / "out",
    )  # fmt: skip
    assert done.code == 0, done.err
    answer = json.loads(done.out)
    assert answer["kind"] == "distribution"
    assert [Path(image["path"]).name for image in answer["images"]] == ["猫 0.png", "猫 1.png"]
    assert all(len(image["detections"]) == 1 for image in answer["images"])
    assert all(Path(file).is_file() for image in answer["images"] for file in image["figures"])


def test_broken_pictures_are_told_at_the_end(
    run: Run, weights: str, photos: Path, tmp_path: Path
) -> None:
    (photos / "0.png").write_bytes(b"no image")
    done = run(
        "explain", "distribution", "-w", weights, photos, "--conf", 0, "-o", tmp_path / "out"
    )
    assert done.code == 4
    assert "1 image could not be read" in done.err
    assert len(list((tmp_path / "out").glob("*.png"))) == 2
    assert (tmp_path / "out" / "broken.txt").is_file()


def test_nothing_found(run: Run, weights: str, photos: Path, tmp_path: Path) -> None:
    done = run(
        "explain", "distribution", "-w", weights, photos, "--conf", 1, "-o", tmp_path / "out"
    )
    assert done.code == 0
    assert "nothing scores 1 or more" in done.out


def test_mistakes_are_found_before_anything_is_written(
    run: Run, weights: str, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    rtdetr = family("rtdetrv2").save(tmp_path / "rtdetr.pth")
    for arguments, said in (
        (["-w", weights], "missing argument"),
        (["-w", rtdetr, photos], "have no distributions"),
        (["-w", weights, photos, "--classes", "bird"], "knows no class"),
        (["-w", weights, photos, "--width", "broad"], "width broad"),
    ):
        done = run("explain", "distribution", *arguments)
        assert done.code == 2
        assert said in done.err, done.err
    assert not (tmp_path / "explain").exists()
