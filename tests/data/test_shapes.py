from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from detrkit.data import open_dataset, open_splits, read_image
from detrkit.data.drawings import CLASSES, MIN_VISIBLE, draw
from detrkit.data.shapes import ShapesSpec, ensure, is_shapes
from detrkit.errors import DataError, UsageError


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DETRKIT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


TEXT = "shapes://?train=8&val=4&size=96&seed=3"


def test_drawn_once_and_complete(cache: Path) -> None:
    parts = open_splits(TEXT)
    assert {name: len(part) for name, part in parts.items()} == {"train": 8, "val": 4}
    assert parts["train"].class_map.names == CLASSES
    assert parts["train"].class_map == parts["val"].class_map
    (folder,) = cache.iterdir()  # no drafts are left behind
    before = {f: f.stat().st_mtime_ns for f in folder.rglob("*")}
    open_splits(TEXT)
    assert {f: f.stat().st_mtime_ns for f in folder.rglob("*")} == before


def test_a_single_split() -> None:
    assert len(open_dataset(TEXT, "val")) == 4
    with pytest.raises(DataError, match="no split `test`"):
        open_dataset(TEXT, "test")


def test_pictures_are_functions_of_seed_split_and_number() -> None:
    first, again = draw(1, 0, 5, 64), draw(1, 0, 5, 64)
    np.testing.assert_array_equal(first.pixels, again.pixels)
    np.testing.assert_array_equal(first.boxes_xyxy, again.boxes_xyxy)
    for other in (draw(2, 0, 5, 64), draw(1, 1, 5, 64), draw(1, 0, 6, 64)):
        assert not np.array_equal(first.pixels, other.pixels)


def test_files_hold_what_was_drawn() -> None:
    spec = ShapesSpec.parse(TEXT)
    index = open_dataset(TEXT, "train")
    for number in range(len(index)):
        drawing = draw(spec.seed, 0, number, spec.size)
        rows = index.boxes_of(number)
        np.testing.assert_array_equal(index.boxes_xyxy[rows], drawing.boxes_xyxy)
        np.testing.assert_array_equal(index.labels[rows], drawing.labels)
        read = read_image(index.paths[number]).permute(1, 2, 0).numpy()
        assert np.abs(read.astype(int) - drawing.pixels).mean() < 8  # JPEG halves the colour


def test_boxes_are_visible_varied_and_inside() -> None:
    drawings = [draw(0, 0, number, 128) for number in range(150)]
    boxes = np.concatenate([d.boxes_xyxy for d in drawings])
    labels = np.concatenate([d.labels for d in drawings])
    assert (boxes >= 0).all()
    assert (boxes <= 128).all()
    sides = np.sqrt((boxes[:, 2:] - boxes[:, :2]).prod(1))
    assert np.quantile(sides, 0.05) < 16
    assert np.quantile(sides, 0.95) > 40
    assert np.bincount(labels, minlength=len(CLASSES)).min() > 0.12 * len(labels)
    assert any(not len(d.labels) for d in drawings)
    areas = np.concatenate([d.areas for d in drawings])
    assert areas.min() >= 40 * MIN_VISIBLE


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("shapes://?trian=5", "did you mean `train`"),
        ("shapes://?train=many", "whole number"),
        ("shapes://?train=0", "train of 1 or more"),
        ("shapes://?size=8", "size from 32"),
    ],
)
def test_wrong_settings(text: str, expected: str) -> None:
    with pytest.raises(UsageError, match=expected):
        open_splits(text)


def test_what_counts_as_shapes() -> None:
    assert is_shapes("shapes")
    assert is_shapes("shapes://?train=3")
    assert not is_shapes("./shapes")
    assert not is_shapes(Path("data/shapes"))


def test_a_cache_that_cannot_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("DETRKIT_CACHE", str(tmp_path / "file" / "cache"))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    root = ensure(ShapesSpec(train=1, val=0, size=32))
    assert (root / "annotations" / "instances_train.json").is_file()
    assert "cannot be written" in caplog.text
