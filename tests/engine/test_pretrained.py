"""Pretrained backbones: which module gets the file, and what is said when there is none."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from detrkit.engine.parts import load_pretrained_backbone
from detrkit.errors import WeightsError
from detrkit.models.backbones.hgnetv2 import HGNetv2
from detrkit.models.backbones.spatial_tuning_adapter import DINOv3STAs
from detrkit.models.backbones.torchvision import TorchvisionBackbone


class Detector(nn.Module):
    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone


class Backbone(nn.Module):
    """A backbone that notes what it wants."""

    def __init__(self, **notes: Any) -> None:
        super().__init__()
        self.stem = nn.Linear(2, 2)
        self.__dict__.update(notes)


def vit(path: Path | None, **arguments: Any) -> Detector:
    weights = None if path is None else str(path)
    return Detector(
        DINOv3STAs("vit_tiny", weights, embed_dim=16, num_heads=2, conv_inplane=2, **arguments)
    )


def test_the_file_is_for_the_transformer_alone(tmp_path: Path) -> None:
    torch.manual_seed(0)
    given = vit(None).backbone.pretrained_part.state_dict()
    torch.save(given, tmp_path / "vit.pt")
    model = vit(tmp_path / "vit.pt")
    before = model.backbone.convs[0].weight.clone()
    load_pretrained_backbone(model)
    for name, value in model.backbone.pretrained_part.state_dict().items():
        assert torch.equal(value, given[name]), name
    assert torch.equal(model.backbone.convs[0].weight, before)


def test_no_path_loads_nothing(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="detrkit"):
        load_pretrained_backbone(vit(None))
    assert not caplog.records


def test_a_missing_file_says_how_to_get_it(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"DINOv3STAs: no pretrained weights at .*vit\.pt") as e:
        load_pretrained_backbone(vit(tmp_path / "vit.pt"))
    assert e.value.hint is not None
    assert "drive.google.com" in e.value.hint
    assert "--update DINOv3STAs.weights_path=null" in e.value.hint


def test_dinov3s_licence_is_named() -> None:
    hint = DINOv3STAs("dinov3_vits16", "dinov3_vits16.pth").pretrained_hint
    assert "licence" in hint
    assert "github.com/facebookresearch/dinov3" in hint


def test_a_file_of_another_size(tmp_path: Path) -> None:
    state = vit(None).backbone.pretrained_part.state_dict()
    state["cls_token"] = torch.zeros(1, 1, 8)
    torch.save(state, tmp_path / "vit.pt")
    with pytest.raises(WeightsError, match="do not fit") as e:
        load_pretrained_backbone(vit(tmp_path / "vit.pt"))
    assert "cls_token [1, 1, 8] -> [1, 1, 16]" in e.value.message


def test_a_backbone_without_a_hint_of_its_own(tmp_path: Path) -> None:
    missing = tmp_path / "stem.pth"
    with pytest.raises(WeightsError, match="no pretrained weights at") as e:
        load_pretrained_backbone(Detector(Backbone(pretrained=str(missing))))
    assert "--update Backbone.pretrained=False" in (e.value.hint or "")

    absent = missing.as_uri()
    with pytest.raises(WeightsError, match="cannot download") as e:
        load_pretrained_backbone(Detector(Backbone(pretrained=True, pretrained_url=absent)))
    assert "--update Backbone.pretrained=False" in (e.value.hint or "")


def test_a_local_copy_comes_before_the_url(tmp_path: Path) -> None:
    backbone = Backbone(
        pretrained=True, pretrained_url="https://example.invalid/stem.pth",
        local_model_dir=str(tmp_path),
    )  # fmt: skip
    torch.save({"stem.weight": torch.ones(2, 2), "stem.bias": torch.ones(2)}, tmp_path / "stem.pth")
    load_pretrained_backbone(Detector(backbone))
    assert torch.equal(backbone.stem.weight, torch.ones(2, 2))


def test_true_without_a_url_warns(caplog: pytest.LogCaptureFixture) -> None:
    load_pretrained_backbone(Detector(Backbone(pretrained=True)))
    assert "starts from random" in caplog.text


def test_a_smaller_size_takes_what_fits(tmp_path: Path) -> None:
    torch.manual_seed(0)
    larger = HGNetv2("B0", use_lab=True)
    torch.save(larger.state_dict(), tmp_path / "PPHGNetV2_B0_stage1.pth")
    atto = HGNetv2("Atto", use_lab=True, return_idx=[2], local_model_dir=str(tmp_path))
    own = {k: v.clone() for k, v in atto.state_dict().items()}
    load_pretrained_backbone(Detector(atto))
    theirs = larger.state_dict()
    loaded = [k for k, v in own.items() if theirs[k].shape == v.shape]
    assert 0 < len(loaded) < len(own)
    for name, value in atto.state_dict().items():
        assert torch.equal(value, theirs[name] if name in loaded else own[name]), name


def test_a_library_brings_its_own_weights() -> None:
    backbone = Backbone(pretrained=True)
    backbone.pretrained_part = backbone.stem
    state = {"weight": torch.ones(2, 2), "bias": torch.ones(2)}
    backbone.__dict__["pretrained_state"] = lambda: state
    load_pretrained_backbone(Detector(backbone))
    assert torch.equal(backbone.stem.weight, torch.ones(2, 2))
    state["bias"] = torch.ones(3)
    with pytest.raises(WeightsError, match="do not fit"):
        load_pretrained_backbone(Detector(backbone))


def test_a_file_wins_over_the_librarys_weights(tmp_path: Path) -> None:
    torch.save({"stem.weight": torch.ones(2, 2), "stem.bias": torch.ones(2)}, tmp_path / "a.pth")
    backbone = Backbone(pretrained=str(tmp_path / "a.pth"))
    backbone.__dict__["pretrained_state"] = lambda: pytest.fail("not asked for")
    load_pretrained_backbone(Detector(backbone))
    assert torch.equal(backbone.stem.bias, torch.ones(2))


def test_a_classifiers_file_for_a_feature_extractor(tmp_path: Path) -> None:
    from torchvision import models

    classifier = models.shufflenet_v2_x0_5(weights=None)
    torch.save(classifier.state_dict(), tmp_path / "classifier.pth")
    backbone = TorchvisionBackbone(
        "shufflenet_v2_x0_5", pretrained=str(tmp_path / "classifier.pth")
    )
    load_pretrained_backbone(Detector(backbone))
    loaded = backbone.body.state_dict()["conv1.0.weight"]
    assert torch.equal(loaded, classifier.state_dict()["conv1.0.weight"])
