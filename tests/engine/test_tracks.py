"""Objects keep their numbers; sequences begin anew; what the package lacks is said."""

from __future__ import annotations

import sys
from dataclasses import replace
from types import ModuleType

import numpy as np
import pytest
import torch

from detrkit.engine.media.frame import Clip, Frame
from detrkit.engine.tracks import Tracking, tracker_class
from detrkit.errors import MissingExtraError, UsageError
from detrkit.structures import ClassMap, Detections

CLASSES = ClassMap.from_names(["cat", "dog"])


def frame(number: int, clip: Clip) -> Frame:
    noise = torch.from_numpy(
        np.random.default_rng(0).integers(0, 255, (3, 200, 300), dtype=np.uint8)
    )
    return Frame(noise, clip.name, clip, number, number / 10)


def two_objects(number: int, scores: tuple[float, float] = (0.9, 0.8)) -> Detections:
    """One goes right, one goes down."""
    boxes = [
        (10 + 5 * number, 20, 50 + 5 * number, 60),
        (200, 20 + 4 * number, 240, 70 + 4 * number),
    ]
    order = np.argsort([-s for s in scores], kind="stable")
    return Detections(
        np.array(boxes, np.float32)[order],
        np.array(scores, np.float32)[order],
        np.array([0, 1])[order],
        CLASSES,
        orig_size=(200, 300),
    )


@pytest.fixture
def package() -> None:
    pytest.importorskip("trackers")


@pytest.mark.usefixtures("package")
class TestTracks:
    @pytest.mark.parametrize("name", ["bytetrack", "botsort", "ocsort", "sort", "cbiou"])
    def test_numbers_stay(self, name: str) -> None:
        tracking, clip = Tracking(name, conf=0.3), Clip("a", rate=10.0)
        last: dict[int, list[int]] = {0: [], 1: []}
        for number in range(12):
            found = tracking.follow(two_objects(number), frame(number, clip))
            assert found.track_ids is not None
            assert (found.track_ids >= 1).all()
            assert (np.diff(found.scores) <= 0).all()
            for label, track in zip(found.labels.tolist(), found.track_ids.tolist(), strict=True):
                last[label].append(track)
        assert [len(set(ids)) for ids in last.values()] == [1, 1]
        assert min(map(len, last.values())) >= 9
        assert last[0][0] != last[1][0]

    def test_a_weak_box_carries_a_track_on(self) -> None:
        tracking, clip = Tracking("bytetrack", conf=0.5), Clip("a", rate=10.0)
        for number in range(4):
            tracking.follow(two_objects(number), frame(number, clip))
        found = tracking.follow(two_objects(4, (0.2, 0.8)), frame(4, clip))
        assert sorted(found.labels.tolist()) == [0, 1]
        for number in range(5, 9):  # but begins none
            lone = two_objects(number, (0.2, 0.8))
            lone = replace(
                lone, boxes_xyxy=lone.boxes_xyxy + np.float32([[0, 0, 0, 0], [40, 90, 40, 90]])
            )
            found = tracking.follow(lone, frame(number, clip))
        assert found.labels.tolist() == [1]

    def test_another_video_begins_anew(self) -> None:
        tracking = Tracking("bytetrack", conf=0.3)
        first: list[list[int]] = []
        for clip in (Clip("a", rate=10.0), Clip("b", rate=10.0)):
            for number in range(4):
                found = tracking.follow(two_objects(number), frame(number, clip))
            assert found.track_ids is not None
            first.append(sorted(found.track_ids.tolist()))
        assert first == [[1, 2], [1, 2]]

    def test_several_classes_of_one_box_are_one_object(self) -> None:
        tracking, clip = Tracking("bytetrack", conf=0.3), Clip("a", rate=10.0)
        for number in range(4):
            found = two_objects(number)
            twice = Detections(
                np.concatenate([found.boxes_xyxy, found.boxes_xyxy[:1]]),
                np.float32([0.9, 0.8, 0.35]),
                np.array([0, 1, 1]),
                CLASSES,
            )
            answer = tracking.follow(twice, frame(number, clip))
        assert answer.labels.tolist() == [0, 1]

    def test_nothing_found(self) -> None:
        tracking, clip = Tracking("ocsort", conf=0.3), Clip("a", rate=10.0)
        empty = two_objects(0).select(np.zeros(0, np.int64))
        for number in range(3):
            answer = tracking.follow(empty, frame(number, clip))
            assert len(answer) == 0
            assert answer.track_ids is not None

    def test_pictures_of_a_folder_are_a_sequence(self) -> None:
        tracking = Tracking("bytetrack", conf=0.3)
        image = torch.zeros(3, 200, 300, dtype=torch.uint8)
        for number in range(4):
            found = tracking.follow(two_objects(number), Frame(image, f"shots/{number}.jpg"))
        assert len(found) == 2
        assert len(tracking.follow(two_objects(4), Frame(image, "others/0.jpg"))) == 0

    def test_unknown_names(self) -> None:
        with pytest.raises(UsageError, match="did you mean `bytetrack`") as caught:
            Tracking("bytetrak", conf=0.3)
        assert "bytetrack, botsort, ocsort" in (caught.value.hint or "")


def test_what_an_old_package_lacks(monkeypatch: pytest.MonkeyPatch) -> None:
    old = ModuleType("trackers")
    old.SORTTracker = object  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "trackers", old)
    with pytest.raises(UsageError, match="no tracker `botsort`") as caught:
        tracker_class("botsort")
    assert caught.value.hint == "there is: sort"


def test_without_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "trackers", None)
    with pytest.raises(MissingExtraError) as caught:
        tracker_class("bytetrack")
    assert caught.value.hint == "pip install 'detrkit[track]'"
