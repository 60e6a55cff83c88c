"""HGNetv2 and PResNet: numbers of the official modules, freezing, fusing, errors, weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from detrkit.errors import ConfigError
from detrkit.layers.norm import FrozenBatchNorm2d
from detrkit.models.backbones.hgnetv2 import ARCHITECTURES, HGNetv2
from detrkit.models.backbones.presnet import DEPTHS, PResNet
from detrkit.models.detector import Detector
from detrkit.models.encoders.hybrid_encoder import HybridEncoder
from tests.models.test_encoders import fused
from tests.models.waves import digest, fill, wave

#: (depth, variant) -> means of the official module's maps 1 and (where cheap) 3.
PRESNET = {
    (18, "a"): [1.513950056068, 0.873235432069],
    (18, "d"): [1.039827663496, 0.743546898764],
    (50, "a"): [1.244978249601],
    (50, "b"): [1.247675463568],
    (50, "d"): [1.130148306744],
}
#: (name, activation) -> digests of the official module's maps 1 and 2.
HGNET = {
    ("Atto", "relu"): [(0.320356563849, 0.320356563849), (0.217801334216, 0.217801334216)],
    ("Femto", "silu"): [(0.186319427576, 0.207845072069), (0.130978427603, 0.135786783626)],
    ("Pico", "relu"): [(0.320356563849, 0.320356563849), (0.35638814944, 0.35638814944)],
    ("B0", "relu"): [(0.320356563849, 0.320356563849), (0.35638814944, 0.35638814944)],
    ("L", "relu"): [(0.060510336993, 0.105900611223), (1.123063461991, 1.123063461991)],
}
#: Name in the reference numbers -> backbone.
TRAINING = {"freeze_at": -1, "freeze_norm": False}
REFERENCE: dict[str, tuple[type[nn.Module], dict[str, Any]]] = {
    "dfine_n": (HGNetv2, {"name": "B0", "use_lab": True, "return_idx": [2, 3], **TRAINING}),
    "dfine_l": (HGNetv2, {"name": "B4"}),
    "deim_dfine_x": (HGNetv2, {"name": "B5", **TRAINING}),
    "deimv2_hgnetv2_m": (HGNetv2, {"name": "B2", "use_lab": True, **TRAINING}),
    **{
        f"deimv2_hgnetv2_{name.lower()}": (
            HGNetv2,
            {"name": name, "use_lab": True, "return_idx": [2], **TRAINING},
        )
        for name in ("Atto", "Femto", "Pico")
    },
    **{
        f"rtdetrv2_hgnetv2_{name.lower()}": (
            HGNetv2,
            {"name": name, "freeze_at": 0, "freeze_norm": True},
        )
        for name in ("L", "X", "H")
    },
    **{
        f"rtdetrv2_r{depth}": (
            PResNet,
            {"depth": depth, "freeze_at": 0 if depth >= 50 else -1, "freeze_norm": depth >= 50},
        )
        for depth in DEPTHS
    },
    **{
        f"deim_rtdetrv2_r{depth}": (PResNet, {"depth": depth, **TRAINING})
        for depth in (18, 34, 50, 101)
    },
}
HEAVY = ("_x", "_h", "r101")


@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=[pytest.mark.slow] if n.endswith(HEAVY) else []) for n in REFERENCE],
)
def test_names_and_shapes(reference: Path, name: str) -> None:
    path = reference / "parity" / "keys" / f"{name}.json"
    expected = json.loads(path.read_text(encoding="utf-8"))
    factory, arguments = REFERENCE[name]
    with torch.device("meta"):
        backbone = factory(**arguments)
    ours = {f"backbone.{k}": list(v.shape) for k, v in backbone.state_dict().items()}
    theirs = {k: v for k, v in expected["keys"].items() if k.startswith("backbone.")}
    assert list(ours.items()) == list(theirs.items())
    frozen = [p for p in backbone.parameters() if not p.requires_grad]
    assert len(frozen) == expected["frozen_backbone_parameters"]


@pytest.mark.parametrize(("depth", "variant"), PRESNET)
@torch.no_grad()
def test_presnet_has_the_official_numbers(depth: int, variant: str) -> None:
    stages = {"return_idx": [1, 3]} if depth < 50 else {"return_idx": [1], "num_stages": 2}
    backbone = fill(PResNet(depth, variant, **stages)).eval()
    image = wave((1, 3, 45, 70), 1)
    means = [mean for mean, _ in digest(backbone(image))]
    assert means == pytest.approx(PRESNET[depth, variant], abs=1e-9)
    for ours, expected in zip(fused(backbone)(image), backbone(image), strict=True):
        torch.testing.assert_close(ours, expected)


@pytest.mark.parametrize(("name", "act"), HGNET)
@torch.no_grad()
def test_hgnetv2_has_the_official_numbers(name: str, act: str) -> None:
    backbone = fill(HGNetv2(name, use_lab=True, return_idx=[1, 2], act=act)).eval()
    for ours, theirs in zip(
        digest(backbone(wave((1, 3, 45, 70), 1))), HGNET[name, act], strict=True
    ):
        assert ours == pytest.approx(theirs, abs=1e-9)


@pytest.mark.parametrize(
    ("make", "unused"),
    [
        (lambda: PResNet(18, return_idx=[0, 2], freeze_norm=False), "res_layers.3"),
        (lambda: HGNetv2("Pico", True, [0, 1], **TRAINING), "stages.2"),
    ],
    ids=["presnet", "pico"],
)
def test_widths_strides_and_learning(make: Any, unused: str) -> None:
    """Maps are channels-last; every parameter learns, but for the stages behind the last map."""
    torch.manual_seed(0)
    model = make().train()
    x = torch.randn(2, 3, 65, 97).contiguous(memory_format=torch.channels_last)
    maps = model(x)
    for y, channels, stride in zip(maps, model.out_channels, model.out_strides, strict=True):
        assert y.shape == (2, channels, -(-65 // stride), -(-97 // stride))
        assert y.is_contiguous(memory_format=torch.channels_last)
    torch.stack([(y * torch.randn_like(y)).sum() for y in maps]).sum().backward()
    for name, parameter in model.named_parameters():
        assert (parameter.grad is not None) != name.startswith(unused), name


@pytest.mark.parametrize(
    ("freeze_at", "frozen"),
    [(-1, set()), (0, {"conv1"}), (2, {"conv1", "res_layers.0", "res_layers.1"})],
)
def test_freezing_presnet(freeze_at: int, frozen: set[str]) -> None:
    model = PResNet(18, freeze_at=freeze_at, freeze_norm=False)
    assert frozen_parts(model) == frozen


@pytest.mark.parametrize(
    ("arguments", "frozen"),
    [
        ({"name": "B0"}, {"stem"}),
        ({"name": "B0", "freeze_at": -1}, set()),
        ({"name": "B0", "freeze_at": 1}, {"stem"}),
        (
            {"name": "B0", "freeze_at": 1, "freeze_stem_only": False},
            {"stem", "stages.0", "stages.1"},
        ),
        ({"name": "L"}, set()),
        ({"name": "L", "freeze_at": 0}, {"stem"}),
        ({"name": "L", "freeze_at": 1}, {"stem", "stages.0"}),
    ],
)
def test_freezing_hgnetv2(arguments: dict[str, Any], frozen: set[str]) -> None:
    with torch.device("meta"):
        model = HGNetv2(**{"freeze_norm": False, **arguments})
    assert frozen_parts(model) == frozen


def frozen_parts(model: nn.Module) -> set[str]:
    """Stem and stages all of whose parameters are frozen; none may be frozen in part."""
    parts: dict[str, set[bool]] = {}
    for name, parameter in model.named_parameters():
        words = name.split(".")
        part = ".".join(words[: 2 if words[1].isdigit() else 1])
        parts.setdefault(part, set()).add(parameter.requires_grad)
    assert all(len(seen) == 1 for seen in parts.values())
    return {part for part, seen in parts.items() if seen == {False}}


def test_frozen_norms_never_change() -> None:
    model = PResNet(18, num_stages=1, return_idx=[0], freeze_norm=True).train()
    assert not any(isinstance(m, nn.BatchNorm2d) for m in model.modules())
    norm = model.conv1.conv1_1.norm
    assert isinstance(norm, FrozenBatchNorm2d)
    before = norm.running_mean.clone()
    model(torch.randn(2, 3, 32, 32))
    assert torch.equal(norm.running_mean, before)


def test_defaults_follow_the_size() -> None:
    with torch.device("meta"):
        dfine, rtdetr = HGNetv2("B4"), HGNetv2("L")
    assert (dfine.pretrained, rtdetr.pretrained) == (True, False)
    assert any(isinstance(m, FrozenBatchNorm2d) for m in dfine.modules())
    assert not any(isinstance(m, FrozenBatchNorm2d) for m in rtdetr.modules())


def test_l_starts_as_rtdetrv2_starts_it() -> None:
    """He's normal distribution, arXiv:1502.01852, eq. 10: variance 2 / fan in."""
    torch.manual_seed(0)
    weight = HGNetv2("L").stem.stem3.conv.weight
    assert weight.std().item() == pytest.approx((2 / weight[0].numel()) ** 0.5, rel=0.05)
    assert weight.abs().max() > 3 * weight.std()  # not uniform


@pytest.mark.parametrize("same", [("L", "B4"), ("X", "B5"), ("H", "B6")])
def test_sizes_of_rtdetrv2_are_those_of_dfine(same: tuple[str, str]) -> None:
    theirs, ours = (ARCHITECTURES[name] for name in same)
    assert (theirs.stem, theirs.stages) == (ours.stem, ours.stages)


@pytest.mark.parametrize(("name", "fits"), [("Atto", False), ("Femto", True), ("Pico", True)])
def test_smallest_sizes_start_from_what_fits_of_b0(name: str, fits: bool) -> None:
    with torch.device("meta"):
        model, b0 = HGNetv2(name, True, [2]), HGNetv2("B0", True)
    assert model.pretrained_partial
    assert model.pretrained_url == b0.pretrained_url
    theirs = b0.state_dict()
    shapes = [v.shape == theirs[k].shape for k, v in model.state_dict().items() if k in theirs]
    assert all(shapes) == fits
    assert any(shapes)


@pytest.mark.parametrize(
    ("model", "file"),
    [
        (lambda: PResNet(50, pretrained=True), "ResNet50_vd_ssld_v2_pretrained_from_paddle.pth"),
        (lambda: HGNetv2("X"), "PPHGNetV2_X_ssld_pretrained_from_paddle.pth"),
        (lambda: HGNetv2("B5"), "PPHGNetV2_B5_stage1.pth"),
    ],
)
def test_weights_are_named_not_loaded(model: Any, file: str) -> None:
    with torch.device("meta"):
        backbone = model()
    assert backbone.pretrained_url.startswith("https://github.com/")
    assert backbone.pretrained_url.rsplit("/", 1)[1] == file


def test_only_variant_d_has_weights() -> None:
    assert PResNet(18, "b", 1, [0]).pretrained_url is None


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: PResNet(20), "no depth 20"),
        (lambda: PResNet(18, "e"), "variant: 'e' must be a, b, c or d"),
        (lambda: PResNet(18, num_stages=5), "num_stages: 5"),
        (lambda: PResNet(18, num_stages=3), r"return_idx: \[0, 1, 2, 3\] must name stages 0 to 2"),
        (lambda: PResNet(18, act="rleu"), "did you mean `relu`"),
        (lambda: HGNetv2("atto"), "no size `atto`, did you mean `Atto`"),
        (lambda: HGNetv2("Atto"), r"return_idx: \[1, 2, 3\] must name stages 0 to 2"),
        (lambda: HGNetv2("B0", return_idx=[]), "return_idx"),
    ],
)
def test_wrong_arguments(make: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make()


def test_widths_that_do_not_fit_are_named() -> None:
    backbone = PResNet(18, num_stages=1, return_idx=[0])
    encoder = HybridEncoder([128], [4], 32, 4, 32, use_encoder_idx=[0])
    with pytest.raises(ConfigError) as raised:
        Detector(backbone, encoder, nn.Identity())
    assert str(raised.value.message) == (
        "HybridEncoder.in_channels is [128], but the maps of PResNet are [64] wide"
    )
    assert "in_channels: [64]" in (raised.value.hint or "")
