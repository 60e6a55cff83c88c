"""Files of detections: read back as written, and what is wrong with them said in a line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from detrkit.data import json_stream
from detrkit.errors import DataError, DetrkitError
from detrkit.metrics import Predictions, Truth
from detrkit.metrics.results_file import read_results, write_results
from tests.metrics.made import scene

TRUTH, FOUND = scene(4, images=5, boxes=6, detections=30)


def row(**changes: Any) -> dict[str, Any]:
    entry = {"image_id": TRUTH.image_ids[0], "category_id": 5, "bbox": [1, 2, 3, 4], "score": 0.5}
    return {key: value for key, value in {**entry, **changes}.items() if value is not ...}


def write(path: Path, content: Any) -> Path:
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return path


def test_round_trip_is_exact(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("detrkit.metrics.results_file._BATCH", 7)
    monkeypatch.setattr(json_stream, "BLOCK", 100)  # many pieces
    file = tmp_path / "p.json"
    write_results(file, FOUND, TRUTH.image_ids, TRUTH.class_map.category_ids)
    assert len(json.loads(file.read_text(encoding="utf-8"))) == len(FOUND)
    read = read_results(file, TRUTH)
    assert (read.rows, read.left_out) == (len(FOUND), {})
    for name in ("images", "labels", "scores", "boxes_xywh"):
        np.testing.assert_array_equal(getattr(read.predictions, name), getattr(FOUND, name))


def test_nothing_found_is_an_empty_list(tmp_path: Path) -> None:
    file = tmp_path / "p.json"
    write_results(file, Predictions.empty(), TRUTH.image_ids, TRUTH.class_map.category_ids)
    assert json.loads(file.read_text(encoding="utf-8")) == []
    assert read_results(file, TRUTH).rows == 0


def test_text_ids(tmp_path: Path) -> None:
    """An id is the same as text and as a number."""
    file = write(tmp_path / "p.json", [row(image_id=str(TRUTH.image_ids[2]), category_id="6")])
    found = read_results(file, TRUTH).predictions
    assert (found.images.tolist(), found.labels.tolist()) == ([2], [1])


def test_what_does_not_fit_is_left_out_and_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rows = [
        row(), row(image_id=-7), row(category_id=99), row(image_id=-7, score=None),
        row(bbox=[1, 2, 3, float("nan")]), row(score=float("inf")), row(score="0.25"),
    ]  # fmt: skip
    read = read_results(write(tmp_path / "p.json", rows), TRUTH)
    assert read.left_out == {
        "of unknown images": 2, "of unknown categories": 1,
        "with values that are no finite numbers": 2,
    }  # fmt: skip
    assert read.rows == len(rows) == len(read.predictions) + sum(read.left_out.values())
    assert read.predictions.scores.tolist() == [0.5, 0.25]
    assert len(caplog.messages) == 3
    assert "2 of 7 detections of unknown images left out, e.g. image_id -7" in caplog.text
    assert "entry 4" in caplog.text


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"images": [], "annotations": []}, "annotations, not a list of detections"),
        ({"a": 1}, "an object, not a list of detections"),
        ("[1, 2", "not readable as JSON"),
        ("nonsense", "not readable as JSON"),
        ("[] []", "Extra data"),
        ([17], "entry 0 is no object"),
        ([row(), row(bbox=...)], "entry 1: `bbox` is missing"),
        ([row(bbox=..., box=[1, 2, 3, 4])], "did you mean `box`"),
        ([row(score=...)], "`score` is missing"),
        ([row(bbox=[1, 2, 3])], r"`bbox` must be \[x, y, width, height\]"),
        ([row(bbox={"x": 1})], "`bbox` must be"),
        ([row(image_id=None)], "`image_id` is None, no id"),
        ([row(bbox=..., keypoints=[1, 2, 2])], "holds key points, not a box"),
        ([row(bbox=..., segmentation={"counts": ""})], "holds masks, not a box"),
        ([row(bbox=..., caption="a cat")], "holds captions, not a box"),
        ([row(image_id=-1), row(image_id=-2)], "all 2 detections are of unknown images"),
        ([row(category_id=77)], "all 1 detections are of unknown categories"),
        ([row(score=None)], "all 1 detections are with values that are no finite"),
    ],
)
def test_mistakes_are_named(tmp_path: Path, content: Any, message: str) -> None:
    file = write(tmp_path / "p.json", content)
    with pytest.raises(DataError, match=message) as error:
        read_results(file, TRUTH)
    assert str(file) in error.value.message
    assert "\n" not in error.value.message


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="nowhere"):
        read_results(tmp_path / "nowhere.json", TRUTH)


def test_a_failed_write_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = write(tmp_path / "p.json", "old")

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(DetrkitError, match="no space left"):
        write_results(file, FOUND, TRUTH.image_ids, TRUTH.class_map.category_ids)
    assert file.read_text(encoding="utf-8") == "old"
    assert list(tmp_path.iterdir()) == [file]


def test_truth_sorts_images_by_id() -> None:
    assert list(TRUTH.image_ids) == sorted(TRUTH.image_ids)
    assert isinstance(TRUTH, Truth)
    assert (np.diff(TRUTH.images) >= 0).all()
