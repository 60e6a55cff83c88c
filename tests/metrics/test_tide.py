"""TIDE against tidecv, on stored and on generated detections."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings

from detrkit.metrics.predictions import Predictions
from detrkit.metrics.results_file import read_results
from detrkit.metrics.tide import TYPES, Tide, tide
from detrkit.metrics.truth import Truth
from tests.metrics.cases import from_coco, load
from tests.metrics.made import scene, scenes


def by_tidecv(truth: Truth, found: Predictions) -> Tide | None:
    """The same of tidecv; None where it divides by the number of no classes."""
    from tidecv import TIDE, Data
    from tidecv.errors import main_errors

    boxes, detections = Data("truth"), Data("found")
    for image in np.argsort(truth.positions).tolist():
        boxes.add_image(image, str(image))
    for k, name in enumerate(truth.class_map.names):
        boxes.add_class(k, name)
    columns = (truth.images, truth.labels, truth.boxes_xywh, truth.iscrowd)
    for image, label, box, crowd in zip(*(c.tolist() for c in columns), strict=True):
        (boxes.add_ignore_region if crowd else boxes.add_ground_truth)(image, label, box)
    rows = (found.images, found.labels, found.scores, found.boxes_xywh)
    for image, label, score, box in zip(*(c.tolist() for c in rows), strict=True):
        detections.add_detection(image, label, score, box)
    try:
        run = TIDE().evaluate(boxes, detections, mode=TIDE.BOX)
        main, special = run.fix_main_errors(), run.fix_special_errors()
    except ZeroDivisionError:
        return None
    counts = run.count_errors()
    return Tide(
        ap=run.ap,
        cost={kind.short_name: value for kind, value in main.items()},
        counts={kind.short_name: value for kind, value in counts.items()},
        false_positives=special[main_errors.FalsePositiveError],
        false_negatives=special[main_errors.FalseNegativeError],
    )


def assert_same(ours: Tide, judge: Tide) -> None:
    assert ours.counts == judge.counts
    assert tuple(ours.cost) == tuple(judge.cost) == TYPES
    assert ours.ap == pytest.approx(judge.ap, abs=1e-6)
    assert ours.cost == pytest.approx(judge.cost, abs=1e-6)
    assert ours.false_positives == pytest.approx(judge.false_positives, abs=1e-6)
    assert ours.false_negatives == pytest.approx(judge.false_negatives, abs=1e-6)


def test_equals_tidecv_on_stored_detections(shared_data: Any) -> None:
    folder: Path = shared_data("eval_fixtures")
    truth = Truth.of(from_coco(load(folder / "instances_val2014_100.json")))
    found = read_results(folder / "instances_val2014_fakebbox100_results.json", truth).predictions
    judge = by_tidecv(truth, found)
    assert judge is not None
    assert_same(tide(truth, found), judge)
    assert min(judge.cost.values()) >= 0
    assert sum(judge.counts.values()) > 100


@settings(max_examples=120, deadline=None, suppress_health_check=list(HealthCheck))
@given(scenes)
def test_equals_tidecv(case: tuple[Truth, Predictions]) -> None:
    """Ties, crowds, classes without boxes, images without detections: all of it alike."""
    ours, judge = tide(*case), by_tidecv(*case)
    if judge is None:
        assert ours.ap == 0
    else:
        assert_same(ours, judge)


def test_more_than_a_hundred_detections_of_an_image() -> None:
    truth, found = scene(3, images=2, boxes=30, detections=400, levels=7)
    assert np.bincount(found.images).max() > 100
    judge = by_tidecv(truth, found)
    assert judge is not None
    assert_same(tide(truth, found), judge)
