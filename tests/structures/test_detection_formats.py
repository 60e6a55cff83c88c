"""Detections as lines of YOLO and MOTChallenge, and as JSON of a frame."""

from __future__ import annotations

import json

import numpy as np

from detrkit.structures import ClassMap, Detections

CLASSES = ClassMap(("cat", "猫"), (7, 3))


def found(**changes: object) -> Detections:
    values: dict[str, object] = {
        "boxes_xyxy": np.array(
            [[10, 20, 30, 60], [-50, 0, 100, 200], [300, 0, 310, 5]], np.float32
        ),
        "scores": np.array([0.9, 0.8, 0.7], np.float32),
        "labels": np.array([1, 0, 0]),
        "class_map": CLASSES,
        "orig_size": (100, 200),
    }
    return Detections(**{**values, **changes})  # type: ignore[arg-type]


def test_yolo_cuts_off_and_leaves_out() -> None:
    assert found().to_yolo().splitlines() == [
        "1 0.100000 0.400000 0.100000 0.400000",
        "0 0.250000 0.500000 0.500000 1.000000",
    ]
    assert found().select(np.zeros(0, np.int64)).to_yolo() == ""


def test_mot_counts_from_one() -> None:
    lines = found().to_mot(5).splitlines()
    assert lines[0] == "5,-1,10.00,20.00,20.00,40.00,0.9000,-1,-1,-1"
    tracked = found(track_ids=np.array([4, 2, 9])).to_mot(1).splitlines()
    assert [line.split(",")[1] for line in tracked] == ["4", "2", "9"]


def test_frames_say_when_they_are() -> None:
    assert "frame" not in found().to_dict()
    entry = json.loads(found(frame=3, seconds=0.25, track_ids=np.array([4, 2, 9])).to_json())
    assert (entry["frame"], entry["seconds"]) == (3, 0.25)
    assert [d["track_id"] for d in entry["detections"]] == [4, 2, 9]
