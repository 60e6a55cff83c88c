"""Maps of false detections: planted boxes cover known cells, numbers are those of eval."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from detrkit.data.index import DatasetIndex
from detrkit.data.negatives import open_negatives
from detrkit.engine.over_activation import find_false_detections
from detrkit.engine.predictor import Predictor
from detrkit.errors import DataError
from detrkit.explain import over_activation
from detrkit.explain.over_activation import CELLS, OverActivationMaps
from detrkit.metrics import FalseDetections, Negatives
from detrkit.structures import Detections
from tests.engine.bright import CLASSES, picture
from tests.explain.likeness import assert_like
from tests.explain.test_distribution import detector_of


@pytest.fixture
def empty(tmp_path: Path) -> DatasetIndex:
    folder = tmp_path / "nothing"
    folder.mkdir()
    for number in range(5):
        size = (64 + 8 * number, 96)
        picture(size, (10 + 8 * number, 10, 50 + 8 * number, 50), number % 3).save(
            folder / f"{number}.png"
        )
    return open_negatives(folder, CLASSES)


def made(index: DatasetIndex) -> OverActivationMaps:
    """Two false detections in the first image, one in the third; none in the others."""
    boxes = np.array([[0.25, 0.5, 0.5, 1], [0.25, 0.25, 0.25, 0.25], [0.75, 0.5, 0.5, 1]])
    scores, images = np.array([0.8, 0.4, 0.6], np.float32), np.array([0, 0, 2])
    labels = np.array([2, 0, 2])
    found = FalseDetections()
    for number, path in enumerate(index.paths):
        own = images == number
        h, w = index.size(number)
        cx, cy, bw, bh = (boxes[own] * [w, h, w, h]).T
        corners = np.stack([cx - bw / 2, cy - bh / 2, cx + bw / 2, cy + bh / 2], -1)
        found.add(
            path, Detections(corners.astype(np.float32), scores[own], labels[own], CLASSES, (h, w))
        )
    return OverActivationMaps(
        negatives=Negatives(index, found), conf=0.3, boxes=boxes.astype(np.float32),
        scores=scores, labels=labels, images=images, queries=np.array([0, 4, 0]),
        levels=np.array([1, 0, 1]), strides=(16.0, 32.0),
    )  # fmt: skip


def test_planted_boxes_cover_their_cells(empty: DatasetIndex) -> None:
    maps = made(empty)
    half = CELLS // 2
    left, right = maps.activation[:, :half], maps.activation[:, half:]
    np.testing.assert_allclose(left, 0.8 / 5)  # the weaker box lies below the stronger one
    np.testing.assert_allclose(right, 0.6 / 5)
    np.testing.assert_allclose(maps.highest[:, :half], 0.8)
    np.testing.assert_allclose(maps.highest[:, half:], 0.6)
    values = maps.to_dict()
    assert values["queries"] == [2, 0, 0, 0, 1]
    assert values["levels"] == {"16": 1, "32": 2}
    assert values["images"] == 5
    rows = maps.rows()
    assert [row["class"] for row in rows] == ["dog", "cat", "dog"]
    assert rows[2]["image"] == empty.paths[2]


@pytest.fixture(scope="module")
def detector(tmp_path_factory: pytest.TempPathFactory) -> Predictor:
    return detector_of("dfine", tmp_path_factory.mktemp("dfine"))


def test_numbers_are_those_of_eval(detector: Predictor, empty: DatasetIndex) -> None:
    maps = over_activation(detector, empty, conf=0.2, batch=2)
    wanted = find_false_detections(detector.runtime, empty)
    assert wanted is not None
    assert maps.negatives.found.paths == wanted.paths
    for mine, theirs in zip(maps.negatives.found.scores, wanted.scores, strict=True):
        np.testing.assert_allclose(mine, theirs, atol=1e-5)
    counts = [int((scores >= 0.2).sum()) for scores in wanted.scores]
    assert np.bincount(maps.images, minlength=5).tolist() == counts
    for number, path in enumerate(empty.paths):
        h, w = empty.size(number)
        cx, cy, bw, bh = (maps.boxes[maps.images == number] * [w, h, w, h]).T
        boxes = np.stack([cx - bw / 2, cy - bh / 2, cx + bw / 2, cy + bh / 2], -1)
        answers = detector.predict(path, conf=0.2)
        np.testing.assert_allclose(boxes, answers.boxes_xyxy, atol=0.05)
        assert maps.labels[maps.images == number].tolist() == answers.labels.tolist()


def test_nothing_false_is_a_figure_too(detector: Predictor, empty: DatasetIndex) -> None:
    maps = over_activation(detector, empty, conf=1.0)
    assert len(maps.scores) == 0
    assert not maps.activation.any()
    maps.figure()


def test_broken_images(detector: Predictor, empty: DatasetIndex) -> None:
    Path(empty.paths[0]).write_bytes(b"no image")
    maps = over_activation(detector, empty)
    assert list(maps.negatives.found.broken) == [empty.paths[0]]
    for path in empty.paths:
        Path(path).write_bytes(b"no image")
    with pytest.raises(DataError, match="can be read"):
        over_activation(detector, empty)


def test_figure(empty: DatasetIndex, tmp_path: Path) -> None:
    assert_like(made(empty).figure(), "over_activation", tmp_path)
