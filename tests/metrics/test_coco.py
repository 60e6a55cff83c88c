"""COCO numbers: the stored ones, both backends alike, and what happens at the edges."""

from __future__ import annotations

import contextlib
import io
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from detrkit.errors import DataError, UsageError
from detrkit.metrics import METRIC_NAMES, CocoEvaluator, Metrics, coco
from detrkit.metrics.coco import DEFAULT_BACKEND, Backend, checked_backend
from detrkit.structures import ClassMap
from tests.metrics.cases import Columns, detections, detections_from_results, from_coco, load

BACKENDS = get_args(Backend)
ABC = ClassMap(("a", "b", "c"), (7, 3, 90))


def scene(*images: list[tuple[Any, ...]]) -> Columns:
    """Images of (label, x1, y1, x2, y2[, iscrowd[, area]]); classes a, b, c; ids "im0", …"""
    rows = [row for image in images for row in image]
    boxes = np.array([row[1:5] for row in rows], np.float64).reshape(-1, 4)
    areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    return Columns(
        image_ids=[f"im{i}" for i in range(len(images))],
        sizes=np.full((len(images), 2), 200),
        offsets=np.cumsum([0, *(len(image) for image in images)]),
        boxes_xyxy=boxes,
        labels=np.array([row[0] for row in rows], np.int64),
        iscrowd=np.array([len(row) > 5 and row[5] for row in rows], bool),
        area=np.array([row[6] if len(row) > 6 else a for row, a in zip(rows, areas, strict=True)]),
        class_map=ABC,
    )


def evaluate(columns: Columns, found: list[Any], backend: Any = "detrkit") -> Metrics:
    evaluator = CocoEvaluator(columns, backend=backend)
    evaluator.update(found)
    return evaluator.compute()


@pytest.mark.parametrize("backend", BACKENDS)
class TestStoredNumbers:
    """100 COCO images whose scores pycocotools 2.0.11 found and faster-coco-eval publishes."""

    EXPECTED = (
        0.5046, 0.6970, 0.5730, 0.5856, 0.5194, 0.5014,
        0.3868, 0.5937, 0.5954, 0.6398, 0.5664, 0.5643,
    )  # fmt: skip

    def test_twelve_numbers(self, shared_data: Any, backend: Any) -> None:
        folder: Path = shared_data("eval_fixtures")
        columns = from_coco(load(folder / "instances_val2014_100.json"))
        results = load(folder / "instances_val2014_fakebbox100_results.json")
        metrics = evaluate(columns, detections_from_results(columns, results), backend)
        assert metrics.coco_numbers == pytest.approx(self.EXPECTED, abs=1e-4)
        assert (metrics.images, metrics.detections) == (100, 734)
        assert metrics.boxes == 839 - int(columns.iscrowd.sum())


def test_equals_pycocotools_own_summary(shared_data: Any) -> None:
    """Our summary of the arrays against pycocotools fed with its own files."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    folder: Path = shared_data("eval_fixtures")
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(folder / "instances_val2014_100.json"))
        found = truth.loadRes(str(folder / "instances_val2014_fakebbox100_results.json"))
        theirs = COCOeval(truth, found, "bbox")
        theirs.evaluate()
        theirs.accumulate()
        theirs.summarize()
    columns = from_coco(load(folder / "instances_val2014_100.json"))
    columns.boxes_xyxy = columns.boxes_xyxy.astype(np.float32)  # as a data set index keeps them
    results = load(folder / "instances_val2014_fakebbox100_results.json")
    for backend in BACKENDS:
        ours = evaluate(columns, detections_from_results(columns, results), backend)
        np.testing.assert_allclose(ours.coco_numbers, theirs.stats, atol=1e-12)


boxes = st.tuples(
    st.integers(0, 150), st.integers(0, 150), st.integers(1, 120), st.integers(1, 120)
).map(lambda b: (b[0], b[1], b[0] + b[2], b[1] + b[3]))
truths = st.builds(
    lambda label, box, crowd, area: (label, *box, crowd, area),
    st.integers(0, 2), boxes, st.booleans(), st.sampled_from([10.0, 1024.0, 3000.0, 9216.0, 2e4]),
)  # fmt: skip
founds = st.tuples(st.integers(0, 2), boxes, st.sampled_from([0.1, 0.5, 0.5, 0.9]))
images = st.lists(st.tuples(st.lists(truths, max_size=6), st.lists(founds, max_size=8)), max_size=4)


def check_agreement(case: list[Any]) -> None:
    """The same numbers from all, in all and per class."""
    columns = scene(*(truth for truth, _ in case))
    found = [
        detections(ABC, f"im{i}", [d[1] for d in dets], [d[2] for d in dets], [d[0] for d in dets])
        for i, (_, dets) in enumerate(case)
    ]
    judge = evaluate(columns, found, "pycocotools")
    for backend in ("detrkit", "hotcoco"):
        ours = evaluate(columns, found, backend)
        np.testing.assert_allclose(ours.coco_numbers, judge.coco_numbers, rtol=0, atol=1e-12)
        for a, b in zip(ours.classes, judge.classes, strict=True):
            assert a.to_dict() == pytest.approx(b.to_dict(), abs=1e-12)
        np.testing.assert_allclose(ours.precision_50, judge.precision_50, rtol=0, atol=1e-12)


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(images)
def test_backends_agree(case: list[Any]) -> None:
    """Crowds, ties, empty classes, areas on the borders and off the boxes: the same twelve."""
    check_agreement(case)


lengths = st.one_of(st.sampled_from([0.0, 1e-3, 32.0, 96.0, 1e5]), st.floats(0, 500, width=32))
anywhere = st.tuples(st.floats(-300, 300, width=32), st.floats(-300, 300, width=32))
odd_boxes = st.builds(lambda p, w, h: (*p, p[0] + w, p[1] + h), anywhere, lengths, lengths)
odd_scores = st.one_of(st.sampled_from([0.0, 1.0, 0.5]), st.floats(-1, 2, width=32))
odd_images = st.lists(
    st.tuples(
        st.lists(
            st.builds(
                lambda label, box, crowd, area: (label, *box, crowd, area),
                st.integers(0, 2), odd_boxes, st.booleans(), st.floats(0, 2e4, width=32),
            ),
            max_size=5,
        ),
        st.lists(st.tuples(st.integers(0, 2), odd_boxes, odd_scores), max_size=8),
    ),
    max_size=3,
)  # fmt: skip


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(odd_images)
def test_backends_agree_on_what_should_not_be(case: list[Any]) -> None:
    """Boxes without area, outside of the image or larger than it, scores below 0 and above 1."""
    check_agreement(case)


def test_more_than_hundred_detections() -> None:
    """Only the best 100 of an image and class count, in both backends."""
    columns = scene([(0, 10, 10, 60, 60)])
    wrong = [(100, 100, 150, 150)] * 100
    found = [detections(ABC, "im0", [*wrong, (10, 10, 60, 60)], [0.9] * 100 + [0.1], [0] * 101)]
    for backend in BACKENDS:
        assert evaluate(columns, found, backend)["AR100"] == 0
    found[0].scores[-1] = 1.0
    for backend in BACKENDS:
        assert evaluate(columns, found, backend)["AP"] == pytest.approx(1.0)


def test_known_by_hand() -> None:
    """Two boxes of one class, one found: recall 1/2, and AP is 51 of 101 recall points."""
    columns = scene([(1, 0, 0, 50, 50)], [(1, 0, 0, 50, 50)])
    metrics = evaluate(columns, [detections(ABC, "im0", [(0, 0, 50, 50)], [0.8], [1])])
    assert metrics["AR100"] == 0.5
    assert metrics.ap == pytest.approx(51 / 101)
    row = metrics.classes[1]
    assert (row.name, row.category_id, row.images, row.boxes, row.detections) == ("b", 3, 2, 2, 1)
    assert row.ap == metrics.ap  # the other classes have no boxes and are left out of the mean
    assert (metrics.classes[0].ap, metrics["APs"], metrics["APl"]) == (-1, -1, -1)


@pytest.mark.parametrize("backend", BACKENDS)
class TestNothing:
    def test_no_detections(self, backend: Any) -> None:
        metrics = evaluate(
            scene([(0, 0, 0, 50, 50)]), [detections(ABC, "im0", [], [], [])], backend
        )
        assert metrics.ap == 0
        assert metrics.detections == 0

    def test_no_boxes(self, backend: Any, caplog: pytest.LogCaptureFixture) -> None:
        found = [detections(ABC, "im0", [(0, 0, 5, 5)], [0.5], [0])]
        metrics = evaluate(scene([]), found, backend)
        assert metrics.coco_numbers == [-1.0] * 12
        assert "no boxes" in caplog.text

    def test_no_images(self, backend: Any) -> None:
        assert evaluate(scene(), [], backend).coco_numbers == [-1.0] * 12


def test_images_that_were_not_evaluated_are_said(caplog: pytest.LogCaptureFixture) -> None:
    metrics = evaluate(scene([(0, 0, 0, 9, 9)], [(0, 0, 0, 9, 9)]), [])
    assert "2 of 2 images were not evaluated" in caplog.text
    assert metrics.ap == 0


def test_not_finite_detections_are_left_out(caplog: pytest.LogCaptureFixture) -> None:
    found = detections(ABC, "im0", [(0, 0, 50, 50), (0, 0, np.nan, 1)], [0.5, 0.9], [0, 0])
    metrics = evaluate(scene([(0, 0, 0, 50, 50)]), [found])
    assert metrics.ap == pytest.approx(1.0)
    assert "1 detections with NaN" in caplog.text


def test_merging_processes_counts_an_image_once() -> None:
    columns = scene([(0, 0, 0, 50, 50)], [(0, 0, 0, 50, 50)])
    whole = [detections(ABC, f"im{i}", [(0, 0, 50, 50)], [0.5], [0]) for i in range(2)]
    first, second = (CocoEvaluator(columns, backend="detrkit") for _ in range(2))
    first.update(whole)
    second.update(whole[:1])  # the padding of a sharded loader
    first.merge([second.state()])
    assert first.compute().to_dict() == evaluate(columns, whole).to_dict()


def test_hotcoco_is_the_default_where_it_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    assert DEFAULT_BACKEND == checked_backend(None) == "hotcoco"
    assert CocoEvaluator(scene()).compute().backend == "hotcoco"
    monkeypatch.setattr(coco, "find_spec", lambda name: None if name == "hotcoco" else True)
    with pytest.raises(UsageError, match="hotcoco is not installed"):
        checked_backend("hotcoco")
    assert checked_backend("detrkit") == "detrkit"
    assert coco.default_backend() == "detrkit"


def test_mistakes_are_named() -> None:
    columns = scene([(0, 0, 0, 50, 50)])
    with pytest.raises(UsageError, match="unknown evaluation backend"):
        CocoEvaluator(columns, backend="fast")  # type: ignore[arg-type]
    with pytest.raises(DataError, match="'im9', not in the data set"):
        evaluate(columns, [detections(ABC, "im9", [], [], [])])
    with pytest.raises(DataError, match="label 3 is outside the 3 classes"):
        evaluate(columns, [detections(ABC, "im0", [(0, 0, 1, 1)], [1], [3])])
    with pytest.raises(DataError, match="are not the data set's"):
        CocoEvaluator(columns, class_map=ClassMap.from_names(["x"]))


def test_plain_values_for_json() -> None:
    import json

    columns = scene([(0, 0, 0, 50, 50)])
    columns.image_ids = np.array([17])  # type: ignore[assignment]
    metrics = evaluate(columns, [detections(ABC, 17, [(0, 0, 50, 50)], [1], [0])])
    assert list(metrics.to_dict()["metrics"]) == list(METRIC_NAMES)
    assert json.loads(json.dumps(metrics.to_dict()))["classes"][0]["AP"] == pytest.approx(1.0)
