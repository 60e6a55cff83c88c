"""Stages from the keys of each repository's files."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from detrkit.engine.stages import Stage, image_sizes_of, matcher_change, matcher_of, stages_of
from detrkit.errors import ConfigError

MOSAIC = {"type": "Mosaic", "probability": 1.0}


def tree(policy: Any, collate: dict[str, Any], **more: Any) -> dict[str, Any]:
    transforms = {"policy": policy, **more.pop("transforms", {})}
    loader = {"dataset": {"transforms": transforms}, "collate_fn": collate}
    return {"train_dataloader": loader, **more}


def deim(**more: Any) -> dict[str, Any]:
    """DEIMv2-L's windows."""
    return tree(
        {"name": "stop_epoch", "epoch": [4, 29, 50], "ops": ["Mosaic", "RandomIoUCrop"]},
        {
            "stop_epoch": 50,
            "base_size": 640,
            "base_size_repeat": 3,
            "mixup_prob": 0.5,
            "mixup_epochs": [4, 29],
            "copyblend_prob": 0.4,
            "copyblend_epochs": [4, 50],
        },
        transforms={"ops": [MOSAIC, {"type": "RandomIoUCrop"}], "mosaic_prob": 0.5},
        criterion="DEIMCriterion",
        DEIMCriterion={"matcher": {"change_matcher": True, "matcher_change_epoch": 45}},
        **more,
    )


def stages(t: dict[str, Any], epochs: int = 58) -> tuple[Stage, ...]:
    return stages_of(t, epochs, ema_decay=0.9999, late_ema_decay=0.99)


def test_deimv2_has_five() -> None:
    rows = [
        (s.name, s.first, s.end, s.strong_augmentation, s.mosaic, s.mixup, s.copyblend)
        for s in stages(deim())
    ]
    assert rows == [
        ("light augmentation", 0, 4, False, 0, 0, 0),
        ("dense augmentation", 4, 29, True, 0.5, 0.5, 0.4),
        ("dense augmentation", 29, 45, True, 0, 0, 0.4),
        ("dense augmentation", 45, 50, True, 0, 0, 0.4),
        ("refine", 50, 58, False, 0, 0, 0),
    ]
    assert [s.changed_matcher for s in stages(deim())] == [False, False, False, True, True]
    assert [s.restarts for s in stages(deim())] == [False] * 4 + [True]
    assert [bool(s.image_sizes) for s in stages(deim())] == [True] * 4 + [False]
    assert [s.ema_decay for s in stages(deim())] == [0.9999] * 4 + [0.99]


def test_one_line_each() -> None:
    line = stages(deim())[3].describe()
    assert line == (
        "epochs 45-49  strong augmentation, copyblend 40%, image sizes 480 to 800, "
        "matching by score and IoU"
    )


def test_what_is_off_makes_no_stage() -> None:
    t = deim()
    collate = t["train_dataloader"]["collate_fn"]
    collate |= {"mixup_prob": 0.0, "mixup_epochs": [7, 9], "copyblend_prob": 0.0}
    t["DEIMCriterion"]["matcher"]["change_matcher"] = False
    assert [s.first for s in stages(t)] == [0, 4, 29, 50]
    collate |= {"mixup_prob": 0.5, "mixup_epochs": [40000, 15000]}  # Atto's
    assert [s.first for s in stages(t)] == [0, 4, 29, 50]


def test_strong_augmentation_may_end_before_the_restart() -> None:
    t = deim()
    t["train_dataloader"]["dataset"]["transforms"]["policy"]["epoch"] = [4, 250, 400]
    t["train_dataloader"]["collate_fn"]["stop_epoch"] = 468
    t["train_dataloader"]["collate_fn"]["copyblend_prob"] = 0.0
    t["DEIMCriterion"]["matcher"]["matcher_change_epoch"] = 450
    rows = [(s.first, s.strong_augmentation, s.restarts) for s in stages(t, 500)]
    assert rows == [
        (0, False, False),
        (4, True, False),
        (29, True, False),
        (250, True, False),
        (400, False, False),
        (450, False, False),
        (468, False, True),
    ]


def test_one_epoch_policy_with_mosaic() -> None:
    policy = {"name": "stop_epoch", "epoch": 10, "ops": ["Mosaic"]}
    t = tree(policy, {}, transforms={"ops": [{**MOSAIC, "probability": 0.3}], "mosaic_prob": 0.5})
    assert [(s.first, s.mosaic) for s in stages(t, 12)] == [(0, 0.3), (10, 0)]
    policy["ops"] = ["RandomIoUCrop"]  # not named: never off
    assert [(s.first, s.mosaic) for s in stages(t, 12)] == [(0, 0.3), (10, 0.3)]


def test_no_policy_is_strong_throughout() -> None:
    only = stages(tree(None, {"scales": [480, 640]}), 5)
    assert [(s.name, s.strong_augmentation, s.image_sizes) for s in only] == [
        ("train", True, (480, 640))
    ]


@pytest.mark.parametrize(
    ("collate", "sizes"),
    [
        ({}, ()),
        ({"base_size": 640, "base_size_repeat": None}, ()),
        ({"scales": None}, ()),
        ({"scales": [480, 640]}, (480, 640)),
        ({"scales": [[320, 640], 64]}, ((320, 640), 64)),
        ({"scales": None, "base_size_repeat": 1}, None),  # a dead key of DEIM's R18
        ({"base_size_repeat": 1}, None),
        ({"base_size": [480, 640], "base_size_repeat": 1}, None),
    ],
)
def test_image_sizes(collate: dict[str, Any], sizes: tuple[Any, ...] | None) -> None:
    derived = (480, 512, 544, 576, 608, 640, 800, 768, 736, 704, 672)
    assert image_sizes_of(collate) == (derived if sizes is None else sizes)


CHANGE = {"change_matcher": True, "matcher_change_epoch": 9}


@pytest.mark.parametrize(
    ("tree", "key"),
    [
        ({"criterion": "Loss", "Loss": {"matcher": CHANGE}}, "Loss.matcher"),
        ({"criterion": {"matcher": CHANGE}}, "criterion.matcher"),
        ({"criterion": "Loss", "Loss": {"matcher": "Pairs"}, "Pairs": CHANGE}, "Pairs"),
    ],
)
def test_the_matcher_is_found_however_it_is_named(tree: dict[str, Any], key: str) -> None:
    assert matcher_of(tree) == (key, CHANGE)
    assert matcher_change(tree) == 9


@pytest.mark.parametrize(
    "tree", [{}, {"criterion": "Loss"}, {"criterion": {"matcher": {"matcher_change_epoch": 9}}}]
)
def test_no_change_of_the_matcher(tree: dict[str, Any]) -> None:
    assert matcher_change(tree) is None


@pytest.mark.parametrize("epoch", [[4, 29], [1, 2, 3, 4], "many", [1, 2, "x"], 1.5])
def test_a_policy_that_makes_no_sense(epoch: Any) -> None:
    with pytest.raises(ConfigError, match=r"policy\.epoch"):
        stages(tree({"name": "stop_epoch", "epoch": epoch, "ops": []}, {}))


def test_a_window_that_makes_no_sense() -> None:
    with pytest.raises(ConfigError, match=r"mixup_epochs: 4 is not"):
        stages(tree(None, {"mixup_prob": 0.5, "mixup_epochs": 4}))


EPOCH = st.integers(0, 80)


@given(
    st.integers(1, 60),
    st.one_of(st.none(), EPOCH, st.tuples(EPOCH, EPOCH, EPOCH).map(sorted)),
    st.one_of(st.none(), EPOCH),
    st.lists(EPOCH, min_size=2, max_size=2),
    EPOCH,
)
def test_stages_cover_all_epochs_once(
    epochs: int, edges: Any, stop: int | None, window: list[int], change: int
) -> None:
    policy = None if edges is None else {"name": "stop_epoch", "epoch": edges, "ops": ["Mosaic"]}
    t = deim()
    t["train_dataloader"]["dataset"]["transforms"]["policy"] = policy
    t["train_dataloader"]["collate_fn"] |= {"stop_epoch": stop, "mixup_epochs": window}
    t["DEIMCriterion"]["matcher"]["matcher_change_epoch"] = change
    found = stages(t, epochs)
    assert found[0].first == 0
    assert found[-1].end == epochs
    assert all(a.end == b.first < b.end for a, b in pairwise(found))
    for stage in found:
        for epoch in range(stage.first, stage.end):
            assert stage.mixup == (0.5 if window[0] <= epoch < window[1] else 0)
            assert stage.restarts == (stop is not None and 0 < stop <= epoch)
            assert stage.changed_matcher == (epoch >= change)
            if isinstance(edges, list):
                assert stage.strong_augmentation == (edges[0] <= epoch < edges[2])
                assert stage.mosaic == (0.5 if edges[0] <= epoch < edges[1] else 0)
