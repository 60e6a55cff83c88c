"""The bootstrap: draws against counting afresh, and what intervals say."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from detrkit.metrics.bootstrap import NUMBERS, Interval, bootstrap, draw, interval
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
    truth, found = scene(11, images=600, classes=3)
    everything = count(truth, found)["AP"]
    inside = 0
    for part in range(15):
        times = [int(part * 40 <= image < (part + 1) * 40) for image in range(600)]
        few, own = repeated(truth, found, times)
        drawn = bootstrap(match(few, own), draw(40, samples=200, seed=part)).overall("AP")
        limits = interval(drawn)
        assert limits is not None
        inside += limits.low <= everything <= limits.high
    assert inside >= 12


def test_intervals() -> None:
    values = np.linspace(0, 1, 1001)
    assert interval(values) == Interval(pytest.approx(0.025), pytest.approx(0.975))
    assert interval(np.where(values < 0.04, np.nan, values)) is not None
    assert interval(np.where(values < 0.06, np.nan, values)) is None
    assert interval(np.full(9, np.nan)) is None
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
