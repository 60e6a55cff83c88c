"""DINOv3STAs: names, shapes, resizing, errors, gradients, export; and other implementations."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from detrkit.errors import ConfigError
from detrkit.models.backbones.dinov3 import Architecture, DINOv3
from detrkit.models.backbones.spatial_tuning_adapter import DINOv3STAs, SpatialPrior
from detrkit.models.backbones.vit_tiny import ViTTiny
from detrkit.registry import MODULES

#: As the authors' configurations of DEIMv2 name them.
SIZES: dict[str, dict[str, Any]] = {
    "s": {"name": "vit_tiny", "embed_dim": 192, "num_heads": 3},
    "m": {"name": "vit_tinyplus", "embed_dim": 256, "num_heads": 4},
    "l": {"name": "dinov3_vits16", "interaction_indexes": [5, 8, 11], "conv_inplane": 32,
          "hidden_dim": 224},
    "x": {"name": "dinov3_vits16plus", "interaction_indexes": [5, 8, 11], "conv_inplane": 64,
          "hidden_dim": 256},
}  # fmt: skip


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


@pytest.fixture(params=["vit_tiny", "dinov3"])
def small(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> DINOv3STAs:
    """A narrow backbone of either kind, three blocks deep, in evaluation."""
    return narrow(request.param, monkeypatch)


def narrow(kind: str, monkeypatch: pytest.MonkeyPatch, **arguments: Any) -> DINOv3STAs:
    monkeypatch.setattr("detrkit.models.backbones.vit_tiny.DEPTH", 3)
    monkeypatch.setitem(
        DINOv3STAs.__init__.__globals__["ARCHITECTURES"],
        "dinov3_vits16",
        Architecture(16, 3, 2, 24, gated=True),
    )
    settings = {
        "name": "dinov3_vits16" if kind == "dinov3" else kind, "embed_dim": 16, "num_heads": 2,
        "interaction_indexes": [0, 1, 2], "conv_inplane": 4, "hidden_dim": 12, **arguments,
    }  # fmt: skip
    net = DINOv3STAs(**settings)
    for name, parameter in net.named_parameters():
        if name.endswith("gamma"):
            nn.init.uniform_(parameter, 0.5, 1.0)  # else the blocks hardly show
    return net.eval()


@pytest.mark.parametrize("size", SIZES)
def test_names_and_shapes(reference: Path, size: str) -> None:
    path = reference / "parity" / "keys" / f"deimv2_dinov3_{size}.json"
    keys = json.loads(path.read_text(encoding="utf-8"))["keys"]
    expected = [(k[9:], v) for k, v in keys.items() if k.startswith("backbone.")]
    net = MODULES.create("DINOv3STAs", **SIZES[size])
    assert [(k, list(v.shape)) for k, v in net.state_dict().items()] == expected
    assert all(p.requires_grad for p in net.parameters())


def test_maps_of_any_allowed_size(small: DINOv3STAs) -> None:
    assert small.out_channels == [12, 12, 12]
    assert small.out_strides == [8, 16, 32]
    for h, w in ((32, 32), (96, 64), (64, 160)):
        with torch.no_grad():
            maps = small(torch.randn(2, 3, h, w))
        assert [m.shape for m in maps] == [(2, 12, h // s, w // s) for s in (8, 16, 32)]


@torch.no_grad()
def test_maps_are_joined_and_projected(small: DINOv3STAs) -> None:
    images = torch.randn(1, 3, 64, 96)
    tokens = small.dinov3(images, small.interaction_indexes)
    details = small.sta(images)
    for level, (found, size) in enumerate(
        zip(small(images), [(8, 12), (4, 6), (2, 3)], strict=True)
    ):
        resized = F.interpolate(tokens[level], size=size, mode="bilinear", align_corners=False)
        joined = torch.cat([resized, details[level]], dim=1)
        expected = small.norms[level](small.convs[level](joined))
        assert torch.allclose(found, expected, atol=1e-6)


@torch.no_grad()
def test_tokens_keep_their_places(monkeypatch: pytest.MonkeyPatch) -> None:
    """A map's pixel is its patch's token: rows are rows, also where they are not as many."""
    net = narrow("vit_tiny", monkeypatch).dinov3
    for block in net._model.blocks:
        nn.init.zeros_(block.attn.proj.weight)  # tokens do not see each other
    images = torch.randn(1, 3, 32, 64)
    changed = images.clone()
    changed[:, :, 16:, 32:48] = 0
    (before,), (after,) = net(images, [2]), net(changed, [2])
    touched = (before - after).abs().amax(1)[0] > 1e-6
    assert touched.tolist() == [[False] * 4, [False, False, True, False]]


@torch.no_grad()
def test_items_of_a_batch_do_not_mix(small: DINOv3STAs) -> None:
    images = torch.randn(3, 3, 64, 32)
    for whole, one in zip(small(images), small(images[1:2]), strict=True):
        assert torch.allclose(whole[1:2], one, atol=1e-5)


@torch.no_grad()
def test_one_block_for_all_maps_and_no_details(monkeypatch: pytest.MonkeyPatch) -> None:
    net = narrow("vit_tiny", monkeypatch, interaction_indexes=[1], use_sta=False, hidden_dim=None)
    assert not any(name.startswith("sta") for name in net.state_dict())
    images = torch.randn(1, 3, 48, 80)  # multiples of 16 do
    (tokens,) = net.dinov3(images, [1])
    maps = net(images)
    assert [m.shape[1:] for m in maps] == [(16, 6, 10), (16, 3, 5), (16, 1, 2)]
    assert torch.allclose(maps[1], net.norms[1](net.convs[1](tokens)), atol=1e-6)
    # nothing behind block 1 counts
    for parameter in net.dinov3._model.blocks[2].parameters():
        parameter.fill_(float("nan"))
    assert torch.equal(net(images)[1], maps[1])


def test_final_norm_is_dinov3s_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not any("model.norm" in k for k in narrow("vit_tiny", monkeypatch).state_dict())
    net = narrow("dinov3", monkeypatch)
    for tokens in net.dinov3(torch.randn(2, 3, 64, 64), [0, 2]):
        spread = tokens.var(1, unbiased=False)
        assert torch.allclose(spread, torch.ones_like(spread), atol=0.01)
        assert tokens.mean(1).abs().max() < 1e-5


def test_epsilons() -> None:
    norms = [m.eps for m in ViTTiny().modules() if isinstance(m, nn.LayerNorm)]
    assert norms == [1e-6] * 24
    net = DINOv3(Architecture(16, 2, 2, 24))
    assert [m.eps for m in net.modules() if isinstance(m, nn.LayerNorm)] == [1e-5] * 5


def test_start_values() -> None:
    net = ViTTiny()
    transformer = net._model
    for module in transformer.modules():
        if isinstance(module, nn.Linear):
            assert module.weight.std().item() == pytest.approx(0.02, rel=0.05)
            assert not module.bias.any()
    assert transformer.cls_token.std().item() == pytest.approx(0.02, rel=0.3)
    bound = (3 * 16 * 16) ** -0.5  # of the patches: uniform
    assert transformer.patch_embed.proj.weight.abs().max().item() == pytest.approx(bound, rel=0.01)
    expected = [100 ** (i / 16) for i in range(16)]
    assert transformer.rope_embed.periods.tolist() == pytest.approx(expected)

    dino = DINOv3(Architecture(64, 1, 1, 24))
    assert not dino.mask_token.any()
    assert dino.storage_tokens.std().item() == pytest.approx(0.02, rel=0.3)
    assert dino.blocks[0].attn.qkv.bias_mask.tolist() == [1] * 64 + [0] * 64 + [1] * 64
    assert not dino.blocks[0].attn.qkv.bias.any()
    assert torch.equal(dino.blocks[0].ls2.gamma, torch.full((64,), 1e-5))


def test_every_parameter_gets_a_gradient(small: DINOv3STAs) -> None:
    small.train()
    sum(m.square().sum() for m in small(torch.randn(2, 3, 64, 64))).backward()
    zero = {n for n, p in small.named_parameters() if not p.grad.any()}
    assert all(torch.isfinite(p.grad).all() for p in small.parameters())
    # zero rather than missing
    assert zero == {n for n in dict(small.named_parameters()) if n.endswith("mask_token")}


def test_frozen_transformer(monkeypatch: pytest.MonkeyPatch) -> None:
    net = narrow("dinov3", monkeypatch, finetune=False)
    trained = {n.split(".")[0] for n, p in net.named_parameters() if p.requires_grad}
    assert trained == {"sta", "convs", "norms"}


def test_training_rescales_coordinates_of_dinov3_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    images = torch.randn(1, 3, 64, 64)
    for kind, differs in (("vit_tiny", False), ("dinov3", True)):
        net = narrow(kind, monkeypatch)
        indexes = net.interaction_indexes
        with torch.no_grad():
            fixed = net.dinov3(images, indexes)[-1]
            net.train()
            torch.manual_seed(1)
            first = net.dinov3(images, indexes)[-1]
            torch.manual_seed(1)
            assert torch.equal(net.dinov3(images, indexes)[-1], first)
        assert torch.allclose(fixed, first, atol=1e-6) is not differs


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "vit_tinny"}, "no transformer `vit_tinny`, did you mean `vit_tiny`"),
        ({"name": "dinov3_vitb16"}, "no transformer `dinov3_vitb16`"),
        ({"patch_size": 14}, "patch_size: 14"),
        ({"interaction_indexes": [3, 7]}, r"\[3, 7\] must be one block or three"),
        ({"interaction_indexes": []}, r"\[\] must be"),
        ({"interaction_indexes": [3, 7, 12]}, "of 0 to 11"),
        ({"interaction_indexes": [7, 3, 11]}, "rising"),
        ({"interaction_indexes": [-1]}, "of 0 to 11"),
        ({"embed_dim": 100}, "embed_dim 100 is not divisible"),
        ({"embed_dim": 198}, "multiple of 4 channels, got 66"),
    ],
)
def test_wrong_arguments(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        DINOv3STAs(**{"name": "vit_tiny", **arguments})


def test_wrong_image_size(monkeypatch: pytest.MonkeyPatch) -> None:
    net = narrow("vit_tiny", monkeypatch)
    with pytest.raises(ConfigError, match="multiples of 32, got 48×64"):
        net(torch.randn(1, 3, 48, 64))
    net = narrow("vit_tiny", monkeypatch, use_sta=False)
    with pytest.raises(ConfigError, match="multiples of 16, got 64×40"):
        net(torch.randn(1, 3, 64, 40))


def test_constructor_notes_the_weights_and_reads_nothing() -> None:
    net = DINOv3STAs("vit_tiny", weights_path="nowhere/vitt_distill.pt")
    assert net.pretrained == "nowhere/vitt_distill.pt"
    assert "cls_token" in net.pretrained_part.state_dict()
    assert "drive.google.com" in net.pretrained_hint
    assert not DINOv3STAs("vit_tiny").pretrained


def test_spatial_prior_is_plain_convolutions() -> None:
    prior = shaken(SpatialPrior(4)).eval()
    x = torch.randn(1, 3, 37, 50)  # any size here: strided layers round up

    def halved(x: Tensor, convolution: nn.Module, norm: nn.Module) -> Tensor:
        return norm(F.conv2d(x, convolution.weight, stride=2, padding=1))

    stem = F.max_pool2d(F.gelu(halved(x, *prior.stem[:2])), 3, 2, 1)
    fine = halved(stem, *prior.conv2)
    middle = halved(F.gelu(fine), *prior.conv3[1:])
    coarse = halved(F.gelu(middle), *prior.conv4[1:])
    for found, expected in zip(prior(x), (fine, middle, coarse), strict=True):
        assert torch.allclose(found, expected, atol=1e-6)
    assert [m.shape[1] for m in prior(x)] == prior.out_channels == [8, 16, 16]


def shaken(module: nn.Module) -> nn.Module:
    for m in module.modules():
        if isinstance(m, nn.BatchNorm2d):
            nn.init.normal_(m.running_mean, std=0.3)
            nn.init.uniform_(m.running_var, 0.5, 1.5)
    return module


@torch.no_grad()
def test_half_precision(small: DINOv3STAs) -> None:
    images = torch.randn(1, 3, 64, 64)
    exact = small(images)
    with torch.autocast("cpu", torch.bfloat16):
        mixed = small(images)
    half = small.bfloat16()(images.bfloat16())
    for a, b, c in zip(exact, mixed, half, strict=True):
        assert b.dtype == c.dtype == torch.bfloat16
        assert (a - b).abs().mean() < 0.02 * a.abs().mean() + 0.01
        assert (a - c).abs().mean() < 0.05 * a.abs().mean() + 0.02


@torch.no_grad()
def test_exports_with_a_free_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    net = narrow("dinov3", monkeypatch)
    program = torch.export.export(
        net, (torch.randn(2, 3, 64, 96),), dynamic_shapes=({0: torch.export.Dim("batch")},)
    )
    images = torch.randn(5, 3, 64, 96)
    for ours, exported in zip(net(images), program.module()(images), strict=True):
        assert torch.allclose(ours, exported, atol=1e-6)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("gated", [False, True])
@torch.no_grad()
def test_dinov3_is_that_of_transformers(gated: bool) -> None:
    transformers = pytest.importorskip("transformers")
    theirs = transformers.DINOv3ViTModel(
        transformers.DINOv3ViTConfig(
            hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=2,
            num_register_tokens=4, use_gated_mlp=gated, hidden_act="silu" if gated else "gelu",
        )
    ).eval()  # fmt: skip
    for name, parameter in theirs.named_parameters():
        if "norm" not in name:
            nn.init.normal_(parameter, std=0.2)
    ours = DINOv3(Architecture(32, 2, 2, 48, gated)).eval()
    missing, unexpected = ours.load_state_dict(from_transformers(theirs.state_dict()), strict=False)
    assert not unexpected
    assert {re.sub(r"\d+", "0", name) for name in missing} == {
        "rope_embed.periods",
        "blocks.0.attn.qkv.bias_mask",
    }
    images = torch.randn(2, 3, 64, 96)
    (tokens,) = ours(images, [1])
    expected = theirs(images).last_hidden_state[:, 5:]
    assert torch.allclose(tokens.flatten(2).transpose(1, 2), expected, atol=1e-5)


def from_transformers(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Their names as Meta's."""
    renamed = {}
    for name, value in state.items():
        for old, new in (
            ("embeddings.patch_embeddings", "patch_embed.proj"),
            ("embeddings.register_tokens", "storage_tokens"),
            ("embeddings.", ""),
            ("model.layer.", "blocks."),
            ("attention.o_proj", "attn.proj"),
            ("layer_scale1.lambda1", "ls1.gamma"),
            ("layer_scale2.lambda1", "ls2.gamma"),
        ):
            name = name.replace(old, new)
        if "gate_proj" in "".join(state):
            name = name.replace("gate_proj", "w1").replace("up_proj", "w2")
            name = name.replace("down_proj", "w3")
        name = name.replace("up_proj", "fc1").replace("down_proj", "fc2")
        renamed[name] = value[0] if name == "mask_token" else value
    for part in [n for n in renamed if ".q_proj." in n]:
        place, kind = part.split(".attention.q_proj.")
        q, v = renamed.pop(part), renamed.pop(part.replace("q_proj", "v_proj"))
        k = renamed.pop(part.replace("q_proj", "k_proj"), torch.zeros_like(q))
        renamed[f"{place}.attn.qkv.{kind}"] = torch.cat([q, k, v])
    return renamed
