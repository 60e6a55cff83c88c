"""Backbones of timm and torchvision: stages found, layouts, training, missing packages, errors."""

from __future__ import annotations

import copy
import io
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from detrkit.engine.parts import load_pretrained_backbone
from detrkit.errors import ConfigError, MissingExtraError, WeightsError
from detrkit.models.backbones.timm import TimmBackbone
from detrkit.models.backbones.torchvision import TorchvisionBackbone
from detrkit.models.encoders.hybrid_encoder import HybridEncoder


def needs_timm(make: Callable[..., Any]) -> Any:
    return pytest.param(lambda: pytest.importorskip("timm") and make(), id="timm")


TINY = [
    needs_timm(lambda: TimmBackbone("resnet10t")),
    pytest.param(lambda: TorchvisionBackbone("mobilenet_v3_small"), id="torchvision"),
]


@pytest.mark.parametrize(
    ("name", "nodes", "channels"),
    [
        ("resnet18", ("layer2", "layer3", "layer4"), [128, 256, 512]),
        ("mobilenet_v2", ("features.6", "features.13", "features.18"), [32, 96, 1280]),
        ("shufflenet_v2_x0_5", ("stage2", "stage3", "conv5"), [48, 96, 1024]),
        (
            "regnet_x_400mf",
            ("trunk_output.block2", "trunk_output.block3", "trunk_output.block4"),
            [64, 160, 400],
        ),
        pytest.param(
            "convnext_tiny",
            ("features.3", "features.5", "features.7"),
            [192, 384, 768],
            marks=pytest.mark.slow,
        ),
        pytest.param(
            "densenet121",
            ("features.denseblock2", "features.denseblock3", "features.norm5"),
            [512, 1024, 1024],
            marks=pytest.mark.slow,
        ),
        pytest.param(
            "googlenet",
            ("inception3b", "inception4e", "inception5b"),
            [480, 832, 1024],
            marks=pytest.mark.slow,
        ),
    ],
)
@torch.no_grad()
def test_torchvision_stages(name: str, nodes: tuple[str, ...], channels: list[int]) -> None:
    backbone = TorchvisionBackbone(name).eval()
    assert backbone.nodes == nodes
    check_maps(backbone, channels, [8, 16, 32])


@torch.no_grad()
def test_torchvision_maps_are_those_of_the_classifier() -> None:
    from torchvision import models

    torch.manual_seed(0)
    classifier = models.resnet18().eval()
    backbone = TorchvisionBackbone("resnet18", strides=[4, 16]).eval()
    missing = backbone.pretrained_part.load_state_dict(classifier.state_dict(), strict=False)
    assert not missing.missing_keys
    x = torch.randn(1, 3, 64, 96)
    stem = classifier.maxpool(classifier.relu(classifier.bn1(classifier.conv1(x))))
    fine = classifier.layer1(stem)
    coarse = classifier.layer3(classifier.layer2(fine))
    for ours, expected in zip(backbone(x), (fine, coarse), strict=True):
        torch.testing.assert_close(ours, expected)


@pytest.mark.slow
@torch.no_grad()
def test_swin_maps_have_channels_first() -> None:
    check_maps(TorchvisionBackbone("swin_t").eval(), [192, 384, 768], [8, 16, 32])


@pytest.mark.parametrize(
    ("name", "channels", "options"),
    [
        ("resnet10t", [128, 256, 512], {}),
        ("mobilenetv3_small_050", [16, 24, 288], {}),
        ("regnetx_002", [56, 152, 368], {}),
        pytest.param(
            "swin_tiny_patch4_window7_224",
            [192, 384, 768],
            {"strict_img_size": False},
            marks=pytest.mark.slow,
        ),
        pytest.param("convnext_atto", [80, 160, 320], {}, marks=pytest.mark.slow),
    ],
)
@torch.no_grad()
def test_timm_models(name: str, channels: list[int], options: dict[str, Any]) -> None:
    pytest.importorskip("timm")
    check_maps(TimmBackbone(name, options=options).eval(), channels, [8, 16, 32])


def check_maps(backbone: Any, channels: list[int], strides: list[int]) -> None:
    assert (backbone.out_channels, backbone.out_strides) == (channels, strides)
    maps = backbone(torch.randn(2, 3, 64, 96))
    expected = [(2, c, 64 // s, 96 // s) for c, s in zip(channels, strides, strict=True)]
    assert [tuple(x.shape) for x in maps] == expected


@pytest.mark.parametrize("make", TINY)
def test_they_train_copy_and_save(make: Callable[[], Any]) -> None:
    torch.manual_seed(0)
    backbone = make()
    assert backbone.training
    encoder = HybridEncoder(
        backbone.out_channels, backbone.out_strides, 32, 4, 32, expansion=0.5, depth_mult=0.34
    )
    x = torch.randn(2, 3, 64, 96)
    sum(y.square().mean() for y in encoder(backbone(x))).backward()
    for name, parameter in backbone.named_parameters():
        assert parameter.grad is not None, name

    backbone.eval()
    twin = copy.deepcopy(backbone)
    assert not any(module.training for module in twin.modules())
    assert all(module.training for module in copy.deepcopy(make()).modules())
    buffer = io.BytesIO()
    torch.save(backbone.state_dict(), buffer)
    buffer.seek(0)
    other = make().eval()
    other.load_state_dict(torch.load(buffer, weights_only=True))
    with torch.no_grad():
        for expected, a, b in zip(backbone(x), twin(x), other(x), strict=True):
            assert torch.equal(expected, a)
            assert torch.equal(expected, b)


def test_frozen_norms() -> None:
    backbone = TorchvisionBackbone("mobilenet_v3_small", freeze_norm=True)
    assert not any(isinstance(m, nn.BatchNorm2d) for m in backbone.modules())
    same_in_training_and_evaluation(backbone)


def test_frozen_norms_of_timm_keep_their_activation() -> None:
    pytest.importorskip("timm")
    torch.manual_seed(0)
    plain = TimmBackbone("regnetx_002")
    frozen = TimmBackbone("regnetx_002", freeze_norm=True)
    assert not any(isinstance(m, nn.BatchNorm2d) for m in frozen.modules())
    frozen.load_state_dict(plain.state_dict(), strict=False)
    same_in_training_and_evaluation(frozen)
    x = torch.randn(1, 3, 64, 64)
    for a, b in zip(plain.eval()(x), frozen(x), strict=True):
        torch.testing.assert_close(a, b)


def same_in_training_and_evaluation(backbone: nn.Module) -> None:
    x = torch.randn(2, 3, 64, 64)
    for module in backbone.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    for a, b in zip(backbone.train()(x), backbone.eval()(x), strict=True):
        torch.testing.assert_close(a, b)


def test_constructors_download_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("no network in a constructor")

    monkeypatch.setattr("socket.socket.connect", forbidden)
    vision = TorchvisionBackbone("resnet18", [8], pretrained=True, weights="IMAGENET1K_V1")
    assert vision.pretrained_url == "https://download.pytorch.org/models/resnet18-f37072fd.pth"
    pytest.importorskip("timm")
    assert TimmBackbone("resnet10t", pretrained=True).pretrained is True


def test_timm_brings_its_own_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    timm = pytest.importorskip("timm")
    backbone = TimmBackbone("resnet10t", return_idx=[-2, -1], pretrained=True)
    create, asked = timm.create_model, []

    def offline(name: str, pretrained: bool = False, **arguments: Any) -> nn.Module:
        asked.append(pretrained)
        model: nn.Module = create(name, pretrained=False, **arguments)
        return model

    monkeypatch.setattr(timm, "create_model", offline)
    state: dict[str, Tensor] = backbone.pretrained_state()
    assert asked == [True]
    assert {k: v.shape for k, v in state.items()} == {
        k: v.shape for k, v in backbone.pretrained_part.state_dict().items()
    }

    def unreachable(*args: Any, **kwargs: Any) -> nn.Module:
        raise OSError("no route to host")

    monkeypatch.setattr(timm, "create_model", unreachable)
    with pytest.raises(WeightsError, match=r"resnet10t.*no route to host"):
        backbone.pretrained_state()


@pytest.mark.parametrize(
    ("name", "ending"),
    [("resnet10t", "pth"), ("convnext_atto", "pth"), ("vit_tiny_patch16_224", "safetensors")],
)
def test_a_file_of_timms_whole_model(name: str, ending: str, tmp_path: Path) -> None:
    """As timm publishes it, with the classifier; extractors have other names inside."""
    timm = pytest.importorskip("timm")
    state = timm.create_model(name, pretrained=False).state_dict()
    file = tmp_path / f"model.{ending}"
    if ending == "pth":
        torch.save(state, file)
    else:
        pytest.importorskip("safetensors.torch").save_file(state, file)
    backbone = TimmBackbone(name, return_idx=[-1], pretrained=str(file))
    model = nn.Module()
    model.backbone = backbone
    load_pretrained_backbone(model)
    loaded = backbone.pretrained_names(state)
    for key, value in backbone.model.state_dict().items():
        assert torch.equal(value, loaded[key]), key


def test_timm_models_without_weights() -> None:
    pytest.importorskip("timm")
    with pytest.raises(WeightsError, match="no pretrained weights for `darknet17`"):
        TimmBackbone("darknet17").pretrained_state()


def test_missing_timm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(MissingExtraError) as raised:
        TimmBackbone("resnet18")
    assert raised.value.exit_code == 6
    assert "detrkit[timm]" in (raised.value.hint or "")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: TorchvisionBackbone("resnet19"), "no classification model `resnet19`, did you"),
        (lambda: TorchvisionBackbone("fasterrcnn_resnet50_fpn"), "no classification model"),
        (lambda: TorchvisionBackbone("resnet18", [8, 64]), "growing strides of `resnet18`"),
        (lambda: TorchvisionBackbone("resnet18", [16, 8]), "growing strides of `resnet18`"),
        (lambda: TorchvisionBackbone("resnet18", weights="IMAGENET"), "did you mean `IMAGENET1K"),
        (lambda: TorchvisionBackbone("alexnet"), "growing strides of `alexnet`"),
    ],
)
def test_wrong_torchvision_arguments(make: Callable[[], Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make()


@pytest.mark.slow
def test_torchvision_models_of_one_size() -> None:
    with pytest.raises(ConfigError, match="does not take images of any size"):
        TorchvisionBackbone("vit_b_16")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "resnet19"}, "timm has no `resnet19`, did you mean `resnet"),
        ({"name": "resnet10t", "return_idx": [7]}, "timm cannot build `resnet10t`"),
        ({"name": "resnet10t", "options": {"dpeth": 3}}, "timm cannot build `resnet10t`.*dpeth"),
        ({"name": "vit_tiny_patch16_224"}, r"strides \[16, 16, 16\]; an encoder needs growing"),
    ],
)
def test_wrong_timm_arguments(arguments: dict[str, Any], message: str) -> None:
    pytest.importorskip("timm")
    with pytest.raises(ConfigError, match=message):
        TimmBackbone(**arguments)
