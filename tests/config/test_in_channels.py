"""`in_channels`: one key reaches backbone, data sets, Normalize and ImageSpec."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import detrkit
from detrkit.config import Config
from detrkit.engine.data_sets import transforms_of
from detrkit.engine.parts import build_model, image_spec_of
from detrkit.errors import ConfigError

MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]


def normalize(cfg: Config, loader: str) -> dict[str, Any]:
    ops = cfg.get(f"{loader}.dataset.transforms.ops")
    return next(op for op in ops if op["type"] == "Normalize")


@pytest.mark.parametrize(
    ("channels", "mean", "std"),
    [
        (1, [sum(MEAN) / 3], [sum(STD) / 3]),
        (3, MEAN, STD),
        (5, [*MEAN, *MEAN[:2]], [*STD, *STD[:2]]),
    ],
)
def test_mean_and_deviation_follow(channels: int, mean: list[float], std: list[float]) -> None:
    cfg = detrkit.load_config("deimv2_dinov3_s_coco", update=[f"in_channels={channels}"])
    for loader in ("train_dataloader", "val_dataloader"):
        found = normalize(cfg, loader)
        assert found["mean"] == pytest.approx(mean)
        assert found["std"] == pytest.approx(std)
        transforms_of(cfg, loader)
    spec = image_spec_of(cfg)
    assert spec.in_channels == channels
    assert spec.mean == pytest.approx(tuple(mean))
    again = Config.from_tree(cfg.tree).with_values({"num_classes": 7})
    assert normalize(again, "val_dataloader") == normalize(cfg, "val_dataloader")


def test_values_set_later_stay(tmp_path: Path) -> None:
    base = tmp_path / "base.yml"
    base.write_text("__include__: [deimv2_dinov3_s_coco]\nin_channels: 4\n")
    cfg = detrkit.load_config(base)
    ops = cfg.get("val_dataloader.dataset.transforms.ops")
    place = next(i for i, op in enumerate(ops) if op["type"] == "Normalize")
    key = f"val_dataloader.dataset.transforms.ops.{place}"
    own = [0.1, 0.2, 0.3, 0.4]
    cfg = detrkit.load_config(base, update=[f"{key}.mean={own}", f"{key}.std={own}"])
    assert normalize(cfg, "val_dataloader")["mean"] == own
    assert image_spec_of(cfg).std == tuple(own)
    cfg = detrkit.load_config(base, update=[f"{key}.mean={MEAN}", f"{key}.std={STD}"])
    with pytest.raises(ConfigError, match="Normalize: mean has 3 values, but in_channels is 4"):
        image_spec_of(cfg)


def test_where_the_values_are_from_is_said(tmp_path: Path) -> None:
    (tmp_path / "four.yml").write_text("__include__: [deimv2_dinov3_s_coco]\nin_channels: 4\n")
    cfg = detrkit.load_config(tmp_path / "four.yml")
    ops = cfg.get("val_dataloader.dataset.transforms.ops")
    place = next(i for i, op in enumerate(ops) if op["type"] == "Normalize")
    origin = cfg.origin(f"val_dataloader.dataset.transforms.ops.{place}.mean")
    assert str(origin).endswith("four.yml:2")


@pytest.mark.parametrize("value", ["0", "-1", "four", "2.5", "true"])
def test_what_is_no_number_of_channels(value: str) -> None:
    with pytest.raises(ConfigError, match=r"in_channels: expected 1 or more, got"):
        detrkit.load_config("dfine_n_coco", update=[f"in_channels={value}"])


@pytest.mark.parametrize("name", ["dfine_n_coco", "rtdetrv2_r18vd_120e_coco", "deimv2_atto_coco"])
def test_the_model_takes_them(name: str) -> None:
    cfg = detrkit.load_config(name, update=["in_channels=2"])
    with torch.device("meta"):
        model = build_model(cfg)
    assert model.in_channels == 2
    assert model.backbone.in_channels == 2


def test_data_sets_get_them(tmp_path: Path) -> None:
    from detrkit.config import build_component

    cfg = detrkit.load_config("dfine_n_coco", update=["in_channels=2"])
    section = cfg.get("train_dataloader.dataset")
    assert build_component(cfg, section, transforms=None).in_channels == 2


def test_a_backbone_of_three_channels_only() -> None:
    from detrkit.registry import MODULES

    class OfThreeChannels(nn.Module):
        def forward(self, images: Tensor) -> list[Tensor]:
            return [images]

    MODULES.register()(OfThreeChannels)
    try:
        cfg = detrkit.load_config(
            "dfine_n_coco", update=["in_channels=4", "DFINE.backbone=OfThreeChannels"]
        )
        with pytest.raises(ConfigError, match="OfThreeChannels takes images of 3 channels") as e:
            build_model(cfg)
        assert 'share=("in_channels",)' in str(e.value.hint)
    finally:
        del MODULES._entries["OfThreeChannels"]
