"""The decoders of all families by themselves, on random maps."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from detrkit.errors import ConfigError
from detrkit.models.decoders.two_stage import TwoStageDecoder
from detrkit.models.detector import DEIM
from detrkit.registry import MODULES
from detrkit.structures import Target
from tests.models.outputs import loss, tensors

Targets = Callable[[list[int]], list[Target]]

SHARED: dict[str, Any] = {"share_bbox_head": True, "share_score_head": True, "use_gateway": False}
DEEP_POSITION: dict[str, Any] = {
    "query_pos_method": "as_reg", "mlp_act": "silu", "activation": "silu",
}  # fmt: skip
#: Name -> registered name and arguments.
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "dfine": ("DFINETransformer", {}),
    "deimv2": ("DEIMTransformer", {}),
    "deimv2-shared": ("DEIMTransformer", SHARED),
    "deimv2-wide": ("DEIMTransformer", {"layer_scale": 2, "eval_idx": 0}),
    "rtdetrv2": ("RTDETRTransformerv2", {}),
    "rtdetrv2-deep": ("RTDETRTransformerv2", DEEP_POSITION),
    "rtdetrv2-discrete": ("RTDETRTransformerv2", {"cross_attn_method": "discrete"}),
    "rtdetr": ("RTDETRTransformer", {}),
}
FAMILIES = ("dfine", "deimv2", "rtdetrv2", "rtdetr")


def make(variant: str, **settings: Any) -> TwoStageDecoder:
    """32 channels, two levels, three layers, five classes."""
    name, own = VARIANTS[variant]
    torch.manual_seed(0)
    arguments: dict[str, Any] = {
        "num_classes": 5, "hidden_dim": 32, "num_queries": 10, "feat_channels": [24, 32],
        "feat_strides": [16, 32], "num_levels": 2, "num_points": 3, "nhead": 4, "num_layers": 3,
        "dim_feedforward": 48, "num_denoising": 8, "eval_spatial_size": [64, 96],
        **own, **settings,
    }  # fmt: skip
    return MODULES.create(name, **arguments)


def maps(h: int = 4, w: int = 6, batch: int = 2) -> list[Tensor]:
    torch.manual_seed(7)
    return [torch.randn(batch, 24, h, w), torch.randn(batch, 32, (h + 1) // 2, (w + 1) // 2)]


def shaken(decoder: TwoStageDecoder) -> TwoStageDecoder:
    """Heads that start at zero would hide what lies behind them."""
    for parameter in decoder.parameters():
        if parameter.requires_grad and not parameter.any():
            nn.init.normal_(parameter, std=0.1)
    return decoder


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("counts", [[2, 3], [0, 4], [0, 0], [25, 1]], ids=str)
def test_every_parameter_learns(variant: str, counts: list[int], targets: Targets) -> None:
    decoder = shaken(make(variant)).train()
    out = decoder(maps(), targets(counts))
    assert all(t.isfinite().all() for t in tensors(out))
    assert len(out["dn_outputs"]) == 3
    loss(out).backward()
    learning = {n: p for n, p in decoder.named_parameters() if p.requires_grad}
    # distributed training waits for every one of them
    assert not [n for n, p in learning.items() if p.grad is None]
    idle = {n for n, p in learning.items() if not p.grad.any()}
    assert idle == ({"denoising_class_embed.weight"} if sum(counts) == 0 else set())


@pytest.mark.parametrize("variant", VARIANTS)
@torch.no_grad()
def test_deploy_changes_nothing(variant: str) -> None:
    last = VARIANTS[variant][1].get("eval_idx", 1)
    decoder = shaken(make(variant, eval_idx=last)).eval()
    expected = decoder(maps())
    assert set(expected) == {"pred_logits", "pred_boxes"}
    deployed = copy.deepcopy(decoder)
    for _ in range(2):  # the second time finds nothing left to do
        for module in list(deployed.modules()):
            if hasattr(module, "convert_to_deploy"):
                module.convert_to_deploy()
    assert len(deployed.decoder.layers) == len(deployed.dec_bbox_head) == last + 1
    for key, tensor in deployed(maps()).items():
        assert torch.allclose(tensor, expected[key], atol=1e-5), key
    assert len(decoder.decoder.layers) == 3


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize(("h", "w"), [(4, 6), (6, 4), (3, 17), (1, 2)])
@torch.no_grad()
def test_any_size(variant: str, h: int, w: int) -> None:
    out = make(variant).eval()(maps(h, w))
    queries = min(10, sum(m.shape[2] * m.shape[3] for m in maps(h, w)))
    assert out["pred_logits"].shape == (2, queries, 5)
    assert out["pred_boxes"].shape == (2, queries, 4)
    assert all(t.isfinite().all() for t in tensors(out))


@pytest.mark.parametrize("variant", FAMILIES)
@torch.no_grad()
def test_kept_anchors_change_nothing(variant: str) -> None:
    kept, made = make(variant).eval(), make(variant, eval_spatial_size=None).eval()
    made.load_state_dict(kept.state_dict())  # strict: anchors are no weights
    assert "anchors" not in made.state_dict()
    for a, b in zip(tensors(kept(maps())), tensors(made(maps())), strict=True):
        assert torch.equal(a, b)


COMMON: list[dict[str, Any]] = [
    {"num_levels": 3},
    {"num_points": [4, 1]},
    {"num_denoising": 0},
    {"aux_loss": False},
    {"num_classes": 1},
]
NOT_IN_RTDETR: list[dict[str, Any]] = [
    {"query_select_method": "agnostic"},
    {"query_select_method": "one2many"},
    {"cross_attn_method": "discrete"},
    {"learn_query_content": True},
]


@pytest.mark.parametrize(
    ("variant", "settings"),
    [
        *((variant, settings) for variant in FAMILIES for settings in COMMON),
        *((variant, settings) for variant in FAMILIES[:3] for settings in NOT_IN_RTDETR),
        ("rtdetr", {"learnt_init_query": True}),
        ("dfine", {"eval_idx": 0, "layer_scale": 2}),
    ],
    ids=str,
)
def test_variants_train_and_answer(
    variant: str, settings: dict[str, Any], targets: Targets
) -> None:
    decoder = make(variant, **settings).train()
    batch = targets([2, 1])
    for target in batch:
        target.labels.clamp_(max=decoder.num_classes - 1)
    out = decoder(maps(), batch)
    loss(out).backward()
    assert ("aux_outputs" in out) == settings.get("aux_loss", True)
    assert ("dn_meta" in out) == (
        settings.get("num_denoising", 8) > 0 and "aux_loss" not in settings
    )
    if "enc_aux_outputs" in out:
        agnostic = settings.get("query_select_method") == "agnostic"
        assert out["enc_meta"]["class_agnostic"] == agnostic
        assert out["enc_aux_outputs"][0]["pred_logits"].shape[-1] == (
            1 if agnostic else decoder.num_classes
        )
    with torch.no_grad():
        assert decoder.eval()(maps())["pred_logits"].shape == (2, 10, decoder.num_classes)


@pytest.mark.parametrize("variant", FAMILIES)
def test_half_precision(variant: str, targets: Targets) -> None:
    decoder = make(variant).train()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = decoder(maps(), targets([2, 0]))
    loss(out).backward()
    assert all(p.grad.isfinite().all() for p in decoder.parameters() if p.grad is not None)
    with torch.no_grad():
        half = decoder.eval().to(torch.bfloat16)([m.bfloat16() for m in maps()])
    assert half["pred_logits"].dtype == torch.bfloat16
    assert half["pred_boxes"].isfinite().all()


@pytest.mark.parametrize(
    ("variant", "settings"),
    [("deimv2-shared", {}), ("rtdetrv2", {"learn_query_content": True})],
)
@torch.no_grad()
def test_exports_for_any_batch(variant: str, settings: dict[str, Any]) -> None:
    decoder = make(variant, num_layers=1, **settings).eval()
    batch = {0: torch.export.Dim.DYNAMIC}
    shapes = {"features": [batch, batch]}
    graph = torch.export.export(decoder, (maps(),), dynamic_shapes=shapes).module()
    for images in (2, 5):
        found = graph(maps(batch=images))
        for key, tensor in decoder(maps(batch=images)).items():
            assert torch.allclose(found[key], tensor, atol=1e-5), key


def test_shared_heads_are_one() -> None:
    shared, own = make("deimv2-shared", eval_idx=1), make("deimv2", eval_idx=1)
    for name in ("dec_score_head", "dec_bbox_head"):
        first, second, wide = getattr(shared, name)
        assert first is second is not wide  # layers behind the evaluated one have their own
        first, second, _ = getattr(own, name)
        assert first is not second
        states = zip(first.state_dict().values(), second.state_dict().values(), strict=True)
        assert all(torch.equal(a, b) for a, b in states)  # they start equal
    assert set(shared.state_dict()) > {"dec_bbox_head.0.layers.0.bias", "dec_score_head.1.bias"}
    copied = copy.deepcopy(shared)
    assert copied.dec_bbox_head[0] is copied.dec_bbox_head[1]


@pytest.mark.parametrize(("variant", "times"), [("dfine", 3), ("deimv2", 1), ("rtdetrv2", 3)])
@torch.no_grad()
def test_position_embeddings_per_layer(variant: str, times: int) -> None:
    decoder = make(variant).eval()
    calls: list[int] = []
    decoder.query_pos_head.register_forward_hook(lambda *_: calls.append(1))
    decoder(maps())
    assert len(calls) == times


def test_boxes_look_forward_twice() -> None:
    """RT-DETR's last box trains its own head and the one before, no earlier one."""
    decoder = shaken(make("rtdetrv2", num_denoising=0)).train()
    out = decoder(maps())
    out["pred_boxes"].sum().backward()
    learned = [head.layers[-1].bias.grad is not None for head in decoder.dec_bbox_head]
    assert learned == [False, True, True]
    decoder.zero_grad(set_to_none=True)
    decoder(maps())["aux_outputs"][0]["pred_boxes"].sum().backward()
    learned = [head.layers[-1].bias.grad is not None for head in decoder.dec_bbox_head]
    assert learned == [True, False, False]


def test_discrete_sampling_freezes_offsets() -> None:
    decoder = make("rtdetrv2-discrete")
    frozen = {n for n, p in decoder.named_parameters() if not p.requires_grad}
    assert len(frozen) == 6
    assert all("sampling_offsets" in name for name in frozen)


def test_noise_is_scaled_where_the_authors_scale_it(targets: Targets) -> None:
    """`box_noise_scale` moves boxes in RT-DETRv2 only."""
    batch = targets([2, 2])
    for variant, moves in (("rtdetrv2", False), ("dfine", True), ("deimv2", True)):
        decoder = make(variant, box_noise_scale=0.0, label_noise_ratio=0.0).train()
        noisy = decoder._denoising(batch, 10)
        assert noisy is not None
        found = noisy.box_logits.sigmoid()[:, :2]
        true = torch.stack([t.boxes_cxcywh for t in batch])
        assert torch.allclose(found, true, atol=1e-4) is not moves, variant


def test_deim_denoises_as_dfine(targets: Targets) -> None:
    decoder = make("rtdetrv2").train()
    assert decoder(maps(), targets([0, 0]))["dn_meta"]["dn_num_split"] == [2, 10]
    DEIM(nn.Identity(), nn.Identity(), decoder)
    assert decoder.mirror_crossed
    assert decoder(maps(), targets([0, 0]))["dn_meta"]["dn_num_split"] == [0, 10]


def test_first_rtdetr_is_the_second_under_other_names(targets: Targets) -> None:
    first, second = make("rtdetr", num_denoising=0), make("rtdetrv2", num_denoising=0)
    state = {
        key.replace("enc_output.0", "enc_output.proj").replace("enc_output.1", "enc_output.norm"): v
        for key, v in first.state_dict().items()
    }
    missing = second.load_state_dict(state, strict=False)
    assert not missing.unexpected_keys
    constants = ("anchors", "valid_mask", "num_points_scale")
    assert all(key.endswith(constants) for key in missing.missing_keys)
    a, b = first.train()(maps()), second.train()(maps())
    assert torch.equal(a["pred_boxes"], b["pred_boxes"])
    assert "enc_aux_outputs" not in a
    encoder = b["enc_aux_outputs"][0]
    assert torch.equal(a["aux_outputs"][-1]["pred_logits"], encoder["pred_logits"])
    assert len(a["aux_outputs"]) == 3
    named = make("rtdetr", version="v2").state_dict()
    assert "enc_output.proj.weight" in named


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"eval_idx": 3}, "eval_idx: 3 is none of 3 layers"),
        ({"eval_idx": -4}, "eval_idx: -4"),
        ({"nhead": 5}, "hidden_dim: 32 is not divisible by nhead 5"),
        ({"num_points": [4, 4, 4]}, "num_points"),
        ({"num_points": [0, 4]}, "at least one point"),
        ({"feat_strides": [16]}, "feat_strides"),
        ({"feat_channels": [], "feat_strides": []}, "0 feat_channels"),
        ({"num_classes": 0}, "num_classes"),
        ({"cross_attn_method": "discreet"}, "did you mean `discrete`"),
        ({"query_select_method": "agnostik"}, "did you mean `agnostic`"),
        ({"query_pos_method": "as_regg"}, "did you mean `as_reg`"),
    ],
    ids=str,
)
def test_arguments_that_do_not_fit(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=f"RTDETRTransformerv2.*{message}"):
        make("rtdetrv2", **settings)


@pytest.mark.parametrize("variant", ["dfine", "deimv2"])
def test_widths_and_bins_that_do_not_fit(variant: str) -> None:
    with pytest.raises(ConfigError, match=r"layer_scale: layers 1\.1 times as wide have 35"):
        make(variant, layer_scale=1.1)
    for bins in (2, 31):
        with pytest.raises(ConfigError, match=f"reg_max: .* got {bins}"):
            make(variant, reg_max=bins)


def test_registered_under_the_authors_names() -> None:
    for name in ("DFINE", "RTDETR", "DEIM"):
        assert MODULES.get(name).inject == ("backbone", "encoder", "decoder")
    for name in ("DFINETransformer", "DEIMTransformer", "RTDETRTransformerv2"):
        assert MODULES.get(name).share == ("num_classes", "eval_spatial_size")
        assert MODULES.get(name).family == "decoder"
    assert MODULES.get("RTDETRTransformer").share == ("num_classes",)
    processors = {"DFINEPostProcessor", "PostProcessor", "RTDETRPostProcessor"}
    assert len({MODULES.get(name).factory for name in processors}) == 1


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("counts", [[2, 3], [0, 4], [0, 0]], ids=str)
def test_random_negatives_are_more_denoising_queries(
    variant: str, counts: list[int], targets: Targets
) -> None:
    """The ordinary queries answer as without them, and the embedding learns without boxes, too."""
    plain, more = shaken(make(variant)).train(), shaken(make(variant, random_negatives=6)).train()
    wanted = targets(counts)
    torch.manual_seed(3)
    without = plain(maps(), wanted)
    torch.manual_seed(3)
    out = more(maps(), wanted)
    for key in ("pred_logits", "pred_boxes"):
        torch.testing.assert_close(out[key], without[key])
        assert out["dn_outputs"][0][key].shape[1] == without["dn_outputs"][0][key].shape[1] + 6
    assert out["dn_meta"]["dn_random"].shape == (2, 6)
    loss(out).backward()
    assert more.denoising_class_embed.weight.grad.any()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"random_negatives": -1}, "random_negatives: must not be negative, got -1"),
        ({"random_negatives": 5, "num_denoising": 0}, "which `num_denoising: 0` switches off"),
        ({"random_negative_iou": 0.0}, "random_negative_iou: must lie in"),
        ({"random_negative_iou": 1.5}, "random_negative_iou: must lie in"),
    ],
    ids=str,
)
def test_wrong_random_negatives(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make("dfine", **settings)
