"""Modules of maps in place of a model's parts, from Python and from a configuration."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from detrkit.config import build, load_config
from detrkit.errors import ConfigError
from detrkit.models.backbones.hgnetv2 import HGNetv2
from detrkit.models.backbones.presnet import PResNet
from detrkit.models.encoders.hybrid_encoder import HybridEncoder
from detrkit.models.encoders.lite_encoder import LiteEncoder
from detrkit.modules.part import build_part
from detrkit.registry import MODULES, Traits


class Halve(nn.Module):
    """Rounds sides down, unlike the encoder's own layer."""

    def __init__(self, in_channels: int, factor: int = 2) -> None:
        super().__init__()
        self.out_channels = in_channels
        self.factor = factor
        self.weight = nn.Parameter(torch.ones(1))

    def forward(self, x: Tensor) -> Tensor:
        return F.avg_pool2d(x, self.factor) * self.weight


class Gate(nn.Module):
    """Two maps of one size into one."""

    def __init__(self, in_channels: Sequence[int]) -> None:
        super().__init__()
        self.out_channels = in_channels[1]
        self.weight = nn.Parameter(torch.zeros(1))

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        return maps[1] + self.weight.sigmoid() * maps[0]


class Spread(nn.Module):
    """A fine map and one of half its side."""

    def __init__(self, in_channels: Sequence[int]) -> None:
        super().__init__()
        self.out_channels = in_channels[0]
        self.weight = nn.Parameter(torch.ones(1))

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        return maps[0] + self.weight * F.interpolate(maps[1], size=maps[0].shape[2:])


class Stem(nn.Module):
    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.out_channels = out_channels
        self.conv = nn.Conv2d(in_channels, out_channels, 4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x)


@pytest.fixture(autouse=True)
def extras() -> Iterator[None]:
    """Modules of this file, under names of their own."""
    MODULES.discover()
    before = dict(MODULES._entries)
    MODULES.register("PartHalve", family="test", traits=Traits(scale=0.5))(Halve)
    MODULES.register("PartGate", family="test", traits=Traits())(Gate)
    MODULES.register("PartSpread", family="test", traits=Traits(sides=(1, 0.5)))(Spread)
    MODULES.register("PartStem", family="test", traits=Traits(scale=0.25))(Stem)
    yield
    MODULES._entries.clear()
    MODULES._entries.update(before)


def all_learn(module: nn.Module, maps: Any) -> None:
    module.train()
    sum(y.square().sum() for y in module(maps)).backward()
    idle = [n for n, p in module.named_parameters() if p.requires_grad and p.grad is None]
    assert not idle


def encoder(**parts: Any) -> HybridEncoder:
    return HybridEncoder([8, 16, 24], hidden_dim=32, dim_feedforward=48, **parts)


def maps() -> list[Tensor]:
    return [torch.randn(2, 8, 21, 13), torch.randn(2, 16, 11, 7), torch.randn(2, 24, 6, 4)]


@pytest.mark.parametrize(
    "parts",
    [
        {"block": "SPPF"},
        {"block": {"type": "C2PSA", "num_heads": 2}},
        {"block": "SimAM"},  # keeps its width: a 1×1 convolution follows
        {"fusion": "PartGate"},
        {"fusion": "PartSpread"},
        {"fusion": "Sum"},
        {"upsample": {"type": "Upsample", "mode": "bilinear"}},
        {"downsample": "PartHalve"},
        {"aifi": {"attention": {"type": "C2PSA"}}},
        {"aifi": {"mlp": "Conv", "norm": "SimAM"}},
        {"after": [None, "SimAM", {"type": "Conv", "kernel_size": 3}]},
    ],
    ids=str,
)
def test_the_encoder_takes_parts(parts: dict[str, Any]) -> None:
    module = encoder(**parts)
    sizes = [tuple(y.shape) for y in module(maps())]
    assert sizes == [(2, 32, 21, 13), (2, 32, 11, 7), (2, 32, 6, 4)]
    all_learn(module, maps())


def test_blocks_get_the_depth() -> None:
    made = encoder(block="C2PSA", fuse_op="sum", depth_mult=0.67)
    assert len(made.fpn_blocks[0].blocks) == 2  # type: ignore[union-attr, arg-type]
    made = encoder(block={"type": "C2PSA", "num_blocks": 1}, fuse_op="sum")
    assert len(made.fpn_blocks[0].blocks) == 1  # type: ignore[union-attr, arg-type]


def test_without_parts_nothing_changes() -> None:
    torch.manual_seed(0)
    plain = encoder()
    torch.manual_seed(0)
    same = encoder(after=[None, None, None])
    assert list(plain.state_dict()) == list(same.state_dict())


@pytest.mark.parametrize(
    "make",
    [
        lambda: HGNetv2("B0", block=[None, None, "SPPF", "Conv"]),
        lambda: HGNetv2("B0", stem="PartStem", after=[None, "SimAM", None, "Conv"]),
        lambda: PResNet(18, block=[None, "SPPF", None, None], return_idx=[1, 2, 3]),
        lambda: PResNet(18, stem="PartStem", after=["Conv", None, None, None], return_idx=[1, 3]),
    ],
)
def test_backbones_take_parts(make: Any) -> None:
    plain = HGNetv2("B0") if "HGNetv2" in str(type(make())) else PResNet(18, return_idx=[1, 2, 3])
    module = make()
    out = module(torch.randn(2, 3, 64, 96))
    assert [y.shape[1] for y in out] == module.out_channels
    if len(out) == 3:
        assert [y.shape for y in out] == [y.shape for y in plain(torch.randn(2, 3, 64, 96))]
    assert module.pretrained_partial


def test_new_parts_of_a_frozen_backbone_train() -> None:
    module = HGNetv2("B0", stem="PartStem", freeze_at=3, freeze_stem_only=False,
                     block=[None, None, None, "Conv"])  # fmt: skip
    free = {name.split(".conv")[0] for name, p in module.named_parameters() if p.requires_grad}
    assert {"stem", "stages.3.blocks.0"} <= free
    assert not any(name.startswith("stages.2") for name in free)
    assert any(isinstance(m, nn.BatchNorm2d) for m in module.stages[3].blocks.modules())


def test_the_lite_encoder_takes_a_block() -> None:
    all_learn(LiteEncoder([24], hidden_dim=32, block="SPPF"), [torch.randn(1, 24, 9, 7)])


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"block": "SPPFF"}, r"HybridEncoder\.block: unknown component `SPPFF`.*`SPPF`"),
        ({"block": 3}, r"HybridEncoder\.block: expected a module"),
        ({"block": "HGNetv2"}, r"HGNetv2 is no module of maps"),
        ({"fusion": "SPPF"}, r"HybridEncoder\.fusion: SPPF takes one map, and there are several"),
        ({"block": "Sum"}, r"HybridEncoder\.block: Sum takes several maps, and there is one"),
        ({"upsample": "Conv"}, r"upsample: Conv makes maps 1 times as large; wanted is 2"),
        ({"block": {"type": "SPPF", "kernel_size": 4}}, r"kernel_size must be odd, got 4"),
        ({"after": ["SimAM"]}, r"after: expected a list of 3 entries"),
        ({"after": "SimAM"}, r"after: expected a list of 3 entries"),
        ({"aifi": {"attn": "SimAM"}}, r"aifi: no part `attn`, did you mean `attention`"),
        ({"aifi": "SimAM"}, r"aifi: expected \{attention, mlp, norm\}"),
    ],
    ids=str,
)
def test_mistakes(parts: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        encoder(**parts)


def test_a_width_that_the_module_cannot_have_is_added() -> None:
    module = build_part("SimAM", "here", 8, 16)
    assert module(torch.randn(1, 8, 5, 5)).shape == (1, 16, 5, 5)
    assert module.out_channels == 16


CONFIG = """\
__include__: [{base}]
HybridEncoder:
  block: {{type: SPPF, kernel_size: 3}}
  aifi: {{norm: SimAM}}
HGNetv2: {{after: [null, null, null, SimAM]}}
"""
WRONG = """\
__include__: [{base}]
HybridEncoder:
  block: {{type: SPPF, kernel: 3}}
  upsample: Upsampel
  aifi: {{norm: HGNetv2}}
HGNetv2: {{after: [null, null, null, 7]}}
"""


def test_parts_in_a_configuration(tmp_path: Path) -> None:
    base = Path(__file__).resolve().parents[2] / "configs/dfine/dfine_hgnetv2_n_coco.yml"
    (tmp_path / "a.yml").write_text(CONFIG.format(base=base))
    model = build(load_config(tmp_path / "a.yml"), "model")
    assert type(model.encoder.fpn_blocks[0]).__name__ == "SPPF"
    (tmp_path / "b.yml").write_text(WRONG.format(base=base))
    with pytest.raises(ConfigError) as caught:
        load_config(tmp_path / "b.yml")
    told = str(caught.value)
    assert "line 3  HybridEncoder.block.kernel: unknown argument of SPPF, did you mean" in told
    assert "unknown component `Upsampel`, did you mean `Upsample`" in told
    assert "HGNetv2 is no module of maps" in told
    assert "HGNetv2.after.3: expected a module (its name, or `type: …`), got 7" in told
