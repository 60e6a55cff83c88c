"""The flat-cosine schedule: the authors' curve with its quirks, and ours without."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from detrkit.engine.schedules import FlatCosine, LRSchedule, schedule_from

THEIRS = FlatCosine(
    epochs=20, warmup_steps=25, flat_epochs=10, tail_epochs=4, floor=0.5, lags=True, first=1 / 500
)
OURS = FlatCosine(epochs=20, warmup_steps=25, flat_epochs=10, tail_epochs=4, floor=0.5)


def test_the_authors_first_steps() -> None:
    # the linear warm-up's rate, then 0, then the square of the share that is done
    assert [THEIRS.factor(step, 10) for step in range(4)] == pytest.approx(
        [1 / 500, 0, (1 / 25) ** 2, (2 / 25) ** 2]
    )
    assert THEIRS.factor(26, 10) == 1


def test_ours_never_stands_still() -> None:
    assert [OURS.factor(step, 10) for step in (0, 1, 24, 25)] == pytest.approx(
        [(1 / 25) ** 2, (2 / 25) ** 2, 1, 1]
    )


@pytest.mark.parametrize(("curve", "late"), [(THEIRS, 1), (OURS, -1)])
def test_flat_then_cosine_then_floor(curve: FlatCosine, late: int) -> None:
    assert curve.factor(100 + late, 10) == 1
    assert curve.factor(130 + late, 10) == pytest.approx(0.75)  # half way down
    assert curve.factor(115 + late, 10) == pytest.approx(0.5 + 0.25 * (1 + math.cos(math.pi / 4)))
    assert curve.factor(160 + late, 10) == 0.5
    assert curve.factor(199, 10) == 0.5


def test_a_flat_part_past_the_tail_is_flat_to_the_end() -> None:
    curve = FlatCosine(160, 500, 7800, 12, 1.0, lags=True)
    assert {curve.factor(step, 100) for step in range(600, 16000, 100)} == {1.0}


@pytest.mark.parametrize("duration", [0, 500])
def test_without_warmup_the_second_step_keeps_the_first_rate(duration: int) -> None:
    tree = {
        "epochs": 24,
        "lr_scheduler_kind": "flatcosine",
        "warmup_iter": 0,
        "flat_epoch": 12000,
        "no_aug_epoch": 4,
        "lr_gamma": 1,
        "lr_warmup_scheduler": {"type": "LinearWarmup", "warmup_duration": duration},
    }
    first = 1 / duration if duration else 1
    theirs = schedule_from(tree)
    assert [theirs.factor(step, 100) for step in range(3)] == pytest.approx([first, first, 1])
    ours = schedule_from(tree, ours=True)
    assert [ours.factor(step, 100) for step in range(3)] == [1, 1, 1]


@given(
    st.integers(1, 60),
    st.integers(0, 400),
    st.integers(0, 80),
    st.integers(0, 20),
    st.floats(0, 1),
    st.integers(1, 30),
)
def test_rises_then_falls_between_floor_and_one(
    epochs: int, warmup: int, flat: int, tail: int, floor: float, batches: int
) -> None:
    curve = FlatCosine(epochs, warmup, flat, tail, floor)
    factors = [curve.factor(step, batches) for step in range(epochs * batches)]
    warm, rest = factors[:warmup], factors[warmup:]
    assert warm == sorted(warm)
    assert all(0 < factor <= 1 for factor in warm)
    assert all(floor - 1e-9 <= factor <= 1 for factor in rest)
    assert all(b <= a + 1e-9 for a, b in pairwise(rest))
    lagging = FlatCosine(epochs, warmup, flat, tail, floor, lags=True)
    late = [lagging.factor(step, batches) for step in range(3, epochs * batches)]
    assert late == factors[1 : 1 + len(late)], "theirs is ours, two steps later"


def test_without_a_kind_the_sections_count() -> None:
    assert isinstance(schedule_from({"epochs": 3}), LRSchedule)
