"""Stems of three channels in models of others: timm's rule, all backbones, all ways to load."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from detrkit.engine.parts import load_pretrained_backbone
from detrkit.engine.stem_folding import folded
from detrkit.engine.weights import load_weights
from detrkit.errors import ConfigError, WeightsError
from detrkit.models.backbones.hgnetv2 import HGNetv2
from detrkit.models.backbones.presnet import PResNet
from detrkit.models.backbones.spatial_tuning_adapter import DINOv3STAs
from detrkit.models.backbones.timm import TimmBackbone
from detrkit.models.backbones.torchvision import TorchvisionBackbone


def vit(name: str, **arguments: Any) -> DINOv3STAs:
    if name == "vit_tiny":
        arguments |= {"embed_dim": 16, "num_heads": 2}
    return DINOv3STAs(name, conv_inplane=2, hidden_dim=8, **arguments)


def timm_backbone(name: str, **arguments: Any) -> TimmBackbone:
    pytest.importorskip("timm")
    return TimmBackbone(name, **arguments)


Make = Callable[..., nn.Module]

#: backbone -> constructor, names of its stems
BACKBONES: dict[str, tuple[Make, tuple[str, ...]]] = {
    "HGNetv2": (lambda **a: HGNetv2("Atto", return_idx=[2], **a), ("stem.stem1.conv.weight",)),
    "HGNetv2-L": (lambda **a: HGNetv2("L", return_idx=[0], **a), ("stem.stem1.conv.weight",)),
    "PResNet-d": (lambda **a: PResNet(18, **a), ("conv1.conv1_1.conv.weight",)),
    "PResNet-a": (lambda **a: PResNet(18, "a", **a), ("conv1.conv1_1.conv.weight",)),
    "ViT-Tiny": (
        lambda **a: vit("vit_tiny", **a),
        ("dinov3._model.patch_embed.proj.weight", "sta.stem.0.weight"),
    ),
    "DINOv3": (
        lambda **a: vit("dinov3_vits16", **a),
        ("dinov3.patch_embed.proj.weight", "sta.stem.0.weight"),
    ),
    "timm": (lambda **a: timm_backbone("resnet10t", **a), ("model.conv1.0.weight",)),
    "torchvision": (
        lambda **a: TorchvisionBackbone("mobilenet_v3_small", **a),
        ("body.features.0.0.weight",),
    ),
    "torchvision-resnet": (
        lambda **a: TorchvisionBackbone("resnet18", **a), ("body.conv1.weight",),
    ),
}  # fmt: skip


@pytest.mark.parametrize("channels", [1, 2, 3, 4, 6, 7, 13])
def test_the_rule_is_timms(channels: int) -> None:
    timm = pytest.importorskip("timm")
    kernel = torch.randn(5, 3, 3, 3)
    expected = timm.models.adapt_input_conv(channels, kernel.clone())
    torch.testing.assert_close(folded(kernel, channels), expected)


@pytest.mark.parametrize("channels", [1, 6, 9])
def test_equal_channels_are_answered_as_before(channels: int) -> None:
    conv = nn.Conv2d(3, 4, 3)
    gray = torch.rand(1, 1, 8, 8)
    kernel = folded(conv.weight, channels)
    torch.testing.assert_close(
        nn.functional.conv2d(gray.expand(-1, channels, -1, -1), kernel, conv.bias),
        conv(gray.expand(-1, 3, -1, -1)),
    )


@pytest.mark.parametrize("name", BACKBONES)
@pytest.mark.parametrize("channels", [1, 4])
def test_every_backbone_takes_other_channels_and_folds(name: str, channels: int) -> None:
    make, stems = BACKBONES[name]
    torch.manual_seed(0)
    state = make().state_dict()
    backbone = make(in_channels=channels)
    report = load_weights(backbone, state, source="rgb.pth")
    assert report.folded == dict.fromkeys(stems, channels)
    assert report.complete
    own = backbone.state_dict()
    for stem in stems:
        torch.testing.assert_close(own[stem], folded(state[stem], channels))
    with torch.no_grad():
        maps = backbone.eval()(torch.rand(1, channels, 64, 64))
    assert all(torch.isfinite(x).all() for x in maps)
    text = report.describe()
    assert f"stem {stems[0]}: 3 channels folded into {channels}" in text
    assert report.to_dict()["folded"] == report.folded


@pytest.mark.parametrize("name", BACKBONES)
def test_three_channels_are_the_default(name: str) -> None:
    make, stems = BACKBONES[name]
    torch.manual_seed(0)
    plain = make()
    torch.manual_seed(0)
    three = make(in_channels=3)
    for (key, a), (_, b) in zip(
        plain.state_dict().items(), three.state_dict().items(), strict=True
    ):
        assert torch.equal(a, b), key
    assert plain.in_channels == 3
    assert all(plain.state_dict()[stem].shape[1] == 3 for stem in stems)


@pytest.mark.parametrize(
    ("make", "stem"),
    [
        (lambda **a: HGNetv2("B0", freeze_at=0, **a), "stem.stem1.conv.weight"),
        (lambda **a: PResNet(18, freeze_at=0, **a), "conv1.conv1_1.conv.weight"),
        (
            lambda **a: vit("vit_tiny", finetune=False, **a),
            "dinov3._model.patch_embed.proj.weight",
        ),
    ],
)
def test_a_new_stem_trains_even_where_it_is_frozen(make: Make, stem: str) -> None:
    frozen = {name for name, p in make().named_parameters() if not p.requires_grad}
    assert stem in frozen
    still = {name for name, p in make(in_channels=4).named_parameters() if not p.requires_grad}
    assert frozen - still == {stem, stem.replace("weight", "bias")} & frozen


def test_from_other_channels_nothing_folds() -> None:
    four, three = HGNetv2("Atto", return_idx=[2], in_channels=4), HGNetv2("Atto", return_idx=[2])
    for given, model in ((four, three), (four, HGNetv2("Atto", return_idx=[2], in_channels=5))):
        own = model.stem.stem1.conv.weight.clone()
        report = load_weights(model, given.state_dict())
        assert list(report.mismatched) == ["stem.stem1.conv.weight"]
        assert not report.folded
        assert torch.equal(model.stem.stem1.conv.weight, own)
        assert "stem.stem1.conv.weight [16, 4, 3, 3] -> [16," in report.describe()


def test_exact_loading_does_not_fold() -> None:
    state = HGNetv2("Atto", return_idx=[2]).state_dict()
    with pytest.raises(WeightsError, match="do not fit the model"):
        load_weights(HGNetv2("Atto", return_idx=[2], in_channels=4), state, mode="exact")


def test_other_layers_of_other_shapes_do_not_fold() -> None:
    a, b = nn.Conv2d(3, 8, 3), nn.Conv2d(4, 9, 3)
    with pytest.raises(WeightsError, match="no tensor fits"):
        load_weights(b, a.state_dict())
    linear = load_weights(
        nn.Sequential(nn.Linear(4, 2), nn.Linear(2, 2)),
        nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 2)).state_dict(),
    )
    assert list(linear.mismatched) == ["0.weight"]


class Detector(nn.Module):
    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone


def test_pretrained_files_fold(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    torch.manual_seed(0)
    state = HGNetv2("B0").state_dict()
    torch.save(state, tmp_path / "b0.pth")
    backbone = HGNetv2("B0", pretrained=str(tmp_path / "b0.pth"), in_channels=4)
    with caplog.at_level(logging.INFO, logger="detrkit"):
        load_pretrained_backbone(Detector(backbone))
    stem = "stem.stem1.conv.weight"
    torch.testing.assert_close(backbone.state_dict()[stem], folded(state[stem], 4))
    assert f"its stem {stem}: 3 channels folded into 4" in caplog.text


def test_the_librarys_own_weights_fold(monkeypatch: pytest.MonkeyPatch) -> None:
    timm = pytest.importorskip("timm")
    backbone = TimmBackbone("resnet10t", pretrained=True, in_channels=4)
    original = timm.create_model
    torch.manual_seed(3)
    monkeypatch.setattr(
        timm, "create_model", lambda *args, pretrained, **options: original(*args, **options)
    )
    torch.manual_seed(3)
    expected = backbone.pretrained_state()["conv1.0.weight"]
    assert expected.shape[1] == 3
    torch.manual_seed(3)
    load_pretrained_backbone(Detector(backbone))
    torch.testing.assert_close(backbone.model.conv1[0].weight, folded(expected, 4))


def test_timms_name_for_it_is_refused() -> None:
    pytest.importorskip("timm")
    with pytest.raises(ConfigError, match="`in_chans` is called `in_channels` here"):
        TimmBackbone("resnet10t", options={"in_chans": 4})
