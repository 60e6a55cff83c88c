"""Tiles cover the picture, and objects that borders cut are one object in the end."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from detrkit.engine.predictor import Predictor
from detrkit.engine.tiling import Tiling, Window, crop, merge
from detrkit.errors import UsageError
from detrkit.structures import ClassMap, Detections
from tests.engine.bright import bright_runtime, picture

CLASSES = ClassMap.from_names(["cat", "dog"])
SIDES = st.integers(1, 700)


def found(
    boxes: list[tuple[float, float, float, float]],
    scores: list[float] | None = None,
    labels: list[int] | None = None,
) -> Detections:
    return Detections(
        boxes_xyxy=np.array(boxes, np.float32).reshape(-1, 4),
        scores=np.array(scores or [0.9] * len(boxes), np.float32),
        labels=np.array(labels or [0] * len(boxes), np.int64),
        class_map=CLASSES,
        orig_size=(100, 100),
    )


def seen_in(objects: np.ndarray, window: Window, score: float) -> Detections:
    """What a perfect detector says about a view: each object as far as it is in there."""
    corner = np.array(window[:2] * 2)
    size = np.array([window[2] - window[0], window[3] - window[1]] * 2)
    boxes = np.clip(objects - corner, 0, size)
    visible = (boxes[:, 2:] > boxes[:, :2]).all(1)
    return found([tuple(b) for b in boxes[visible]], [score] * int(visible.sum()))


class TestWindows:
    @given(SIDES, SIDES, st.integers(32, 200), st.integers(32, 200), st.floats(0, 0.8))
    @settings(max_examples=150)
    def test_they_cover_the_picture(self, h: int, w: int, th: int, tw: int, lap: float) -> None:
        tiling = Tiling((th, tw), lap)
        windows = tiling.windows((h, w))
        counts = np.zeros((h, w), int)
        for left, top, right, bottom in windows:
            assert 0 <= left < right <= w
            assert 0 <= top < bottom <= h
            assert (bottom - top, right - left) == (min(th, h), min(tw, w))
            counts[top:bottom, left:right] += 1
        assert counts.min() >= 1
        assert len(set(windows)) == len(windows)
        columns = sorted({window[0] for window in windows})
        assert all(b - a <= max(int(tw * (1 - lap)), 1) for a, b in pairwise(columns))

    @given(st.integers(200, 700), st.integers(200, 700), st.data())
    @settings(max_examples=100)
    def test_what_is_smaller_than_the_overlap_is_whole_somewhere(
        self, h: int, w: int, data: st.DataObject
    ) -> None:
        tiling = Tiling((128, 128), 0.25)
        side = 32
        x = data.draw(st.integers(0, w - side))
        y = data.draw(st.integers(0, h - side))
        assert any(
            left <= x and top <= y and x + side <= right and y + side <= bottom
            for left, top, right, bottom in tiling.windows((h, w))
        )

    @pytest.mark.parametrize(
        ("size", "lap", "message"), [(16, 0.2, "at least 32"), (640, 0.95, "below 0.9")]
    )
    def test_mistakes(self, size: int, lap: float, message: str) -> None:
        with pytest.raises(UsageError, match=message):
            Tiling((size, size), lap)


class TestMerge:
    WINDOWS = ((0, 0, 180, 100), (0, 0, 100, 100), (80, 0, 180, 100))

    def test_one_view_is_left_alone(self) -> None:
        only = found([(1, 2, 3, 4), (1, 2, 3, 4)], [0.5, 0.4])
        assert merge([only], [(0, 0, 100, 100)]) is only

    def test_two_parts_of_one_object_become_one(self) -> None:
        """Not seen in the whole picture; each tile has a part, more than half outside the other."""
        answer = merge(
            [found([]), found([(40, 20, 100, 60)], [0.7]), found([(0, 21, 60, 60)], [0.8])],
            self.WINDOWS,
        )
        np.testing.assert_allclose(answer.boxes_xyxy, [(40, 20, 140, 60)], atol=1)
        np.testing.assert_allclose(answer.scores, [0.8])

    def test_a_whole_box_is_believed(self) -> None:
        answer = merge(
            [
                found([(41, 20, 139, 61)], [0.4]),
                found([(40, 20, 100, 60)], [0.7]),
                found([(0, 20, 60, 60)], [0.9]),
            ],
            self.WINDOWS,
        )
        np.testing.assert_allclose(answer.boxes_xyxy, [(41, 20, 139, 61)])
        np.testing.assert_allclose(answer.scores, [0.9])

    def test_other_classes_and_neighbours_stay(self) -> None:
        answer = merge(
            [
                found([]),
                found([(40, 20, 100, 60), (40, 70, 100, 90)], labels=[0, 0]),
                found([(0, 20, 60, 60), (0, 62, 20, 68)], labels=[1, 0]),
            ],
            self.WINDOWS,
        )
        assert len(answer) == 4

    def test_what_is_larger_than_a_tile_is_for_the_whole_picture_to_say(self) -> None:
        windows = [(0, 0, 300, 100), *Tiling((100, 100), 0.2).windows((100, 300))]
        passages = [found([(0, 20, 100, 60)]) for _ in windows[1:]]
        answer = merge([found([(5, 20, 290, 60)]), *passages], windows)
        np.testing.assert_allclose(answer.boxes_xyxy, [(5, 20, 290, 60)])
        alone = merge([found([]), *passages], windows)  # the outer two end in the picture
        assert (alone.boxes_xyxy[:, 2] - alone.boxes_xyxy[:, 0] <= 100).all()

    def test_a_small_object_before_a_large_one_stays(self) -> None:
        """Whole boxes are not parts of others, however much they lie inside."""
        answer = merge(
            [found([(10, 10, 170, 90)]), found([(30, 30, 50, 50)]), found([])], self.WINDOWS
        )
        assert len(answer) == 2

    def test_one_view_does_not_contradict_itself(self) -> None:
        answer = merge(
            [found([]), found([(10, 10, 30, 30), (11, 10, 30, 30)]), found([])], self.WINDOWS
        )
        assert len(answer) == 2

    @given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 3)), max_size=8, unique=True))
    @settings(max_examples=60)
    def test_objects_apart_are_found_once_and_exactly(self, cells: list[tuple[int, int]]) -> None:
        """A perfect detector on every view: the joint answer is the truth."""
        objects = np.array(
            [(60 * x + 3 * y, 60 * y + 5 * x, 60 * x + 3 * y + 38, 60 * y + 5 * x + 29)
             for x, y in cells], float,
        ).reshape(-1, 4)  # fmt: skip
        windows = [(0, 0, 400, 300), *Tiling((128, 128), 0.25).windows((300, 400))]
        views = [seen_in(objects, window, 0.5 + 0.01 * i) for i, window in enumerate(windows)]
        answer = merge(views, windows)
        assert len(answer) == len(objects)
        order = np.lexsort(answer.boxes_xyxy[:, :2].T)
        np.testing.assert_allclose(
            answer.boxes_xyxy[order], objects[np.lexsort(objects[:, :2].T)], atol=1e-3
        )
        assert (np.diff(answer.scores) <= 0).all()

    @given(st.integers(0, 2**31))
    @settings(max_examples=40)
    def test_any_boxes(self, seed: int) -> None:
        rng = np.random.default_rng(seed)
        views = []
        for _ in self.WINDOWS:
            corners = rng.uniform(-10, 90, (rng.integers(0, 12), 2))
            boxes = np.concatenate([corners, corners + rng.uniform(0, 40, corners.shape)], 1)
            views.append(
                found(
                    [tuple(b) for b in boxes],
                    rng.random(len(boxes)).tolist(),
                    rng.integers(0, 2, len(boxes)).tolist(),
                )
            )
        answer = merge(views, self.WINDOWS)
        assert len(answer) <= sum(map(len, views))
        assert len(answer) >= max(map(len, views))  # a view's own boxes are never joined
        assert np.isfinite(answer.boxes_xyxy).all()


class TestDetector:
    def test_a_picture_that_fits_is_detected_on_as_ever(self) -> None:
        detector = Predictor(bright_runtime())
        plain = detector.predict(picture(), conf=0)
        tiled = detector.predict(picture(), conf=0, tiling=192)
        np.testing.assert_array_equal(tiled.boxes_xyxy, plain.boxes_xyxy)
        np.testing.assert_array_equal(tiled.scores, plain.scores)

    def test_a_small_object_in_a_large_picture(self) -> None:
        """Too small for the model's input of 64 x 96 pixels, and on the border of two tiles."""
        pixels = np.zeros((600, 900, 3), np.uint8)
        pixels[290:298, 445:453, 0] = 255
        detector = Predictor(bright_runtime())
        assert len(detector.predict(pixels)) == 0
        (only,) = detector.predict([pixels], tiling=Tiling((96, 128), 0.2))
        np.testing.assert_allclose(only.boxes_xyxy, [(445, 290, 453, 298)], atol=3)
        assert only.orig_size == (600, 900)

    def test_batches_of_tiles_and_pictures_in_order(self) -> None:
        runtime = bright_runtime()
        detector = Predictor(runtime)
        pictures = [picture((128, 192 if i % 2 else 96), (20, 20, 70, 70), i % 3) for i in range(5)]
        answers = detector.predict(pictures, tiling=100, batch=4)
        assert [a.names[0] for a in answers] == ["cat", "猫", "dog", "cat", "猫"]
        assert max(runtime.model.batches) <= 4  # type: ignore[operator,arg-type]
        for answer in answers:
            np.testing.assert_allclose(answer.boxes_xyxy[0], (20, 20, 70, 70), atol=3)

    def test_crops_are_views(self) -> None:
        image = torch.arange(48).reshape(3, 4, 4)
        assert crop(image, (1, 2, 3, 4)).tolist() == image[:, 2:4, 1:3].tolist()
