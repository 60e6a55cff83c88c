"""All that follows from one matching pass, against loops and by hand; what `metrics.json` holds."""

from __future__ import annotations

import json
import typing
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings

from detrkit.metrics import Predictions, Truth, evaluate
from detrkit.metrics.coco import count
from detrkit.metrics.curves import CONFIDENCES, SMOOTHING, ConfidenceCurves, smoothed
from detrkit.metrics.schema import EvaluationJson
from tests.metrics import naive
from tests.metrics.cases import detections
from tests.metrics.made import scene, scenes
from tests.metrics.test_coco import ABC
from tests.metrics.test_coco import scene as written

slow_to_make = settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))


def truth_of(*images: list[tuple[Any, ...]]) -> Truth:
    return Truth.of(written(*images))


def found(*rows: tuple[int, int, float, tuple[float, ...]]) -> Predictions:
    """(image, label, score, xyxy)."""
    return Predictions.concat(
        [
            Predictions.of(detections(ABC, image, [box], [score], [label]), image)
            for image, label, score, box in rows
        ]
    )


@settings(max_examples=80, deadline=None, suppress_health_check=list(HealthCheck))
@given(scenes)
def test_numbers_equal_pycocotools(case: tuple[Truth, Predictions]) -> None:
    """Detections of any order and of equal scores, crowds, ids in any order."""
    for backend in ("detrkit", "hotcoco"):
        ours, judge = count(*case, backend), count(*case, "pycocotools")  # type: ignore[arg-type]
        np.testing.assert_allclose(ours.coco_numbers, judge.coco_numbers, rtol=0, atol=1e-12)
        for a, b in zip(ours.classes, judge.classes, strict=True):
            assert a.to_dict() == pytest.approx(b.to_dict(), abs=1e-12)


def test_many_detections_equal_pycocotools() -> None:
    """More than a hundred of an image and class, most of them on a few boxes."""
    case = scene(1, images=3, classes=1, boxes=12, detections=900, levels=40)
    assert np.bincount(case[1].images).max() > 300
    ours, judge = count(*case), count(*case, "pycocotools")
    np.testing.assert_allclose(ours.coco_numbers, judge.coco_numbers, rtol=0, atol=1e-12)
    assert ours["AR1"] < ours["AR10"] < ours["AR100"]


def test_of_equal_overlaps_the_later_box_is_taken() -> None:
    """As pycocotools does; the second detection then has to take the first box."""
    truth = truth_of([(0, 0, 0, 100, 100), (0, 20, 0, 120, 100)])
    predictions = found((0, 0, 0.9, (10, 0, 110, 100)), (0, 0, 0.5, (20, 0, 120, 100)))
    ours, judge = count(truth, predictions), count(truth, predictions, "pycocotools")
    np.testing.assert_allclose(ours.coco_numbers, judge.coco_numbers, rtol=0, atol=1e-12)
    assert evaluate(truth, predictions).matches.at_50.boxes.tolist() == [1, 0]


@slow_to_make
@given(scenes)
def test_counts_are_those_of_loops(case: tuple[Truth, Predictions]) -> None:
    truth, predictions = case
    report = evaluate(truth, predictions)
    if report.yolo.confidence is None:
        assert not truth.boxes_per_class.any()
        return
    judge = naive.count(truth, predictions, report.yolo.confidence)
    for k, row in enumerate(report.yolo.classes):
        true = sum(predictions.labels[d] == k for d in judge.true)
        false = sum(predictions.labels[d] == k for d in judge.false)
        boxes = int(((truth.labels == k) & ~truth.iscrowd).sum())
        assert (row.true, row.false, row.missed) == (true, false, boxes - true)
        if boxes:
            assert row.recall == true / boxes
            assert row.f1 == pytest.approx(2 * true / (true + false + boxes))
        if true + false:
            assert row.precision == true / (true + false)
    empty = {i for i in range(len(truth)) if not ((truth.images == i) & ~truth.iscrowd).any()}
    wrong = [d for d in judge.false if predictions.images[d] in empty]
    assert report.yolo.background.images == len(empty)
    assert report.yolo.background.detections == len(wrong)


@slow_to_make
@given(scenes)
def test_counts_add_up(case: tuple[Truth, Predictions]) -> None:
    truth, predictions = case
    report = evaluate(truth, predictions)
    table, matrix = report.yolo, report.confusion.counts
    boxes = truth.boxes_per_class
    np.testing.assert_array_equal(matrix[:-1].sum(1), boxes)
    assert matrix[-1, -1] == 0
    if table.confidence is not None:
        said = [row.true + row.false for row in table.classes]
        np.testing.assert_array_equal(matrix[:, :-1].sum(0), said)
        assert matrix.diagonal()[:-1].tolist() == [row.true for row in table.classes]
        parts = report.breakdown
        assert sum(row.boxes for row in parts.sizes) == table.overall.boxes == boxes.sum()
        assert sum(row.found for row in parts.sizes) == table.overall.true
        assert sum(row.found for row in parts.densities) == table.overall.true
        assert sum(row.false for row in parts.densities) == table.overall.false
        assert sum(row.images for row in parts.densities) == len(truth)
    outcome = report.matches.at_50
    binned = sum(part.detections for part in report.calibration.bins)
    assert binned == outcome.counts.sum() == report.curves.shown[:, 0].sum()
    assert (report.curves.true <= report.curves.shown).all()
    assert (report.curves.true <= boxes[:, None]).all()


def test_the_order_of_the_detections_changes_nothing() -> None:
    truth, predictions = scene(5, images=6, boxes=8, detections=40)
    shuffled = predictions.select(np.random.default_rng(0).permutation(len(predictions)))
    assert evaluate(truth, shuffled).to_dict() == evaluate(truth, predictions).to_dict()


def test_false_detections_in_images_without_boxes_count() -> None:
    box = (10, 10, 60, 60)
    truth = truth_of([(0, *box)], [], [])
    good = found((0, 0, 0.9, box))
    report = evaluate(truth, good)
    assert (report.yolo.overall.precision, report.yolo.overall.recall) == (1, 1)
    worse = Predictions.concat([good, found((1, 0, 0.95, box), (1, 1, 0.95, box))])
    table = evaluate(truth, worse).yolo
    assert table.classes[0].precision == 0.5
    assert table.overall.precision == 0.5  # class b has no boxes and enters no mean
    assert table.overall.false == 2  # but its false detection is counted
    assert (table.background.images, table.background.images_with_detections) == (2, 1)
    assert table.background.detections == 2


def test_the_best_confidence_separates_true_from_false() -> None:
    box, other = (10, 10, 60, 60), (100, 100, 150, 150)
    truth = truth_of(*[[(0, *box)]] * 10)
    rows = [(i, 0, 0.8, box) for i in range(10)] + [(i, 0, 0.2, other) for i in range(10)]
    table = evaluate(truth, found(*rows)).yolo
    assert table.confidence is not None
    assert 0.2 < table.confidence <= 0.8
    assert table.classes[0].best_confidence == pytest.approx(0.5, abs=0.01)  # room to both sides
    assert table.overall.f1 == table.classes[0].best_f1 == 1.0


def test_smoothing_is_the_mean_around_each_point() -> None:
    curve = np.random.default_rng(0).random(len(CONFIDENCES))
    half = SMOOTHING // 2
    smooth = smoothed(curve)
    assert smooth[500] == pytest.approx(curve[500 - half : 501 + half].mean())
    assert smooth[0] == pytest.approx((curve[: half + 1].sum() + half * curve[0]) / SMOOTHING)
    assert len(smooth) == len(curve)


def test_a_wrong_class_is_confused_a_wrong_place_is_background() -> None:
    box, other = (10, 10, 60, 60), (100, 100, 150, 150)
    truth = truth_of([(0, *box), (1, *other)], [(2, *box)])
    rows = [
        (0, 0, 0.9, box),  # right
        (0, 2, 0.9, other),  # b taken for c
        (0, 1, 0.9, (60, 10, 90, 60)),  # on nothing
        (0, 2, 0.9, box),  # on a box that was found by its own class: background
    ]
    matrix = evaluate(truth, found(*rows)).confusion
    assert matrix.counts.tolist() == [[1, 0, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1], [0, 1, 1, 0]]
    assert matrix.greatest() == [("b", "c", 1)]


def test_the_closest_pairs_are_confused_first() -> None:
    truth = truth_of([(0, 0, 0, 100, 100), (1, 0, 0, 100, 70)])
    rows = [(0, 2, 0.9, (0, 0, 100, 72)), (0, 2, 0.5, (0, 0, 100, 95))]
    matrix = evaluate(truth, found(*rows)).confusion.counts
    assert matrix[0, 2] == matrix[1, 2] == 1  # not both on the first box


def test_calibration_by_hand() -> None:
    box = (10, 10, 60, 60)
    truth = truth_of(*[[(0, *box)]] * 4)
    wrong = (100, 100, 150, 150)
    rows = [(0, 0, 0.95, box), (1, 0, 0.95, wrong), (2, 0, 0.15, wrong), (3, 0, 0.15, wrong)]
    result = evaluate(truth, found(*rows)).calibration
    assert result.ece == pytest.approx((2 * 0.45 + 2 * 0.15) / 4)
    assert result.ece_shown == pytest.approx(0.45)
    assert result.greatest == pytest.approx(0.45)
    assert [part.detections for part in result.bins] == [0, 2, 0, 0, 0, 0, 0, 0, 0, 2]


def test_nothing_to_count() -> None:
    report = evaluate(truth_of([], []), Predictions.empty())
    assert report.yolo.confidence is None
    assert report.yolo.overall.precision == report.calibration.ece == -1
    assert report.tide.ap == 0
    json.dumps(report.to_dict(), allow_nan=False)
    boxes_only = evaluate(truth_of([(0, 0, 0, 9, 9)]), Predictions.empty())
    assert boxes_only.yolo.overall.missed == boxes_only.confusion.counts[0, -1] == 1
    assert boxes_only.yolo.classes[0].best_confidence is None


def test_metrics_json_is_as_documented() -> None:
    report = evaluate(*scene(2))
    written = json.loads(json.dumps(report.to_dict(), allow_nan=False))
    assert_fits(written, EvaluationJson, "")
    assert len(written["curves"]["confidences"]) == len(written["curves"]["f1"][0]) == 101
    assert written["curves"]["confidences"][-1] == 1


def assert_fits(value: Any, annotation: Any, place: str) -> None:
    """Whether plain data has exactly the keys and types of typed dictionaries."""
    if typing.is_typeddict(annotation):
        hints = typing.get_type_hints(annotation)
        assert list(value) == list(hints), place
        for key, hint in hints.items():
            assert_fits(value[key], hint, f"{place}.{key}")
        return
    origin, args = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is list:
        assert isinstance(value, list), place
        for item in value:
            assert_fits(item, args[0], f"{place}[]")
    elif origin is dict:
        assert all(isinstance(item, args[1]) for item in value.values()), place
    elif args:
        if value is not None:
            assert_fits(value, next(a for a in args if a is not type(None)), place)
    else:
        assert isinstance(value, (int, float) if annotation is float else annotation), place


def test_curves_count_every_score() -> None:
    """At each threshold as many as loops count, ties included."""
    truth, predictions = scene(8, images=4, boxes=8, detections=30, levels=5)
    outcome = evaluate(truth, predictions).matches.at_50
    curves = ConfidenceCurves.of(truth, outcome)
    for confidence in (0.0, 0.2, 0.4, 0.401, 0.8, 1.0):
        place = round(confidence * 1000)
        judge = naive.count(truth, predictions, confidence)
        assert curves.true[:, place].sum() == len(judge.true)
        assert curves.shown[:, place].sum() == len(judge.true) + len(judge.false)
