"""Which quirks are in force where."""

from __future__ import annotations

import importlib
from typing import Any

import pytest

from detrkit.config import load_config
from detrkit.engine import quirks
from detrkit.engine.quirks import QUIRKS, quirks_in_force


def names(tree: dict[str, Any]) -> set[str]:
    return {quirk.name for quirk in quirks_in_force(tree)}


def test_each_has_its_own_name_one_sentence_and_a_place_that_exists() -> None:
    assert len({quirk.name for quirk in QUIRKS}) == len(QUIRKS)
    for quirk in QUIRKS:
        assert quirk.sentence
        assert not quirk.sentence.endswith(".")
        importlib.import_module(quirk.where)
    listed = {value for value in vars(quirks).values() if isinstance(value, quirks.Quirk)}
    assert listed == set(QUIRKS)


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (
            "dfine_hgnetv2_n_coco",
            {"inert-ema-restart", "schedule-rewinds", "empty-norm-group", "halved-label-noise"},
        ),
        ("rtdetrv2_r50vd_6x_coco", {"halved-label-noise", "crossed-negatives", "dummy-pairs"}),
        (
            "deim_r50vd_60e_coco",
            {
                "inert-ema-restart",
                "restart-keeps-rate",
                "rates-lag",
                "fast-backbone-norms",
                "halved-label-noise",
            },
        ),
        (
            "deimv2_hgnetv2_s_coco",
            {
                "inert-ema-restart",
                "restart-keeps-rate",
                "rates-lag",
                "fast-backbone-norms",
                "halved-label-noise",
            },
        ),
        (
            "deimv2_dinov3_s_coco",
            {
                "inert-ema-restart",
                "restart-keeps-rate",
                "rates-lag",
                "decayed-vit-norms",
                "halved-label-noise",
            },
        ),
        (
            "deim_hgnetv2_x_obj2coco_24e",
            {
                "inert-ema-restart",
                "restart-keeps-rate",
                "rates-lag",
                "zero-warmup",
                "halved-label-noise",
            },
        ),
    ],
)
def test_published_files(config: str, expected: set[str]) -> None:
    assert names(load_config(config, strict=False).tree) == expected


def test_our_recipe_has_only_those_that_stand_in_the_file() -> None:
    for config in ("dfine_hgnetv2_n_coco", "deim_hgnetv2_x_obj2coco_24e"):
        tree = load_config(config, strict=False, update=["recipe=detrkit"]).tree
        assert not [quirk for quirk in quirks_in_force(tree) if quirk.optional]


def test_empty_norm_group() -> None:
    def found(pattern: str, backbone: str = "HGNetv2", **section: Any) -> bool:
        tree = {
            "model": "DFINE",
            "DFINE": {"backbone": backbone},
            backbone: section,
            "optimizer": {"params": [{"params": pattern, "lr": 1e-4}]},
        }
        return "empty-norm-group" in names(tree)

    vague = "^(?=.*backbone)(?!.*norm|bn).*$"
    assert found(vague)
    assert not found(vague, "PResNet"), "its norms are called norm"
    assert not found(vague, freeze_norm=True)
    assert not found("^(?=.*(?:encoder|decoder))(?=.*(?:norm|bn)).*$")


def test_ignored_box_noise() -> None:
    tree = {"model": "DEIM", "DEIM": {"decoder": "DEIMTransformer"}}
    tree["DEIMTransformer"] = {"box_noise_scale": 0.4, "label_noise_ratio": 0}
    assert names(tree) == {"ignored-box-noise-scale"}
    tree["DEIMTransformer"]["num_denoising"] = 0  # type: ignore[assignment]
    assert names(tree) == set()


def test_milestones_wait() -> None:
    tree = {
        "epochs": 20,
        "lr_scheduler": {"type": "MultiStepLR", "milestones": [8]},
        "lr_warmup_scheduler": {"warmup_duration": 25},
    }
    assert names(tree) == {"milestones-wait"}
    assert names({**tree, "epochs": 8}) == set()
    assert names({**tree, "recipe": "detrkit"}) == set()
