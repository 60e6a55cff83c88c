"""Detections as a sequence: iteration, indexing, filters."""

from __future__ import annotations

import numpy as np
import pytest

from detrkit.errors import UsageError
from detrkit.structures import ClassMap, Detections
from detrkit.structures.detections import Detection

CLASSES = ClassMap(("cat", "Dog", "7"), (4, 9, 2))


def made(track_ids: bool = False) -> Detections:
    boxes = np.arange(16, dtype=np.float32).reshape(4, 4)
    return Detections(
        boxes_xyxy=boxes,
        scores=np.array([0.9, 0.7, 0.5, 0.25], np.float32),
        labels=np.array([1, 0, 1, 2]),
        class_map=CLASSES,
        orig_size=(20, 30),
        track_ids=np.array([5, 6, 7, 8]) if track_ids else None,
    )


def test_iteration_gives_plain_numbers() -> None:
    found = list(made(track_ids=True))
    assert found[0] == Detection((0.0, 1.0, 2.0, 3.0), pytest.approx(0.9), 1, "Dog", 9, 5)
    assert [d.name for d in found] == ["Dog", "cat", "Dog", "7"]
    assert made()[-1].category_id == 2
    assert made()[-1].track_id is None
    assert type(found[0].score) is float
    assert type(found[0].box_xyxy[0]) is float
    with pytest.raises(IndexError):
        made()[4]


def test_slices_and_masks_give_detections() -> None:
    assert made()[1:3].names == ["cat", "Dog"]
    assert made()[made().scores > 0.6].names == ["Dog", "cat"]
    assert made(track_ids=True)[np.array([3])].track_ids.tolist() == [8]  # type: ignore[union-attr]


def test_filter() -> None:
    assert made().filter().names == made().names
    assert made().filter(conf=0.5).names == ["Dog", "cat", "Dog"]
    assert made().filter(classes=["dog", "cat"], max_det=2).names == ["Dog", "cat"]
    assert made().filter(classes=[]).names == []
    with pytest.raises(UsageError, match="no class `Dgo`, did you mean `Dog`"):
        made().filter(classes=["Dgo"])


def test_text() -> None:
    assert repr(made()) == "<Detections, 20x30: 2 Dog, 1 cat, 1 7>"
    assert repr(made().filter(conf=1)) == "<Detections, 20x30: nothing>"


def test_classes_by_name_and_index() -> None:
    assert CLASSES.indices(["CAT", 2, "1"]) == [0, 2, 1]
    assert CLASSES.indices(["7"]) == [2]  # a name before a number
    for wrong in ("-1", 3, "²"):
        with pytest.raises(UsageError):
            CLASSES.indices([wrong])
