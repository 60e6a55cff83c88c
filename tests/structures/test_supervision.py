"""Detections for supervision: its annotators and filters take them."""

from __future__ import annotations

import sys
import warnings
from typing import Any

import numpy as np
import pytest

from detrkit.errors import MissingExtraError
from detrkit.structures import ClassMap, Detections

CLASSES = ClassMap(("cat", "猫"), (4, 9))


def made(count: int, **more: Any) -> Detections:
    boxes = np.array([[5 + i, 5, 25 + i, 30] for i in range(count)], np.float32).reshape(-1, 4)
    scores = np.linspace(0.9, 0.2, count, dtype=np.float32)
    return Detections(boxes, scores, np.arange(count) % 2, CLASSES, (40, 60), **more)


@pytest.fixture
def supervision() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pytest.importorskip("supervision")


def test_all_columns_arrive(supervision: Any) -> None:
    found = made(3, track_ids=np.array([7, 8, 9]))
    other = found.to_supervision()
    np.testing.assert_array_equal(other.xyxy, found.boxes_xyxy)
    np.testing.assert_array_equal(other.confidence, found.scores)
    np.testing.assert_array_equal(other.tracker_id, [7, 8, 9])
    assert other.data["class_name"].tolist() == ["cat", "猫", "cat"]
    sure = other[other.confidence > 0.5]
    assert len(sure) == 2
    picture = np.zeros((40, 60, 3), np.uint8)
    drawn = supervision.BoxAnnotator().annotate(picture.copy(), other)
    assert drawn.any()


def test_an_image_without_detections(supervision: Any) -> None:
    empty = made(0).to_supervision()
    assert len(empty) == 0
    assert empty.data["class_name"].dtype.kind == "U"
    assert len(supervision.Detections.merge([made(2).to_supervision(), empty])) == 2


def test_without_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "supervision", None)
    with pytest.raises(MissingExtraError, match="supervision"):
        made(1).to_supervision()
