"""False detections on images without targets, against a naive count."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from detrkit.metrics import OA_NAMES, over_activation

SCORES = st.lists(
    st.lists(st.floats(0, 1, width=32), max_size=5).map(lambda s: np.array(s, np.float32)),
    min_size=1,
    max_size=6,
)


def test_by_hand() -> None:
    scores = [np.array([0.9, 0.5, 0.1]), np.array([]), np.array([0.4]), np.array([0.5])]
    half, low = over_activation(scores, [0.5, 0.05])
    assert half.values == {
        "oa_fppi": 0.75, "oa_clean_rate": 0.5, "oa_max_score": 0.9, "oa_mean_max_score": 0.45,
    }  # fmt: skip
    assert tuple(half.values) == OA_NAMES
    assert (half.threshold, half.images) == (0.5, 4)
    assert (low.fppi, low.clean_rate, low.max_score) == (1.25, 0.25, 0.9)


@given(SCORES, st.floats(0.125, 1, width=32))
def test_as_counted_one_by_one(scores: list[np.ndarray], threshold: float) -> None:
    (found,) = over_activation(scores, [threshold])
    wrong = [sum(float(s) >= threshold for s in image) for image in scores]
    highest = [max(map(float, image), default=0.0) for image in scores]
    assert found.fppi == sum(wrong) / len(scores)
    assert found.clean_rate == wrong.count(0) / len(scores)
    assert found.max_score == max(highest)
    assert found.mean_max_score == pytest.approx(sum(highest) / len(scores))


@given(SCORES, st.lists(st.floats(0.01, 1), min_size=2, max_size=4))
def test_a_higher_threshold_never_finds_more(scores: list[np.ndarray], at: list[float]) -> None:
    found = over_activation(scores, sorted(at))
    assert all(a.fppi >= b.fppi for a, b in pairwise(found))
    assert all(a.clean_rate <= b.clean_rate for a, b in pairwise(found))


def test_no_images() -> None:
    with pytest.raises(ValueError, match="at least one image"):
        over_activation([], [0.5])
