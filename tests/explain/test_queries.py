"""Statistics of queries: planted answers give known numbers, real ones are the detector's."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from detrkit.data.index import DatasetIndex
from detrkit.engine.predictor import Predictor
from detrkit.errors import DataError, UsageError
from detrkit.explain import queries
from detrkit.explain.images import batches_of
from detrkit.explain.queries import QueryStatistics, gini
from detrkit.structures import ClassMap, ImageSpec
from tests.engine.bright import bright_runtime
from tests.engine.test_evaluator import BOXES, write_coco
from tests.explain.likeness import assert_like
from tests.explain.test_distribution import detector_of

counts = st.lists(st.integers(0, 50), min_size=1, max_size=30)


@given(counts, st.integers(1, 5), st.randoms())
@settings(max_examples=50)
def test_gini(values: list[int], factor: int, random: Any) -> None:
    found = gini(np.array(values))
    if not sum(values):
        assert np.isnan(found)
        return
    n = len(values)
    pairs = sum(abs(a - b) for a in values for b in values)
    assert found == pytest.approx(pairs / (2 * n * sum(values)))
    shuffled = random.sample(values, n)
    assert gini(factor * np.array(shuffled)) == pytest.approx(found)
    assert -1e-9 <= found <= (n - 1) / n + 1e-9


def test_gini_at_its_ends() -> None:
    assert gini(np.full(7, 3)) == pytest.approx(0)
    assert gini(np.array([0, 0, 0, 5])) == pytest.approx(3 / 4)


def made(images: int = 40, count: int = 12, boxes: int = 30) -> QueryStatistics:
    """Query q detects with a score that falls with q; small boxes come from the fine level."""
    rng = np.random.default_rng(3)
    start = rng.uniform(0.2, 0.8, (images, count, 4)).astype(np.float32)
    start[..., 2:] *= 0.5
    scores = (0.95 * 0.8 ** np.arange(count) * rng.uniform(0.7, 1, (images, count))).astype(
        np.float32
    )
    return QueryStatistics(
        boxes=start + np.float32(0.02),
        start=start,
        scores=scores,
        labels=rng.integers(0, 2, (images, count)),
        levels=(start[..., 2] > 0.25).astype(np.int64),
        strides=(16.0, 32.0),
        first_proposal=np.minimum(rng.geometric(0.3, boxes) - 1, count),
        first_answer=np.minimum(rng.geometric(0.25, boxes) - 1, count),
        learned=False,
        conf=0.3,
        class_map=ClassMap.from_names(["cat", "dog"]),
        paths=tuple(f"{i}.png" for i in range(images)),
    )


def test_planted_numbers() -> None:
    found = made()
    scores = np.zeros((4, 3), np.float32)
    scores[:, 0], scores[0, 2] = 0.9, 0.3
    found = replace(
        found, boxes=found.boxes[:4, :3], start=found.start[:4, :3], levels=found.levels[:4, :3],
        scores=scores, labels=np.array([[1, 0, 0]] * 4), paths=("a", "b", "c", "d"),
        first_proposal=np.array([0, 2, 3, 3]), first_answer=np.array([0, 0, 1, 3]),
    )  # fmt: skip
    assert found.usage.tolist() == [4, 0, 1]
    assert [found.needed(share) for share in (0.5, 0.8, 0.81, 1)] == [1, 1, 3, 3]
    assert found.coverage(found.first_proposal).tolist() == [0.25, 0.25, 0.5]
    assert found.coverage(found.first_answer).tolist() == [0.5, 0.75, 0.75]
    assert found.class_counts.tolist() == [[0, 4], [0, 0], [1, 0]]
    first, second, third = found.rows()
    assert (first["detections"], first["top_class"], first["top_class_share"]) == (4, "dog", 1)
    assert first["mean_move"] == pytest.approx(np.hypot(0.02, 0.02), rel=1e-4)
    assert first["mean_cx"] == pytest.approx(float(found.boxes[:, 0, 0].mean()))
    assert second["mean_cx"] is second["top_class"] is None
    assert third["detections"] == 1
    assert first["stride_16"] + first["stride_32"] == pytest.approx(1)
    values = found.to_dict()
    assert values["classes"] == {"cat": 1, "dog": 4}
    assert values["queries_with_detections"] == 2


def test_nothing_is_found_and_nothing_is_true() -> None:
    none = np.zeros(0, np.int64)
    found = replace(made(), conf=1.0, first_proposal=none, first_answer=none)
    assert np.isnan(found.inequality)
    assert found.needed(0.9) == 0
    assert np.isnan(found.coverage(found.first_answer)).all()
    assert {row["top_class"] for row in found.rows()} == {None}
    found.figure()
    found.slots_figure()


@pytest.fixture(scope="module")
def detector(tmp_path_factory: pytest.TempPathFactory) -> Predictor:
    return detector_of("deimv2_hgnet", tmp_path_factory.mktemp("deimv2"))


@pytest.fixture
def index(tmp_path: Path) -> DatasetIndex:
    return write_coco(tmp_path, [7, 3, 12, 5])


@pytest.mark.parametrize("resize", ["stretch", "letterbox"])
@pytest.mark.parametrize("name", ["rtdetrv2", "dfine", "deimv2_hgnet"])
def test_boxes_are_those_of_predict(
    name: str, resize: str, index: DatasetIndex, tmp_path: Path
) -> None:
    detector = detector_of(name, tmp_path)
    spec = replace(detector.image_spec, resize=resize)  # type: ignore[arg-type]
    detector.runtime.image_spec = spec
    steps: list[tuple[int, int]] = []
    found = queries(detector, index, conf=0, batch=3, progress=lambda *a: steps.append(a))
    assert steps == [(1, 2), (2, 2)]
    assert (found.images, found.queries) == (4, 10)
    assert found.paths == tuple(index.paths)
    for number, path in enumerate(found.paths):
        best = detector.predict(path, conf=0)[0]
        query = int(found.scores[number].argmax())
        assert found.scores[number, query] == pytest.approx(best.score, abs=1e-5)
        assert found.labels[number, query] == best.label
        h, w = index.size(number)
        cx, cy, bw, bh = found.boxes[number, query] * [w, h, w, h]
        box = (cx - bw / 2, cy - bh / 2, cx + bw / 2, cy + bh / 2)
        np.testing.assert_allclose(box, best.box_xyxy, atol=0.05)
    assert len(found.first_answer) == index.num_boxes
    assert (found.first_answer <= 10).all()


@pytest.mark.parametrize("resize", ["stretch", "letterbox"])
def test_targets_come_back_to_their_pixels(resize: str, index: DatasetIndex) -> None:
    spec = ImageSpec((64, 96), resize=resize)  # type: ignore[arg-type]
    (shown,) = batches_of(index, spec, 4)
    for image, box in zip(shown, BOXES, strict=True):
        back = spec.restore_boxes(image.target.boxes_cxcywh, image.size)
        np.testing.assert_allclose(back[0], box, atol=0.01)


def test_broken_images_are_passed_over(detector: Predictor, tmp_path: Path) -> None:
    index = write_coco(tmp_path, [7, 3, 12, 5])
    (tmp_path / "1.png").write_bytes(b"no image")
    found = queries(detector, index)
    assert found.images == 3
    assert found.broken == (index.paths[1],)
    for path in index.paths:
        Path(path).write_bytes(b"no image")
    with pytest.raises(DataError, match="none of its 4 images"):
        queries(detector, index)


def test_images_without_boxes(detector: Predictor, index: DatasetIndex) -> None:
    bare = replace(index, iscrowd=np.ones(index.num_boxes, bool))
    found = queries(detector, bare, conf=0)
    assert len(found.first_answer) == 0
    assert found.to_dict()["boxes"] == 0
    found.figure("column")


def test_the_same_images_every_time(index: DatasetIndex) -> None:
    assert list(index.spread(2).paths) == [index.paths[0], index.paths[3]]
    assert index.spread(None) is index.spread(9) is index


def test_a_foreign_detector_says_so(index: DatasetIndex) -> None:
    with pytest.raises(UsageError, match="cannot be looked into"):
        queries(bright_runtime(), index)


@pytest.mark.parametrize("width", ["page", "column"])
def test_figures(width: str, tmp_path: Path) -> None:
    assert_like(made().figure(width), f"queries_{width}", tmp_path)


def test_single_queries(tmp_path: Path) -> None:
    assert_like(made().slots_figure("page", 6), "slots", tmp_path)
