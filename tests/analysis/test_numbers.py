from __future__ import annotations

import math
from collections import Counter
from itertools import pairwise

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from detrkit.analysis.numbers import Histogram, Spread, distinct, grouped_median, heat_map

NUMBERS = st.lists(st.integers(-20, 20).map(lambda n: n / 2), max_size=20)


@given(NUMBERS)
def test_histogram_counts_each_value_in_its_bin(values: list[float]) -> None:
    edges = (0.0, 1.0, 2.5, 5.0, math.inf)
    found = Histogram.of(np.array(values), edges)
    pairs = list(pairwise(edges))
    assert found.counts == tuple(sum(a <= v < b for v in values) for a, b in pairs)
    assert found.total == sum(v >= 0 for v in values)
    assert found.below(2.5) == sum(0 <= v < 2.5 for v in values)


@given(st.lists(st.tuples(st.integers(-9, 9), st.integers(0, 3)), max_size=25))
def test_grouped_median(pairs: list[tuple[int, int]]) -> None:
    values = np.array([v for v, _ in pairs], np.float64)
    groups = np.array([g for _, g in pairs], np.int64)
    found = grouped_median(values, groups, 5)
    for group in range(5):
        members = values[groups == group]
        expected = np.median(members) if len(members) else np.nan
        np.testing.assert_equal(found[group], expected)


@given(st.lists(st.integers(-3, 3), max_size=12))
def test_distinct(values: list[int]) -> None:
    keys, counts = distinct(np.array(values, np.int64))
    assert dict(zip(keys.tolist(), counts.tolist(), strict=True)) == Counter(values)
    assert keys.tolist() == sorted(set(values))


def test_spread() -> None:
    spread = Spread.of(np.arange(1001))
    assert (spread.count, spread.min, spread.median, spread.max) == (1001, 0, 500, 1000)
    assert (spread.p1, spread.p95, spread.p999) == (10, 950, 999)
    nothing = Spread.of(np.zeros(0))
    assert nothing.count == 0
    assert math.isnan(nothing.median)


def test_heat_map_keeps_everything() -> None:
    found = heat_map(
        np.array([0.5, 1.5, 9, -3]), np.array([0.5, 0.5, 2, 0.1]), (0, 1, 2), (0, 1, 2)
    )
    assert found.tolist() == [[2, 1], [0, 1]]
