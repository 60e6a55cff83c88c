"""Images of rare classes come more often: how often, in which order, in which process."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from detrkit.data.loader import BatchSchedule
from detrkit.data.sampling import (
    InOrder,
    Presence,
    Repeated,
    Shuffled,
    balanced_shares,
    describe,
    repeat_factors,
    repeat_numbers,
    sampled_order,
)
from detrkit.errors import ConfigError

#: Classes of each image: `a` in eight of ten, `b` in two, `c` in one, one image without any.
IMAGES = ["a", "a", "aa", "a", "a", "a", "ab", "abb", "c", ""]


class Index(SimpleNamespace):
    """As much of an index as sampling reads."""

    def __len__(self) -> int:
        return len(self.offsets) - 1


class Names(tuple[str, ...]):
    """As much of a class map."""

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self)


def made(images: list[str], crowd: str = "") -> Any:
    """An index whose boxes have these classes, one letter each."""
    letters = "".join(images)
    names = Names(sorted({*letters}))
    return Index(
        labels=np.array([names.index(letter) for letter in letters], np.int64),
        iscrowd=np.array([letter in crowd for letter in letters], bool),
        offsets=np.cumsum([0, *map(len, images)]),
        class_map=names,
    )


def test_repeat_factors_are_those_of_the_paper() -> None:
    presence = Presence.of(made(IMAGES))
    assert presence.images_of.tolist() == [8, 2, 1]
    factors = repeat_factors(presence, threshold=0.4)
    # r = max(1, sqrt(t / f)): a is frequent, b in 0.2, c in 0.1 of the images
    b, c = (0.4 / 0.2) ** 0.5, (0.4 / 0.1) ** 0.5
    np.testing.assert_allclose(factors, [1] * 6 + [b, b, c, 1])


def test_the_median_class_is_the_threshold() -> None:
    factors = repeat_factors(Presence.of(made(IMAGES)))
    np.testing.assert_allclose(factors, [1] * 8 + [2**0.5, 1])
    even = Presence.of(made(["a", "b", "c"]))
    assert repeat_factors(even).tolist() == [1, 1, 1]
    huge = ["a"] * 9000 + ["b"] * 3 + ["c"] * 2
    share = 3 / 9005  # below a thousandth, LVIS's threshold
    assert repeat_factors(Presence.of(made(huge)))[9000] == pytest.approx((0.001 / share) ** 0.5)


def test_balanced_classes_come_equally_often() -> None:
    images = ["a"] * 90 + ["b"] * 9 + ["c"] + [""] * 20
    presence = Presence.of(made(images))
    shares = balanced_shares(presence)
    assert shares.sum() == pytest.approx(120)
    shown = np.bincount(presence.classes, weights=shares[presence.images])
    np.testing.assert_allclose(shown, [100 / 3] * 3)
    assert set(shares[-20:]) == {1.0}  # without boxes: as without balancing


def test_crowd_regions_are_no_examples() -> None:
    presence = Presence.of(made(["a", "ax", "x"], crowd="x"))
    assert presence.images_of.tolist() == [2, 0]
    assert repeat_factors(presence, 1.0).tolist() == pytest.approx([1.5**0.5, 1.5**0.5, 1])


def test_data_without_boxes() -> None:
    for sampling in ("repeat_factor", "class_balanced"):
        order = sampled_order(sampling, made(["", "", ""]))  # type: ignore[arg-type]
        assert sorted(order.order(0)) == [0, 1, 2]


@pytest.mark.parametrize("threshold", [0.0, -1.0, 1.5])
def test_a_threshold_is_a_share(threshold: float) -> None:
    with pytest.raises(ConfigError, match="sampling_threshold: must be above 0"):
        sampled_order("repeat_factor", made(IMAGES), threshold=threshold)


@settings(deadline=None, max_examples=50)
@given(
    st.lists(st.floats(0, 5), min_size=1, max_size=40).filter(lambda w: sum(w) > 0.1),
    st.integers(0, 2**31),
    st.integers(0, 500),
)
def test_every_image_comes_as_often_as_wanted(wanted: list[float], seed: int, epoch: int) -> None:
    order = Repeated(np.array(wanted), seed)
    drawn = order.order(epoch)
    assert len(drawn) == len(order) == max(int(np.ceil(sum(wanted) - 1e-6)), 1)
    counts = np.bincount(drawn, minlength=len(wanted))
    exact = np.array(wanted) * len(order) / sum(wanted)
    assert (np.abs(counts - exact) < 1 + 1e-6).all()
    assert (drawn == order.order(epoch)).all()


def test_fractions_come_true_over_many_epochs() -> None:
    wanted = np.array([1.0, 2.3, 0.4, 1.0, 1.3])
    order = Repeated(wanted, seed=1)
    counts = sum(np.bincount(order.order(epoch), minlength=5) for epoch in range(2000))
    np.testing.assert_allclose(counts / 2000, wanted, atol=0.04)
    orders = {tuple(order.order(epoch)) for epoch in range(20)}
    assert len(orders) > 15
    assert tuple(Repeated(wanted, seed=2).order(0)) != tuple(order.order(0))


def test_repetitions_are_numbered() -> None:
    assert repeat_numbers(np.array([4, 1, 4, 0, 4, 1])).tolist() == [0, 0, 1, 0, 2, 1]
    assert repeat_numbers(np.array([], np.int64)).tolist() == []


@pytest.mark.parametrize("world", [1, 2, 3])
def test_any_number_of_processes_sees_the_same_batches(world: int) -> None:
    images = sampled_order("class_balanced", made(IMAGES * 5), seed=3)
    ranks = [
        BatchSchedule(
            50, 12 // world, shuffle=True, seed=3, rank=rank, world_size=world, images=images,
            drop_last=True,
        )
        for rank in range(world)
    ]  # fmt: skip
    assert {len(rank) for rank in ranks} == {len(images) // 12}
    alone = BatchSchedule(50, 12, shuffle=True, images=images, drop_last=True).batches(4)
    shared = zip(*(rank.batches(4) for rank in ranks), strict=True)
    assert [np.concatenate(parts).tolist() for parts in shared] == [b.tolist() for b in alone]


def test_a_repeated_image_has_a_key_of_its_own() -> None:
    images = Repeated(np.array([1.0, 4.0]))
    keys = [key for batch in BatchSchedule(2, 2, shuffle=True, images=images) for key in batch]
    assert len({(key.index, key.repeat) for key in keys}) == len(keys) == 5
    assert sorted(key.repeat for key in keys if key.index == 1) == [0, 1, 2, 3]


def test_plain_orders() -> None:
    assert InOrder(3).order(7).tolist() == [0, 1, 2]
    shuffled = Shuffled(50, seed=1)
    assert sorted(shuffled.order(0)) == list(range(50))
    assert shuffled.order(0).tolist() != shuffled.order(1).tolist()


def test_what_it_says() -> None:
    index = made(IMAGES)
    text = describe("repeat_factor", sampled_order("repeat_factor", index), index)
    assert text == "sampling repeat_factor: 10 images, 11 per epoch; c 1.4 times as often"
    even = made(["a", "b"])
    text = describe("class_balanced", sampled_order("class_balanced", even), even)
    assert text.endswith("2 images, 2 per epoch; no class comes more often")
