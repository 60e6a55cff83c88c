from __future__ import annotations

import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from detrkit.data.index import DatasetIndex
from detrkit.data.strings import PackedStrings
from detrkit.errors import UsageError
from detrkit.structures import ClassMap


def make_index(counts: list[int]) -> DatasetIndex:
    """Images with so many boxes; every value tells which box it is."""
    total = sum(counts)
    rows = np.arange(total)
    return DatasetIndex(
        paths=PackedStrings.pack(f"é{i}.jpg" for i in range(len(counts))),
        sizes=np.stack([np.arange(len(counts)) + 1] * 2, 1).astype(np.int32),
        image_ids=np.arange(len(counts)) * 10,
        offsets=np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
        boxes_xyxy=np.stack([rows, rows, rows + 1, rows + 1], 1).astype(np.float32),
        labels=rows % 3,
        iscrowd=rows % 5 == 4,
        area=np.ones(total),
        annotation_ids=rows + 100,
        class_map=ClassMap.from_names("abc"),
        apply_exif=np.ones(len(counts), bool),
        source="test",
    )


COUNTS = st.lists(st.integers(0, 4), min_size=1, max_size=12)


@settings(deadline=None)
@given(COUNTS, st.data())
def test_subset_keeps_each_image_with_its_boxes(counts: list[int], data: st.DataObject) -> None:
    index = make_index(counts)
    chosen = data.draw(st.lists(st.integers(0, len(counts) - 1), max_size=8))
    part = index.subset(chosen)
    assert len(part) == len(chosen)
    for new, old in enumerate(chosen):
        assert part.paths[new] == index.paths[old]
        assert part.image_id(new) == index.image_id(old)
        np.testing.assert_array_equal(
            part.annotation_ids[part.boxes_of(new)], index.annotation_ids[index.boxes_of(old)]
        )


@settings(deadline=None)
@given(COUNTS.filter(lambda c: len(c) > 1), st.floats(0.01, 0.99), st.integers(0, 9))
def test_split_is_a_partition(counts: list[int], fraction: float, seed: int) -> None:
    index = make_index(counts)
    train, val = index.split(fraction, seed)
    assert len(train) >= 1
    assert len(val) >= 1
    assert sorted([*train.image_ids, *val.image_ids]) == index.image_ids.tolist()
    assert train.num_boxes + val.num_boxes == index.num_boxes


def test_split_needs_two_images() -> None:
    with pytest.raises(UsageError, match="cannot be split"):
        make_index([3]).split(0.5)


@settings(deadline=None)
@given(st.lists(st.text(st.characters(codec="utf-8"), max_size=6), max_size=6))
def test_packed_strings_round_trip(strings: list[str]) -> None:
    packed = pickle.loads(pickle.dumps(PackedStrings.pack(strings)))
    assert list(packed) == strings
    assert [packed[-i - 1] for i in range(len(packed))] == strings[::-1]
    with pytest.raises(IndexError):
        packed[len(strings)]


def test_undecodable_file_names_survive() -> None:
    name = b"caf\xe9.jpg".decode("utf-8", "surrogateescape")
    assert PackedStrings.pack([name])[0] == name


def test_concat_numbers_colliding_ids_anew() -> None:
    both = DatasetIndex.concat([make_index([1, 2]), make_index([0, 3])])
    assert len(both) == 4
    assert both.num_boxes == 6
    assert len(set(both.image_ids.tolist())) == 4
    assert len(set(both.annotation_ids.tolist())) == 6
    assert np.diff(both.offsets).tolist() == [1, 2, 0, 3]


def test_pickled_index_is_small_and_equal() -> None:
    index = make_index([2] * 1000)
    data = pickle.dumps(index)
    assert len(data) < 250_000
    np.testing.assert_array_equal(pickle.loads(data).boxes_xyxy, index.boxes_xyxy)


def test_boxes_per_class_leave_crowds_out() -> None:
    index = make_index([10])
    assert index.boxes_per_class().sum() == 8
