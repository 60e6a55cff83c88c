"""The sorted search against comparing all with all."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from detrkit.analysis.pairs import best_earlier_partner, iou_of_pairs, pairs_up_to


def brute(boxes, owners, labels, threshold, same):  # type: ignore[no-untyped-def]
    partner, best = np.full(len(boxes), -1), np.zeros(len(boxes))
    for j in range(len(boxes)):
        for i in range(j):
            if owners[i] != owners[j] or (labels[i] == labels[j]) != same:
                continue
            iou = iou_of_pairs(boxes[i : i + 1], boxes[j : j + 1])[0]
            if iou >= threshold and iou > best[j]:
                partner[j], best[j] = i, iou
    return partner, best


@st.composite
def crowded(draw: st.DrawFn):  # type: ignore[no-untyped-def]
    """Many boxes that nearly coincide, in up to three images."""
    count = draw(st.integers(0, 25))
    rows = st.tuples(*[st.integers(0, 3)] * 2, *[st.integers(18, 21)] * 2)
    boxes = np.array([draw(rows) for _ in range(count)], np.float32).reshape(-1, 4)
    owners = np.sort([draw(st.integers(0, 2)) for _ in range(count)]).astype(np.int64)
    labels = np.array([draw(st.integers(0, 1)) for _ in range(count)], np.int64)
    return boxes, owners, labels


@given(crowded(), st.sampled_from([0.5, 0.8, 0.95, 1.0]), st.booleans())
def test_partners(data, threshold: float, same: bool) -> None:  # type: ignore[no-untyped-def]
    partner, best = best_earlier_partner(*data, threshold, same_class=same)
    expected, expected_best = brute(*data, threshold, same)
    np.testing.assert_array_equal(partner, expected)
    np.testing.assert_allclose(best, expected_best)


@pytest.mark.parametrize("shift", [0.0, 1e4, 1e5])
def test_far_from_the_origin(shift: float) -> None:
    box = np.array([[shift, 0, shift + 8, 8], [shift + 0.1, 0, shift + 8, 8]])
    owners = np.array([10**6] * 2)
    partner, _ = best_earlier_partner(box, owners, np.zeros(2, int), 0.95, same_class=True)
    assert partner.tolist() == [-1, 0]


def test_thousands_of_boxes_in_one_place() -> None:
    count = 3000
    boxes = np.tile(np.array([[5, 5, 50, 50]], np.float32), (count, 1))
    zeros = np.zeros(count, np.int64)
    partner, iou = best_earlier_partner(boxes, zeros, zeros, 0.95, same_class=True)
    assert partner[0] == -1
    assert (partner[1:] == 0).all()
    assert (iou[1:] == 1).all()


@given(st.lists(st.integers(0, 6), max_size=8))
def test_pairs_up_to(reach: list[int]) -> None:
    ends = np.minimum(np.arange(len(reach)) + np.array(reach, int), len(reach))
    found = {(int(i), int(j)) for a, b in pairs_up_to(ends) for i, j in zip(a, b, strict=True)}
    assert found == {(i, j) for i in range(len(reach)) for j in range(i + 1, ends[i])}
