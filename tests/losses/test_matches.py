"""Pairs: the union of the layers' matches against a naive vote, and how images are numbered."""

from __future__ import annotations

from collections import Counter

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from detrkit.losses.matches import Pairs, denoising_pairs, starts, to_device, union_of

pair = st.tuples(st.integers(0, 5), st.integers(0, 5))
layer = st.lists(pair, max_size=8, unique=True)


def as_pairs(found: list[tuple[int, int]]) -> Pairs:
    return Pairs(*np.array(found, np.int64).reshape(-1, 2).T)


@settings(deadline=None)
@given(st.lists(layer, max_size=5))
def test_union_gives_each_query_the_box_with_most_votes(
    layers: list[list[tuple[int, int]]],
) -> None:
    votes = Counter(found for pairs in layers for found in pairs)
    expected = {}
    for query, target in sorted(votes, key=lambda p: (-votes[p], p[1])):
        expected.setdefault(query, target)
    union = union_of([as_pairs(pairs) for pairs in layers])
    found = list(zip(union.queries.tolist(), union.targets.tolist(), strict=True))
    assert found == sorted(expected.items())


@settings(deadline=None)
@given(st.lists(layer, min_size=1, max_size=4), st.randoms(use_true_random=False))
def test_union_is_blind_to_the_order_of_pairs(
    layers: list[list[tuple[int, int]]], random: object
) -> None:
    shuffled = [random.sample(pairs, len(pairs)) for pairs in layers]  # type: ignore[attr-defined]
    a = union_of([as_pairs(pairs) for pairs in layers])
    b = union_of([as_pairs(pairs) for pairs in shuffled[::-1]])
    assert a.queries.tolist() == b.queries.tolist()
    assert a.targets.tolist() == b.targets.tolist()


def test_per_image_numbers_from_zero() -> None:
    pairs = as_pairs([(21, 4), (3, 1), (20, 3)])
    assert pairs.per_image(10, [2, 1, 2]) == [[(3, 1)], [], [(0, 0), (1, 1)]]


def test_starts_counts_empty_images() -> None:
    assert starts([3, 0, 2]).tolist() == [0, 3, 3]
    assert starts([]).tolist() == []


def test_denoising_pairs_repeat_the_boxes_of_each_image_per_group() -> None:
    # Two groups over images with 1, 0 and 2 boxes; 8 denoising queries per image.
    positive = (
        torch.tensor([0, 4]),
        torch.tensor([], dtype=torch.int64),
        torch.tensor([0, 1, 4, 5]),
    )
    queries, targets = denoising_pairs(positive, 2, 8, [1, 0, 2])
    assert queries.tolist() == [0, 4, 16, 17, 20, 21]
    assert targets.tolist() == [0, 0, 1, 2, 1, 2]


def test_denoising_pairs_without_boxes() -> None:
    queries, targets = denoising_pairs(None, 0, 0, [0, 0])
    assert queries.shape == targets.shape == (0,)


def test_to_device_keeps_groups_apart() -> None:
    a, b, c = as_pairs([(0, 1), (2, 3)]), as_pairs([(4, 5), (6, 7)]), as_pairs([(8, 9)])
    both, single, none = to_device([[a, b], [c], [Pairs.empty()]], torch.device("cpu"))
    assert both.queries.tolist() == [[0, 2], [4, 6]]
    assert both.targets.tolist() == [[1, 3], [5, 7]]
    assert single.queries.tolist() == [[8]]
    assert single.targets.tolist() == [[9]]
    assert none.queries.shape == (1, 0)
