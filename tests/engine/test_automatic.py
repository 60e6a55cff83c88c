"""The rules of `schedule: auto`."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from detrkit.config import catalogue, load_config
from detrkit.engine.automatic import Windows, automatic, enough_epochs, epoch_values
from detrkit.engine.stages import stages_of
from tests.engine.test_stages import deim


def put(tree: dict[str, Any], values: dict[str, Any]) -> dict[str, Any]:
    """A copy with dotted keys set."""
    tree = deepcopy(tree)
    for key, value in values.items():
        *parents, leaf = key.split(".")
        holder = tree
        for parent in parents:
            holder = holder[parent]
        assert leaf in holder, f"{key}: `schedule: auto` adds nothing"
        holder[leaf] = value
    return tree


@pytest.mark.parametrize(
    ("batches", "epochs"), [(0, 300), (1, 300), (7, 143), (26, 39), (50, 20), (84, 12), (3000, 12)]
)
def test_fine_tuning_takes_steps(batches: int, epochs: int) -> None:
    assert enough_epochs(batches) == epochs


FLAT = {"lr_scheduler_kind": "flatcosine", "flat_epoch": 29, "no_aug_epoch": 8}


@pytest.mark.parametrize("entry", [pytest.param(e, id=e.name) for e in catalogue()])
def test_every_file_comes_out_unchanged_at_its_own_length(entry: Any) -> None:
    tree = load_config(entry.path, strict=False).tree
    values = epoch_values(tree, tree["epochs"], tree["epochs"])
    assert put(tree, values) == tree


def test_deims_arithmetic() -> None:
    """4 + n / 2, n, 0.9 n at lengths that DEIM published with other numbers of its own."""
    values = epoch_values(deim(**FLAT), 108)
    assert values == {
        "train_dataloader.dataset.transforms.policy.epoch": [4, 52, 97],
        "train_dataloader.collate_fn.stop_epoch": 97,
        "train_dataloader.collate_fn.mixup_epochs": [4, 52],
        "train_dataloader.collate_fn.copyblend_epochs": [4, 97],
        "DEIMCriterion.matcher.matcher_change_epoch": 83,
        "flat_epoch": 52,
        "no_aug_epoch": 11,
    }


@pytest.mark.parametrize(
    ("epochs", "edges"),
    [
        (1, [0, 0, 1]),
        (2, [0, 1, 2]),
        (3, [0, 1, 2]),
        (12, [1, 6, 10]),
        (36, [2, 17, 31]),
        (58, [4, 29, 50]),
        (500, [4, 242, 477]),
    ],
)
def test_short_and_long_runs(epochs: int, edges: list[int]) -> None:
    values = epoch_values(deim(**FLAT), epochs)
    assert values["train_dataloader.dataset.transforms.policy.epoch"] == edges


def test_what_is_off_stays_off() -> None:
    t = deim(**{**FLAT, "flat_epoch": 7800})
    t["train_dataloader"]["collate_fn"] |= {"mixup_prob": 0.0, "copyblend_epochs": [40000, 15000]}
    t["DEIMCriterion"]["matcher"]["change_matcher"] = False
    assert set(epoch_values(t, 20)) == {
        "train_dataloader.dataset.transforms.policy.epoch",
        "train_dataloader.collate_fn.stop_epoch",
        "no_aug_epoch",
    }
    t["train_dataloader"]["collate_fn"]["stop_epoch"] = None
    t["train_dataloader"]["dataset"]["transforms"]["policy"] = None
    assert epoch_values(t, 20) == {}


def test_a_file_without_a_second_stage_gets_none() -> None:
    t = deim(**{**FLAT, "no_aug_epoch": 0})
    t["train_dataloader"]["dataset"]["transforms"]["policy"]["epoch"] = 500
    t["train_dataloader"]["collate_fn"]["stop_epoch"] = 500
    assert epoch_values(t, 20, 100) == {}


@given(
    st.integers(1, 600),
    st.lists(st.integers(0, 600), min_size=5, max_size=5).map(sorted),
)
@example(3, [0, 0, 0, 0, 7])
@example(3, [3, 3, 3, 3, 19])
def test_windows_stay_inside_and_in_order(epochs: int, file: list[int]) -> None:
    start, middle, strong, stop, base = file
    stop = max(stop, 1)
    windows = Windows.derive(epochs, start=start, stop=stop, base=base)
    moved = [windows.move(epoch) for epoch in (start, middle, strong, stop)]
    assert 0 <= moved[0] <= moved[1] <= moved[2] <= moved[3] <= epochs
    assert moved[3] >= 1
    assert (epochs - moved[3] >= 1) == (epochs > 2)
    assert moved[0] <= start or start == stop


@given(st.integers(1, 600), st.one_of(st.none(), st.just(58)))
def test_derived_plans_are_whole(epochs: int, base: int | None) -> None:
    t = deim(**FLAT)
    t = put(t, epoch_values(t, epochs, base))
    stages = stages_of(t, epochs, ema_decay=0.9, late_ema_decay=0.9)
    assert stages[-1].end == epochs
    assert t["flat_epoch"] + t["no_aug_epoch"] <= epochs
    if epochs > 2:
        assert stages[-1].restarts
        assert not stages[-1].strong_augmentation
        assert any(stage.mosaic for stage in stages)
    if epochs >= 15:
        assert not stages[0].strong_augmentation


@given(st.integers(1, 500), st.integers(1, 5000))
def test_steps_are_sane(epochs: int, batches: int) -> None:
    auto = automatic(epochs, batches)
    assert 1 <= auto.warmup_steps <= 500
    assert auto.warmup_steps <= max(epochs * batches, 1)
    assert 0.5 < auto.ema_decay <= 0.9999
    assert 1 <= auto.ema_warmups <= 1000


def test_the_authors_steps_at_the_authors_length() -> None:
    auto = automatic(132, 3696)  # D-FINE-S on COCO at batch 32
    assert (auto.warmup_steps, auto.ema_decay, auto.ema_warmups) == (500, 0.9999, 1000)


def test_what_counts_steps_and_is_off_stays_off() -> None:
    auto = automatic(50, 100, warmup_steps=0, ema_warmups=0)
    assert (auto.warmup_steps, auto.ema_warmups) == (0, 0)
