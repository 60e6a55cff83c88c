"""The errors worth looking at: against loops, by hand, and what their ranking means."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings

from detrkit.metrics import EvaluationReport, Predictions, Truth, evaluate
from detrkit.metrics.worst import LABEL_ERRORS, Kind, worst
from tests.metrics import naive
from tests.metrics.made import scene, scenes
from tests.metrics.test_report import found, truth_of

BOX, OTHER, FAR = (10, 10, 60, 60), (100, 100, 150, 150), (160, 10, 190, 60)


def judged(
    images: list[Any], *rows: tuple[int, int, float, tuple[float, ...]], confidence: float = 0.5
) -> EvaluationReport:
    """At a threshold; the images are those of ids "im0", …, not in the order of the truth."""
    truth = truth_of(*images)
    number = truth.image_of_id
    report = evaluate(truth, found(*((number[f"im{i}"], *rest) for i, *rest in rows)))
    return replace(report, worst=worst(truth, report.matches.at_50, confidence))


def names(report: EvaluationReport, kind: Kind) -> list[tuple[str | None, str | None]]:
    truth = report.matches.truth
    cases = report.worst[kind].describe(truth, report.predictions)
    return [(case["label"], case["detected"]) for case in cases]


def test_every_kind_by_hand() -> None:
    truth = truth_of([(0, *BOX), (1, *OTHER)], [(2, *FAR)], [(0, *BOX)])
    report = evaluate(
        truth,
        found(
            (0, 0, 0.9, BOX),  # right
            (0, 2, 0.8, OTHER),  # b taken for c
            (2, 0, 0.7, BOX),  # right
            (2, 1, 0.6, OTHER),  # on nothing
        ),
    )
    assert report.confusion.confidence <= 0.6
    assert names(report, Kind.FALSE_POSITIVE) == names(report, Kind.MISSING_LABEL) == [(None, "b")]
    assert names(report, Kind.CONFUSION) == names(report, Kind.WRONG_CLASS) == [("b", "c")]
    assert names(report, Kind.MISS) == names(report, Kind.UNSUPPORTED) == [("c", None)]
    scores = {kind: cases.scores.tolist() for kind, cases in report.worst.items()}
    assert scores[Kind.FALSE_POSITIVE] == pytest.approx([0.6])
    assert scores[Kind.CONFUSION] == pytest.approx([0.8])
    assert scores[Kind.MISS] == pytest.approx([np.sqrt(30 * 50 / 200**2)])
    # precision of b and c: 0 true of 1; recall of c: 0 of 1; of its size 3 (32–96) 2 of 4
    assert scores[Kind.MISSING_LABEL] == pytest.approx([0.6 / 3])
    assert scores[Kind.WRONG_CLASS] == pytest.approx([0.8 / 3])
    assert scores[Kind.UNSUPPORTED] == pytest.approx([1 / 3 * 3 / 6])


def test_cases_are_described_with_ids_and_files() -> None:
    truth = truth_of([(1, *BOX), (0, *OTHER)])
    report = evaluate(truth, found((0, 2, 0.8, OTHER)))
    sources: Any = SimpleNamespace(paths=["a.jpg"], annotation_ids=np.array([41, 42]))
    case = report.worst[Kind.CONFUSION].describe(truth, report.predictions, sources)[0]
    assert case == {
        "score": pytest.approx(0.8), "image_id": "im0", "file": "a.jpg", "annotation_id": 42,
        "label": "a", "label_box": [100, 100, 50, 50], "detected": "c",
        "detected_box": [100, 100, 50, 50], "confidence": pytest.approx(0.8), "iou": 1.0,
    }  # fmt: skip


def test_boxes_and_ids_fit_whatever_the_order_of_the_images() -> None:
    """The truth sorts images by id; files and annotation ids stay those of the data set."""
    truth, predictions = scene(3, images=12, boxes=6)
    report = evaluate(truth, predictions)
    annotated = np.arange(1000, 1000 + len(truth.rows))
    paths = [f"{i}.jpg" for i in range(len(truth))]
    sources: Any = SimpleNamespace(paths=paths, annotation_ids=annotated)
    assert sorted(truth.rows.tolist()) == list(range(len(truth.rows)))
    cases = report.worst[Kind.MISS]
    assert len(cases) > 2
    described = cases.describe(truth, predictions, sources)
    for image, box, case in zip(cases.images, cases.boxes, described, strict=True):
        assert case["file"] == f"{truth.positions[image]}.jpg"
        assert case["annotation_id"] == 1000 + truth.rows[box]
        assert truth.images[box] == image


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(scenes)
def test_cases_are_those_of_loops(case: tuple[Truth, Predictions]) -> None:
    truth, predictions = case
    report = evaluate(truth, predictions)
    confidence, found_, listed = report.confusion.confidence, report.predictions, report.worst
    judge = naive.count(truth, found_, confidence)
    boxes = [b for b in range(len(truth.labels)) if not truth.iscrowd[b]]

    def overlap(d: int, b: int) -> float:
        if truth.images[b] != found_.images[d]:
            return 0.0
        return naive.iou(found_.boxes_xywh[d], truth.boxes_xywh[b], crowd=False)

    alone = {d for d in judge.false if all(overlap(d, b) < 0.1 for b in boxes)}
    assert set(listed[Kind.FALSE_POSITIVE].detections.tolist()) == alone
    assert set(listed[Kind.MISSING_LABEL].detections.tolist()) == alone
    shown = np.flatnonzero(found_.scores >= confidence).tolist()
    for kind, least in ((Kind.MISS, 0.5), (Kind.UNSUPPORTED, 0.1)):
        expected = {
            b
            for b in boxes
            if b not in judge.found_by and all(overlap(d, b) < least for d in shown)
        }
        assert set(listed[kind].boxes.tolist()) == expected
    inner = report.confusion.counts[:-1, :-1]
    for kind in (Kind.CONFUSION, Kind.WRONG_CLASS):
        pairs = listed[kind]
        assert len(pairs) == inner.sum() - inner.trace()
        for d, b, iou in zip(pairs.detections, pairs.boxes, pairs.iou, strict=True):
            assert found_.labels[d] != truth.labels[b]
            assert iou == pytest.approx(overlap(d, b))
            assert iou >= 0.5
    for cases in listed.values():
        assert (np.diff(cases.scores) <= 0).all()
        assert ((cases.scores >= 0) & (cases.scores <= 1)).all()


def test_a_larger_box_and_one_that_nothing_suggests_are_missed_worse() -> None:
    large, small = (0, 0, 100, 100), (120, 120, 150, 150)
    rows = [(i, 0, 0.9, BOX) for i in range(8)]
    images = [[(0, *BOX)]] * 8 + [[(0, *small), (0, *large)], [(0, *large)]]
    report = judged(images, *rows, (9, 0, 0.2, large))
    misses = report.worst[Kind.MISS]
    areas = report.matches.truth.area[misses.boxes]
    assert misses.images.tolist() == [8, 9, 8]  # large; large but suggested by 0.2; small
    assert areas.tolist() == [10000, 10000, 900]
    assert misses.scores[1] == pytest.approx(0.8 * misses.scores[0])


def test_classes_that_are_right_elsewhere_accuse_the_labels_more() -> None:
    images = [[(0, *BOX), (1, *OTHER)]] * 10
    rows = [(i, 0, 0.9, BOX) for i in range(10)] + [(i, 1, 0.9, OTHER) for i in range(3)]
    rows += [(i, 1, 0.8, FAR) for i in range(4, 9)]  # b is often wrong
    rows += [(3, 0, 0.8, FAR)]  # a hardly ever
    report = judged(images, *rows)
    cases = report.worst[Kind.MISSING_LABEL]
    assert report.predictions.labels[cases.detections].tolist() == [0, 1, 1, 1, 1, 1]
    assert cases.scores[0] == pytest.approx(0.8 * 11 / 13)
    assert cases.scores[1] == pytest.approx(0.8 * 4 / 10)


def test_planted_label_errors_come_first() -> None:
    """A detector that is right, labels that were damaged: every damage is found, in front."""
    rng = np.random.default_rng(0)
    images: list[list[tuple[Any, ...]]] = []
    rows: list[tuple[int, int, float, tuple[float, ...]]] = []
    removed, changed = {3, 17}, {5, 21}
    for i in range(30):
        own = [(int(rng.integers(0, 2)), *BOX), (int(rng.integers(0, 2)), *OTHER)]
        rows += [(i, label, float(rng.uniform(0.6, 0.95)), tuple(box)) for label, *box in own]
        if i in removed:
            own = own[:1]
        if i in changed:
            own[0] = (1 - own[0][0], *BOX)
        images.append(own)
    images[9].append((0, *FAR))  # a label of nothing
    report = judged(images, *rows)
    truth = report.matches.truth
    where = {kind: {truth.image_ids[i] for i in report.worst[kind].images} for kind in LABEL_ERRORS}
    assert where[Kind.MISSING_LABEL] == {f"im{i}" for i in removed}
    assert where[Kind.WRONG_CLASS] == {f"im{i}" for i in changed}
    assert where[Kind.UNSUPPORTED] == {"im9"}


def test_crowd_regions_are_no_errors() -> None:
    truth = truth_of([(0, 0, 0, 100, 100, True)], [(1, *OTHER)])
    report = evaluate(truth, found((0, 0, 0.9, BOX), (1, 1, 0.9, OTHER)))
    assert not any(len(cases) for cases in report.worst.values())


def test_no_more_than_a_hundred_of_a_kind_are_written() -> None:
    truth = truth_of(*[[(0, *BOX)]] * 130)
    report = evaluate(truth, Predictions.empty())
    written = report.to_dict()["worst"]
    assert written["miss"]["total"] == 130
    assert len(written["miss"]["cases"]) == 100
    assert written["false_positive"] == {"total": 0, "cases": []}
