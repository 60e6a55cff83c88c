"""The plan: stages, restart, averaging and the schedule together."""

from __future__ import annotations

import json
from typing import Any

import pytest

from detrkit.engine.plan import Plan
from detrkit.engine.quirks import INERT_EMA_RESTART, quirks_in_force
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


def test_two_stages() -> None:
    plan = Plan.from_tree(tree(), 10)
    first, second = plan.stages
    assert (first.first, first.end, second.first, second.end) == (0, 16, 16, 20)
    assert first.strong_augmentation
    assert not second.strong_augmentation
    assert first.image_sizes == (224, 256, 288, 320, 320, 320, 384, 352, 320)
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
        ({"lr_scheduler_kind": "flatcosin"}, "did you mean `flatcosine`"),
        ({"lr_scheduler_kind": "flatcosine", "warmup_iter": 5}, "needs flat_epoch, no_aug_epoch"),
        (
            {
                "lr_scheduler_kind": "flatcosine",
                "warmup_iter": -1,
                "flat_epoch": 9,
                "no_aug_epoch": 1,
                "lr_gamma": 0.5,
            },
            "warmup_iter: must not be negative",
        ),
    ],
)
def test_impossible_plans(change: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        Plan.from_tree({**tree(), **change}, 10)


def test_no_batches() -> None:
    with pytest.raises(ConfigError, match="fewer training images"):
        Plan.from_tree(tree(), 0)


def test_json_form() -> None:
    data = Plan.from_tree(tree(), 10).to_dict()
    assert json.loads(json.dumps(data)) == data
    assert data["steps"] == 200
    assert data["stages"][1]["epochs"] == [16, 19]


def test_averaging_without_a_section_of_its_own() -> None:
    plan = Plan.from_tree({**tree(), "ema": None, "ema_decay": 0.99}, 10)
    assert plan.ema is not None
    assert (plan.ema.decay, plan.ema.warmups, plan.ema.start) == (0.99, 2000, 0)
    assert Plan.from_tree({**tree(), "use_ema": False}, 10).ema is None


FLAT = {
    "lr_scheduler_kind": "flatcosine",
    "warmup_iter": 20,
    "flat_epoch": 10,
    "no_aug_epoch": 4,
    "lr_gamma": 0.5,
}


def test_a_restart_rewinds_schedules_by_epoch_only() -> None:
    by_epoch, by_step = Plan.from_tree(tree(), 10), Plan.from_tree(tree(**FLAT), 10)
    assert (by_epoch.rewinds, by_epoch.keeps_old_rate) == (True, False)
    assert (by_step.rewinds, by_step.keeps_old_rate) == (False, True)
    for more in ({}, FLAT):
        ours = Plan.from_tree(tree(recipe="detrkit", **more), 10)
        assert not ours.rewinds
        assert not ours.keeps_old_rate


def test_no_restart_where_the_repository_has_none() -> None:
    plan = Plan.from_tree(tree(restart_from_best=False), 10)
    assert plan.restart_epoch is None
    assert [(s.name, s.first, s.restarts) for s in plan.stages] == [
        ("strong augmentation", 0, False),
        ("light augmentation", 16, False),
    ]
    assert plan.stages[1].image_sizes == ()
    assert Plan.from_tree(tree(), 10).restart_epoch == 16


def test_the_description_names_the_parts_of_a_flat_cosine_schedule() -> None:
    text = Plan.from_tree(tree(**FLAT), 10).describe()
    assert "warm-up over 20 steps" in text
    assert "epoch 10  learning rate begins to fall" in text
    assert "epoch 16  learning rate x 0.5 from here on" in text
    never = Plan.from_tree(tree(**{**FLAT, "flat_epoch": 7800}), 10).describe()
    assert "learning rate flat to the end" in never
