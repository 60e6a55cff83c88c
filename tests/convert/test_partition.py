"""Dividing and choosing images: exact sizes, whole groups, near shares, nothing by chance."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from detrkit.convert.partition import Boxes, divide, groups_of, parse_ratios
from detrkit.convert.sample import choose, choose_per_class
from detrkit.errors import UsageError


@st.composite
def boxes(draw: st.DrawFn, least: int = 3) -> Boxes:
    images = draw(st.integers(least, 30))
    rows = draw(st.lists(st.tuples(st.integers(0, images - 1), st.integers(0, 4)), max_size=60))
    owners, labels = np.asarray(rows, np.int64).reshape(-1, 2).T
    return Boxes(images, owners, labels)


SHARES = st.sampled_from([(0.5, 0.5), (0.8, 0.2), (0.7, 0.2, 0.1), (0.05, 0.95), (1 / 3,) * 3])


@given(boxes(), SHARES, st.integers(0, 9), st.booleans())
@settings(max_examples=60)
def test_parts_have_exact_sizes(
    found: Boxes, shares: tuple[float, ...], seed: int, stratify: bool
) -> None:
    parts = divide(found, shares, seed=seed, stratify=stratify)
    sizes = np.bincount(parts, minlength=len(shares))
    assert sizes.sum() == found.images
    assert sizes.min() >= 1
    assert np.abs(sizes - np.array(shares) * found.images).max() <= max(1, len(shares) - 1)
    np.testing.assert_array_equal(parts, divide(found, shares, seed=seed, stratify=stratify))


@given(boxes(), SHARES, st.booleans(), st.data())
@settings(max_examples=60)
def test_groups_stay_together(
    found: Boxes, shares: tuple[float, ...], stratify: bool, data: st.DataObject
) -> None:
    numbers = st.integers(0, 5)
    groups = np.unique(
        data.draw(st.lists(numbers, min_size=found.images, max_size=found.images)),
        return_inverse=True,
    )[1]
    if groups.max() + 1 < len(shares):
        with pytest.raises(UsageError, match="groups cannot be divided"):
            divide(found, shares, stratify=stratify, groups=groups)
        return
    parts = divide(found, shares, stratify=stratify, groups=groups)
    for group in range(groups.max() + 1):
        assert len(set(parts[groups == group])) == 1


def test_another_seed_gives_other_parts() -> None:
    found = Boxes(50, np.arange(50), np.zeros(50, int))
    first, second = (divide(found, (0.5, 0.5), seed=seed) for seed in (0, 1))
    assert (first != second).any()


@pytest.mark.parametrize("seed", range(3))
def test_class_shares_are_near(seed: int) -> None:
    """A long tail: a class with 3,000 boxes, one with 12, several in one image."""
    rng = np.random.default_rng(seed)
    images, classes = 400, 12
    frequency = 3000 / np.arange(1, classes + 1) ** 2.2
    labels = np.repeat(np.arange(classes), np.maximum(frequency, 12).astype(int))
    found = Boxes(images, rng.integers(0, images, len(labels)), labels)
    shares = np.array([0.7, 0.2, 0.1])

    totals = np.bincount(labels)

    def missed(parts: np.ndarray) -> np.ndarray:
        """By how many boxes each class misses its share in the worst part."""
        table = np.zeros((classes, 3))
        np.add.at(table, (labels, parts[found.owners]), 1)
        return np.abs(table - totals[:, None] * shares).max(1)

    parts = divide(found, shares.tolist(), seed=seed, stratify=True)
    assert np.bincount(parts).tolist() == [280, 80, 40]
    assert (missed(parts) <= np.maximum(1, 0.02 * totals)).all()
    at_random = missed(divide(found, shares.tolist(), seed=seed))
    assert missed(parts)[totals < 300].max() < at_random[totals < 300].max() / 3


def test_rare_classes_reach_every_part() -> None:
    """Ten images have the rare class; at random a part of a tenth misses it every third time."""
    owners = np.concatenate([np.arange(100), np.arange(10)])
    labels = np.repeat([0, 1], [100, 10])
    parts = divide(Boxes(100, owners, labels), (0.8, 0.1, 0.1), stratify=True)
    assert np.bincount(parts[:10], minlength=3).tolist() == [8, 1, 1]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0.8,0.2", {"train": 0.8, "val": 0.2}),
        ("8,1,1", {"train": 0.8, "val": 0.1, "test": 0.1}),
        ("80, 20", {"train": 0.8, "val": 0.2}),
        ("test=1,train=3", {"train": 0.75, "test": 0.25}),
        ("1", {"train": 1.0}),
    ],
)
def test_ratios(text: str, expected: dict[str, float]) -> None:
    assert parse_ratios(text) == pytest.approx(expected)


@pytest.mark.parametrize(
    "text", ["", "0.8,", "a,b", "0.8,0", "0.8,-1", "1,1,1,1", "x=1", "train=1,train=2", "nan,1"]
)
def test_ratios_that_cannot_be_used(text: str) -> None:
    with pytest.raises(UsageError, match="--ratios"):
        parse_ratios(text)


def test_groups_by_name() -> None:
    names = ["a/clip7_001.jpg", "a/clip7_002.jpg", "b/clip7_001.jpg", "photo.jpg", "x.jpg"]
    groups, unmatched = groups_of(names, r"^(.*)_\d+")
    assert (groups.tolist(), unmatched) == ([0, 0, 1, 2, 3], 2)
    assert groups_of(names, r"clip\d+")[0].tolist() == [0, 0, 0, 1, 2]
    assert groups_of(names[:3], r"(a)|(b)")[0].tolist() == [0, 0, 1]
    with pytest.raises(UsageError, match="matches none"):
        groups_of(names, "z+")
    with pytest.raises(UsageError, match="--group-by"):
        groups_of(names, "(")


def test_more_parts_than_images() -> None:
    with pytest.raises(UsageError, match="2 images cannot be divided into 3 parts"):
        divide(Boxes(2, np.zeros(0, int), np.zeros(0, int)), (0.8, 0.1, 0.1))


@given(boxes(), st.integers(1, 30), st.integers(0, 3), st.booleans())
@settings(max_examples=40)
def test_a_sample(found: Boxes, count: int, seed: int, stratify: bool) -> None:
    if count > found.images:
        with pytest.raises(UsageError, match="cannot choose"):
            choose(found, count, seed=seed)
        return
    rows = choose(found, count, seed=seed, stratify=stratify)
    assert len(rows) == count
    assert (np.diff(rows) > 0).all()
    np.testing.assert_array_equal(rows, choose(found, count, seed=seed, stratify=stratify))


@given(boxes(), st.integers(1, 5), st.integers(0, 3))
@settings(max_examples=40)
def test_a_sample_per_class(found: Boxes, count: int, seed: int) -> None:
    rows = choose_per_class(found, count, seed=seed)
    for label in range(5):
        having = set(found.owners[found.labels == label])
        assert len(having & set(rows)) >= min(count, len(having))
    # none was taken in vain: without it, the class that it was taken for would lack it
    assert len(rows) <= count * len(set(found.labels))
