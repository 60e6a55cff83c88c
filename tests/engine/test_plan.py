"""The plan against the authors' numbers, and the rules of `schedule: auto`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from detrkit.engine.plan import Plan, automatic, multi_scale_sizes
from detrkit.engine.quirks import EMPTY_NORM_GROUP, INERT_EMA_RESTART, quirks_in_force
from detrkit.errors import ConfigError


def tree(epochs: int = 20, stop: int | None = 16, **more: Any) -> dict[str, Any]:
    return {
        "epochs": epochs,
        "use_ema": True,
        "ema": {"type": "ModelEMA", "decay": 0.999, "warmups": 100},
        "lr_scheduler": {"type": "MultiStepLR", "milestones": [500], "gamma": 0.1},
        "lr_warmup_scheduler": {"type": "LinearWarmup", "warmup_duration": 25},
        "train_dataloader": {
            "dataset": {"transforms": {"policy": {"name": "stop_epoch", "epoch": stop, "ops": []}}},
            "collate_fn": {
                "stop_epoch": stop,
                "ema_restart_decay": 0.99,
                "base_size": 320,
                "base_size_repeat": 3,
            },
        },
        **more,
    }


def stored(reference: Path) -> list[Path]:
    return sorted((reference / "parity" / "optim").glob("dfine__*.json"))


def test_authors_factors_and_decays(reference: Path) -> None:
    files = stored(reference)
    assert len(files) > 20
    for file in files:
        d = json.loads(file.read_text())
        n = d["schedule"]["iterations_per_epoch"]
        plan = Plan.from_tree(
            {
                "epochs": d["epochs"],
                "use_ema": True,
                "ema": d["ema"],
                "lr_scheduler": d["scheduler"],
                "lr_warmup_scheduler": d["scheduler"]["warmup"],
                "train_dataloader": {
                    "collate_fn": d["collate"],
                    "dataset": {"transforms": {"policy": d["policy"]}},
                },
            },
            n,
        )
        for run in d["schedule"]["runs"]:
            for epoch in {run["from"], run["to"]}:
                steps = [epoch * n + position for position in d["schedule"]["positions"]]
                assert plan.lr_factors(steps) == pytest.approx(run["factor"], rel=1e-12), file.name
        assert plan.ema is not None
        for step, decay in d["ema"]["decay_at_step"].items():
            assert plan.ema.decay_at(int(step)) == pytest.approx(decay, rel=1e-12)
        assert list(plan.at(0).image_sizes) == (d["scales"] or [])
        assert (
            not plan.at(d["epochs"] - 1).strong_augmentation or d["policy"]["epoch"] >= d["epochs"]
        )


def test_two_stages() -> None:
    plan = Plan.from_tree(tree(), 10)
    first, second = plan.stages
    assert (first.first, first.end, second.first, second.end) == (0, 16, 16, 20)
    assert first.strong_augmentation
    assert not second.strong_augmentation
    assert first.image_sizes == multi_scale_sizes(320, 3)
    assert second.image_sizes == ()
    assert second.restarts
    assert not first.restarts
    assert second.starts_at(16)
    assert not second.starts_at(17)
    assert not first.starts_at(0)
    assert plan.at(15) is first
    assert plan.at(16) is second
    assert "epochs 16-19  light augmentation" in plan.describe()


def test_augmentation_and_scales_may_end_apart() -> None:
    t = tree()
    t["train_dataloader"]["dataset"]["transforms"]["policy"]["epoch"] = 10
    names = [(s.first, s.strong_augmentation, s.restarts) for s in Plan.from_tree(t, 10).stages]
    assert names == [(0, True, False), (10, False, False), (16, False, True)]


def test_stop_beyond_the_end_is_one_stage() -> None:
    plan = Plan.from_tree(tree(stop=500), 10)
    assert [s.name for s in plan.stages] == ["train"]
    assert not plan.at(19).restarts


def test_the_restart_decay_is_inert_unless_the_recipe_is_ours() -> None:
    assert Plan.from_tree(tree(), 10).stages[1].ema_decay == 0.999
    ours = tree(recipe="detrkit")
    assert Plan.from_tree(ours, 10).stages[1].ema_decay == 0.99
    assert INERT_EMA_RESTART in quirks_in_force(tree())
    assert INERT_EMA_RESTART not in quirks_in_force(ours)


def test_empty_norm_group_is_listed() -> None:
    group = {"params": "^(?=.*backbone)(?!.*norm|bn).*$"}
    assert EMPTY_NORM_GROUP in quirks_in_force(tree(optimizer={"params": [group]}))
    plain = {"params": "^(?=.*(?:encoder|decoder))(?=.*(?:norm|bn)).*$"}
    assert EMPTY_NORM_GROUP not in quirks_in_force(tree(optimizer={"params": [plain]}))


def test_milestones_wait_for_the_warmup_unless_the_recipe_is_ours() -> None:
    t = tree(epochs=8, lr_scheduler={"type": "MultiStepLR", "milestones": [2], "gamma": 0.1})
    steps = [epoch * 10 + 5 for epoch in range(8)]
    # 25 steps of warm-up end in epoch 2, which is the first epoch that counts
    waiting = Plan.from_tree(t, 10).lr_factors(steps)
    assert waiting == pytest.approx([0.24, 0.64, 1, 1, 0.1, 0.1, 0.1, 0.1])
    ours = Plan.from_tree({**t, "recipe": "detrkit"}, 10).lr_factors(steps)
    assert ours == pytest.approx([0.24, 0.64, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1])


def test_cosine_and_constant() -> None:
    cosine = {"type": "CosineAnnealingLR", "T_max": 10, "eta_min": 1e-5}
    t = tree(lr_scheduler=cosine, lr_warmup_scheduler=None, optimizer={"lr": 1e-4})
    factors = Plan.from_tree(t, 5).lr_factors([0, 25, 50])
    assert factors == pytest.approx([1, 0.55, 0.1])
    t = tree(lr_scheduler=None, lr_warmup_scheduler=None)
    assert Plan.from_tree(t, 5).lr_factors([0, 99]) == [1, 1]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"epochs": 0}, "epochs"),
        ({"epochs": None}, "epochs"),
        ({"lr_scheduler": {"type": "MultiStepLr"}}, "did you mean `MultiStepLR`"),
        ({"lr_warmup_scheduler": {"type": "Cold"}}, "Cold"),
    ],
)
def test_impossible_plans(change: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        Plan.from_tree({**tree(), **change}, 10)


def test_no_batches() -> None:
    with pytest.raises(ConfigError, match="fewer training images"):
        Plan.from_tree(tree(), 0)


@given(st.integers(1, 500), st.integers(1, 5000))
def test_automatic_is_sane(epochs: int, batches: int) -> None:
    auto = automatic(epochs, batches)
    assert 0 < auto.stop_epoch <= epochs
    assert (auto.stop_epoch < epochs) == (epochs > 2)
    assert 1 <= auto.warmup_steps <= 500
    assert auto.warmup_steps <= max(epochs * batches, 1)
    assert 0.5 < auto.ema_decay <= 0.9999
    assert 1 <= auto.ema_warmups <= 1000


def test_automatic_at_the_authors_length_is_near_the_authors() -> None:
    auto = automatic(132, 3696)  # D-FINE-S on COCO at batch 32
    assert (auto.warmup_steps, auto.ema_decay, auto.ema_warmups) == (500, 0.9999, 1000)
    assert auto.stop_epoch == 116  # theirs: 120


def test_automatic_keeps_what_is_off() -> None:
    assert automatic(50, 100, warmup_steps=0, ema_warmups=0).warmup_steps == 0


def test_json_form() -> None:
    data = Plan.from_tree(tree(), 10).to_dict()
    assert json.loads(json.dumps(data)) == data
    assert data["steps"] == 200
    assert data["stages"][1]["epochs"] == [16, 19]
