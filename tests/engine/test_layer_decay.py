"""The backbone's rates by stage, in every kind of backbone."""

from __future__ import annotations

import re

import pytest
from torch import nn

from detrkit.api import build_model, create
from detrkit.engine.layer_decay import backbone_stages
from detrkit.engine.optim import build_optimizer, group_names
from detrkit.errors import ConfigError


class Detector(nn.Module):
    """A backbone with an encoder behind it."""

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone
        self.encoder = nn.Linear(2, 2)


def stages(backbone: nn.Module) -> list[tuple[str, int]]:
    """Places in the order of the parameters, each once."""
    return list(
        dict.fromkeys((word, depth) for depth, word in backbone_stages(Detector(backbone)).values())
    )


def ladder(word: str, count: int) -> list[tuple[str, int]]:
    return [("backbone_stem", 0), *((f"backbone_{word}_{i}", i) for i in range(1, count + 1))]


def test_hgnetv2() -> None:
    assert stages(create("HGNetv2", name="B0", pretrained=False)) == ladder("stage", 4)


def test_presnet() -> None:
    backbone = create("PResNet", depth=18, pretrained=False, freeze_at=-1, freeze_norm=False)
    assert stages(backbone) == ladder("stage", 4)


@pytest.mark.parametrize("name", ["vit_tiny", "dinov3_vits16"])
def test_transformers_by_block(name: str) -> None:
    found = stages(create("DINOv3STAs", name=name))
    assert found == [*ladder("block", 12), ("backbone_end", 12)]


@pytest.mark.parametrize("name", ["resnet18", "convnext_tiny", "swin_t", "mobilenet_v3_small"])
def test_torchvision(name: str) -> None:
    found = stages(create("TorchvisionBackbone", name=name))
    depths = [depth for _, depth in found]
    assert depths == sorted(depths)
    assert len(found) >= 4


@pytest.mark.parametrize("name", ["resnet18", "convnext_atto", "efficientnet_lite0", "hgnetv2_b0"])
def test_timm(name: str) -> None:
    pytest.importorskip("timm", reason="needs timm")
    found = stages(create("TimmBackbone", name=name))
    assert [depth for _, depth in found] == sorted(depth for _, depth in found)
    assert found[0][0] == "backbone_stem"
    assert len(found) >= 5


def test_backbones_whose_names_tell_nothing() -> None:
    with pytest.raises(ConfigError, match="the parameters of Sequential do not tell its stages"):
        backbone_stages(Detector(nn.Sequential(nn.Linear(2, 2))))
    with pytest.raises(ConfigError, match="the parameters of a backbone do not tell"):
        backbone_stages(nn.Linear(2, 2))


SECTION = {
    "type": "AdamW",
    "lr": 0.002,
    "weight_decay": 0.1,
    "params": [
        {"params": "^(?=.*backbone)(?!.*norm|bn).*$", "lr": 0.001},
        {"params": "^(?=.*backbone)(?=.*norm|bn).*$", "lr": 0.001, "weight_decay": 0.0},
        {"params": "^(?=.*encoder)(?=.*bias).*$", "weight_decay": 0.0},
    ],
}


def test_rates_groups_and_their_names() -> None:
    model = build_model("deimv2_hgnetv2_atto_coco", update=["HGNetv2.pretrained=False"])
    plain = build_optimizer(SECTION, model)
    decayed = build_optimizer(SECTION, model, layer_decay=0.5)
    names = group_names(decayed, model)
    rates = {name: decayed.param_groups[i]["initial_lr"] for name, i in names.items()}
    last = max(int(n) for n in re.findall(r"stage_(\d)", " ".join(rates)))
    for depth in range(1, last + 1):
        assert rates[f"backbone_stage_{depth}"] == pytest.approx(0.001 * 0.5 ** (last - depth))
    assert rates["backbone_stem"] == pytest.approx(0.001 * 0.5**last)
    assert rates["encoder_no_decay"] == 0.002
    for name, i in names.items():
        group = decayed.param_groups[i]
        assert (group["weight_decay"] == 0.0) == name.endswith("_no_decay"), name
    # nothing is lost, nothing changes its order inside a group
    owner = {id(p): group for group in decayed.param_groups for p in group["params"]}
    assert len(owner) == sum(len(group["params"]) for group in plain.param_groups)
    for group in plain.param_groups:
        assert all(owner[id(p)]["weight_decay"] == group["weight_decay"] for p in group["params"])


def test_decay_of_one_changes_no_rate() -> None:
    model = build_model("deimv2_hgnetv2_atto_coco", update=["HGNetv2.pretrained=False"])
    plain = build_optimizer(SECTION, model)
    same = build_optimizer(SECTION, model, layer_decay=1.0)

    def rates(optimizer):  # type: ignore[no-untyped-def]
        return {id(p): g["lr"] for g in optimizer.param_groups for p in g["params"]}

    assert rates(plain) == rates(same)


def test_the_optimizers_state_comes_back() -> None:
    model = build_model("deimv2_hgnetv2_atto_coco", update=["HGNetv2.pretrained=False"])
    first = build_optimizer(SECTION, model, layer_decay=0.7)
    second = build_optimizer(SECTION, model, layer_decay=0.7)
    second.load_state_dict(first.state_dict())
    assert group_names(second, model) == group_names(first, model)


@pytest.mark.parametrize("decay", [0.0, -0.5, 1.1])
def test_a_factor_is_between_0_and_1(decay: float) -> None:
    model = Detector(create("HGNetv2", name="B0", pretrained=False))
    with pytest.raises(ConfigError, match="layer_decay: must be above 0 and at most 1"):
        build_optimizer(SECTION, model, layer_decay=decay)
