"""Places of nodes: rows follow the edges, boxes keep apart, trees have no crossings."""

from __future__ import annotations

from itertools import combinations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from detrkit.explain.figures.layered import arrange


@st.composite
def graphs(draw: st.DrawFn) -> tuple[list[tuple[float, float]], list[tuple[int, int]]]:
    count = draw(st.integers(1, 14))
    pairs = list(combinations(range(count), 2))
    edges = draw(st.lists(st.sampled_from(pairs), unique=True, max_size=24)) if pairs else []
    side = st.floats(5, 120)
    return [(draw(side), draw(side)) for _ in range(count)], edges


@settings(max_examples=60, deadline=None)
@given(graphs())
def test_boxes_keep_apart_and_edges_lead_down(
    graph: tuple[list[tuple[float, float]], list[tuple[int, int]]],
) -> None:
    sizes, edges = graph
    placed = arrange(sizes, edges, gap=(10, 12))
    boxes = [
        (x - w / 2, y - h / 2, x + w / 2, y + h / 2)
        for (x, y), (w, h) in zip(placed.centres, sizes, strict=True)
    ]
    for a, b in combinations(boxes, 2):
        aside = a[2] + 10 <= b[0] + 1e-6 or b[2] + 10 <= a[0] + 1e-6
        above = a[3] <= b[1] + 1e-6 or b[3] <= a[1] + 1e-6
        assert aside or above
    for left, top, right, bottom in boxes:
        assert left >= -1e-6
        assert top >= -1e-6
        assert right <= placed.width + 1e-6
        assert bottom <= placed.height + 1e-6
    for (source, target), route in zip(edges, placed.routes, strict=True):
        assert route[0] == (placed.centres[source][0], boxes[source][3])
        assert route[-1] == (placed.centres[target][0], boxes[target][1])
        heights = [y for _, y in route]
        assert heights == sorted(heights)


def test_two_branches_stand_side_by_side_and_do_not_cross() -> None:
    edges = [(0, 1), (0, 2), (1, 4), (2, 3), (3, 5), (4, 5)]
    placed = arrange([(10.0, 10.0)] * 6, edges)
    x = [place[0] for place in placed.centres]
    assert (x[1] < x[2]) == (x[4] < x[3])
    assert x[0] == pytest.approx((x[1] + x[2]) / 2, abs=1)


def test_an_edge_must_lead_on() -> None:
    with pytest.raises(ValueError, match="higher"):
        arrange([(1.0, 1.0)] * 2, [(1, 0)])
