"""The bootstrap: draws against counting afresh, and what intervals say."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from detrkit.metrics.bootstrap import (
    NUMBERS,
    Interval,
    bootstrap,
    difference_interval,
    draw,
    interval,
)
from detrkit.metrics.coco import count
from detrkit.metrics.matching import match
from detrkit.metrics.predictions import Predictions
from detrkit.metrics.truth import Truth
from tests.metrics.made import scene, scenes


def repeated(truth: Truth, found: Predictions, times: list[int]) -> tuple[Truth, Predictions]:
    """A data set in which image n comes `times[n]` times."""
    boxes, owners, rows, images = [], [], [], []
    numbers = [image for image, many in enumerate(times) for _ in range(many)]
    for number, image in enumerate(numbers):
        own = np.flatnonzero(truth.images == image)
        boxes.append(own)
        owners.append(np.full(len(own), number, np.int32))
        own = np.flatnonzero(found.images == image)
        rows.append(own)
        images.append(np.full(len(own), number, np.int32))
    chosen = np.concatenate(boxes)
    drawn = replace(
        truth,
        image_ids=tuple(range(len(numbers))),
        positions=np.arange(len(numbers)),
        sizes=truth.sizes[numbers],
        images=np.concatenate(owners),
        labels=truth.labels[chosen],
        boxes_xywh=truth.boxes_xywh[chosen],
        iscrowd=truth.iscrowd[chosen],
        area=truth.area[chosen],
    )
    return drawn, replace(found.select(np.concatenate(rows)), images=np.concatenate(images))


@settings(max_examples=40, deadline=None)
@given(scenes, st.integers(0, 99))
def test_a_draw_is_a_data_set_with_repeated_images(
    made: tuple[Truth, Predictions], seed: int
) -> None:
    truth, found = made
    # of equal scores the order of images decides, which repeated images change
    rng = np.random.default_rng(seed)
    found = replace(found, scores=rng.permutation(len(found)) / max(len(found), 1))
    weights = draw(len(truth), samples=4, seed=seed)
    draws = bootstrap(match(truth, found), weights)
    for column in range(4):
        expected = count(*repeated(truth, found, weights[:, column].tolist()))
        for name in NUMBERS:
            value = draws.overall(name)[column]
            assert (-1 if np.isnan(value) else value) == pytest.approx(expected[name], abs=1e-12)
        for k, row in enumerate(expected.classes):
            value = draws.classes["AP"][column, k]
            assert (-1 if np.isnan(value) else value) == pytest.approx(row.ap, abs=1e-12)


def test_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    truth, found = scene(3, images=20)
    weights = draw(20, samples=30)
    whole = bootstrap(match(truth, found), weights)
    monkeypatch.setattr("detrkit.metrics.bootstrap._BLOCK", 40)
    parts = bootstrap(match(truth, found), weights)
    for name in NUMBERS:
        np.testing.assert_array_equal(parts.classes[name], whole.classes[name])


def test_draws_are_images_with_replacement() -> None:
    weights = draw(40, samples=500, seed=7)
    assert weights.shape == (40, 500)
    assert (weights.sum(0) == 40).all()
    assert abs((weights == 0).mean() - (1 - 1 / 40) ** 40) < 0.01
    np.testing.assert_array_equal(weights, draw(40, samples=500, seed=7))
    assert (weights != draw(40, samples=500, seed=8)).any()


def test_interval_covers_what_more_images_say() -> None:
    """The AP of a large data set lies in the intervals of most small parts of it."""
    parts, images = 20, 50
    truth, found = scene(11, images=parts * images, classes=3, boxes=4, detections=10)
    jittered = replace(found, scores=found.scores + np.sin(np.arange(len(found))))
    both = (found, jittered)
    everything = [count(truth, predictions)["AP"] for predictions in both]
    inside = np.zeros(2)
    for part in range(parts):
        times = np.repeat(np.arange(parts) == part, images).astype(int).tolist()
        weights = draw(images, samples=200, seed=part)
        values, draws = [], []
        for predictions in both:
            few, own = repeated(truth, predictions, times)
            values.append(count(few, own)["AP"])
            draws.append(bootstrap(match(few, own), weights).overall("AP"))
        limits = interval(values[0], draws[0]), difference_interval(draws[0] - draws[1])
        for row, (found_limits, expected) in enumerate(
            zip(limits, (everything[0], everything[0] - everything[1]), strict=True)
        ):
            assert found_limits is not None
            inside[row] += found_limits.low <= expected <= found_limits.high
    assert (inside >= 17).all()


def test_intervals() -> None:
    draws = np.linspace(0, 1, 1001)
    limits = difference_interval(draws)
    assert limits == Interval(pytest.approx(0.025), pytest.approx(0.975))
    assert difference_interval(np.where(draws < 0.04, np.nan, draws)) is not None
    assert difference_interval(np.where(draws < 0.06, np.nan, draws)) is None
    assert difference_interval(np.full(9, np.nan)) is None
    assert interval(0.4, 0.5 + draws / 10) == Interval(pytest.approx(0.2025), pytest.approx(0.2975))
    assert interval(0.4, draws) == Interval(0.0, pytest.approx(0.775))
    assert Interval(0.01, 0.1).excludes_zero
    assert Interval(-0.2, -0.1).excludes_zero
    assert not Interval(-0.1, 0.1).excludes_zero
    assert not Interval(0.0, 0.0).excludes_zero


def test_nothing_to_count() -> None:
    truth, found = scene(0, images=3, boxes=0)
    draws = bootstrap(match(truth, found), draw(3, samples=5))
    assert np.isnan(draws.overall("AP")).all()
    truth, _ = scene(1, images=5)
    draws = bootstrap(match(truth, Predictions.empty()), draw(5, samples=5))
    assert np.nanmax(draws.overall("AP")) == 0
