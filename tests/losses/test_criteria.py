"""What the families' criteria have in common, and what each has of its own."""

from __future__ import annotations

import logging
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from detrkit.losses.fgl import fgl_loss
from detrkit.losses.matches import Pairs
from detrkit.ops.boxes import cxcywh_to_xyxy, paired_iou
from detrkit.ops.distribution import bbox2distance
from detrkit.registry import MODULES
from tests.losses.cases import (
    FAMILIES,
    OUTPUTS,
    leaves,
    make_criterion,
    make_matcher,
    make_outputs,
    make_rtdetr_outputs,
    make_targets,
)


def total(losses: dict[str, Tensor]) -> Tensor:
    return torch.stack(list(losses.values())).sum()


def as_sets(pairs: Pairs) -> set[tuple[int, int]]:
    return set(zip(pairs.queries.tolist(), pairs.targets.tolist(), strict=True))


@pytest.mark.parametrize("name", sorted({name for name, _ in FAMILIES.values()}))
def test_registered_under_the_authors_names(name: str) -> None:
    assert MODULES.get(name).inject == ("matcher",)
    assert MODULES.get(name).share == ("num_classes",)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("sizes", [[3, 4], [0, 4], [0, 0], [30]], ids=str)
@pytest.mark.parametrize("family", FAMILIES)
def test_every_prediction_learns_and_nothing_overflows(
    family: str, sizes: list[int], dtype: torch.dtype
) -> None:
    outputs = OUTPUTS[family](sizes)
    if family == "rtdetr":  # its encoder is the last of the auxiliary outputs
        outputs["aux_outputs"] += outputs.pop("enc_aux_outputs")
    for leaf in leaves(outputs):
        leaf.data = leaf.data.to(dtype)
    losses = make_criterion(family)(outputs, make_targets(sizes))
    total(losses).backward()
    assert all(value.dtype == torch.float32 and value.isfinite() for value in losses.values())
    for leaf in leaves(outputs):
        assert leaf.grad is not None  # also where it is zero: processes must agree
        assert leaf.grad.isfinite().all()


@pytest.mark.parametrize("extreme", [-60000.0, 60000.0])
@pytest.mark.parametrize("losses", ["vfl", "mal", "focal"])
def test_class_losses_of_extreme_half_precision_scores_have_finite_gradients(
    losses: str, extreme: float
) -> None:
    outputs = make_rtdetr_outputs([2, 0])
    for layer in [outputs, *outputs["aux_outputs"]]:
        layer["pred_logits"] = torch.full((2, 12, 5), extreme).half().requires_grad_()
    weights = {f"loss_{losses}": 1e-4}
    for gamma in (0.5, 2.0):
        criterion = make_criterion("deim_own", losses=[losses], weight_dict=weights, gamma=gamma)
        value = total(criterion(outputs, make_targets([2, 0])))
        value.backward()
        assert value.isfinite()
        assert outputs["pred_logits"].grad.isfinite().all()


def test_a_teacher_reports_a_loss_of_zero_in_dfine_and_none_in_deim() -> None:
    outputs, targets = make_outputs([2, 3]), make_targets([2, 3])
    dfine, deim = (make_criterion(f)(outputs, targets) for f in ("dfine", "deim"))
    assert dfine["loss_ddf_dn_2"] == 0
    assert {name for name in dfine if "vfl" not in name} - set(deim) == {"loss_ddf_dn_2"}
    assert {name for name in deim if "mal" not in name} <= set(dfine)
    for name in set(deim) & set(dfine):
        assert torch.equal(deim[name], dfine[name])  # one implementation serves both


def test_own_matches_of_deim_are_those_of_rtdetr() -> None:
    outputs, targets = make_rtdetr_outputs([5, 3]), make_targets([5, 3])
    deim = make_criterion("deim_own", losses=["vfl", "boxes"], gamma=2.0)(outputs, targets)
    rtdetr = make_criterion("rtdetrv2")(outputs, targets)
    assert set(deim) == set(rtdetr)
    assert all(torch.equal(deim[name], rtdetr[name]) for name in deim)


def test_a_union_changes_box_losses_only() -> None:
    outputs, targets = make_outputs([6, 5]), make_targets([6, 5])
    union, own = (
        make_criterion("deim", losses=["mal", "boxes"], use_uni_set=use)(outputs, targets)
        for use in (True, False)
    )
    assert set(union) == set(own)
    for name in union:
        same = "mal" in name or "_dn_" in name
        assert torch.equal(union[name], own[name]) == same, name


def test_shared_matches_are_those_of_the_last_decoder_layer() -> None:
    outputs, targets = make_rtdetr_outputs([5, 5]), make_targets([5, 5])
    each = make_criterion("rtdetrv2").match(outputs, targets).own
    shared = make_criterion("rtdetrv2", share_matched_indices=True).match(outputs, targets).own
    assert list(shared) == list(each)
    for suffix, pairs in shared.items():
        expected = each["_enc_0" if suffix == "_enc_0" else ""]
        assert as_sets(pairs) == as_sets(expected)
    assert as_sets(each["_aux_0"]) != as_sets(each[""])


@pytest.mark.parametrize("family", ["dfine", "deim"])
def test_sharing_has_no_effect_where_the_authors_code_ignores_it(family: str) -> None:
    outputs, targets = make_outputs([5, 5]), make_targets([5, 5])
    plain = make_criterion(family)(outputs, targets)
    shared = make_criterion(family, share_matched_indices=True)(outputs, targets)
    assert all(torch.equal(plain[name], shared[name]) for name in plain)


def test_denoising_outputs_count_under_either_name() -> None:
    outputs, targets = make_rtdetr_outputs([2, 3]), make_targets([2, 3])
    criterion = make_criterion("rtdetrv2")
    losses = criterion(outputs, targets)
    outputs["dn_outputs"] = outputs.pop("dn_aux_outputs")
    renamed = criterion(outputs, targets)
    assert "loss_vfl_dn_0" in losses
    assert all(torch.equal(losses[name], renamed[name]) for name in losses)


def test_denoising_of_rtdetr_without_boxes_costs_its_scores_only() -> None:
    losses = make_criterion("rtdetrv2")(make_rtdetr_outputs([0, 0]), make_targets([0, 0]))
    assert losses["loss_vfl_dn_0"] > 0
    assert losses["loss_bbox_dn_0"] == losses["loss_giou_dn_0"] == 0


def test_deim_without_denoising_outputs() -> None:
    outputs = make_outputs([0, 0])
    for key in ("dn_outputs", "dn_pre_outputs", "dn_meta"):
        del outputs[key]
    losses = make_criterion("deim")(outputs, make_targets([0, 0]))
    assert not any("dn" in name for name in losses)
    assert all(value.isfinite() for value in losses.values())


def test_distributions_without_union_learn_the_last_layer_s_targets(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The authors' behaviour, of which the constructor warns."""
    with caplog.at_level(logging.WARNING, logger="detrkit"):
        criterion = make_criterion("deim", use_uni_set=False)
    assert "use_uni_set" in caplog.text
    outputs, targets = make_outputs([4, 4]), make_targets([4, 4])
    losses = criterion(outputs, targets)

    own = criterion.match(outputs, targets).own
    last, pairs = own[""], own["_aux_0"]
    assert last.targets.tolist() != pairs.targets.tolist()
    true = cxcywh_to_xyxy(torch.cat([target.boxes_cxcywh for target in targets]))
    references = outputs["ref_points"].flatten(0, 1)[last.queries]
    edges = bbox2distance(
        references, true[last.targets], 8, outputs["reg_scale"], outputs["up"]
    )  # the last layer's, pair by pair
    layer = outputs["aux_outputs"][0]
    boxes = cxcywh_to_xyxy(layer["pred_boxes"].flatten(0, 1)[pairs.queries])
    corners = layer["pred_corners"].reshape(-1, 4, 9)[pairs.queries]
    loss = fgl_loss(corners[None], edges, paired_iou(boxes, true[pairs.targets])[None])
    torch.testing.assert_close(losses["loss_fgl_aux_0"], 0.15 * loss[0] / 8)


def test_mal_alpha_weighs_the_background() -> None:
    outputs, targets = make_rtdetr_outputs([0, 0]), make_targets([0, 0])
    plain = make_criterion("deim_own")(outputs, targets)
    half = make_criterion("deim_own", mal_alpha=0.5)(outputs, targets)
    torch.testing.assert_close(half["loss_mal"], plain["loss_mal"] / 2)


def test_the_weight_format_is_the_quality_of_mal() -> None:
    outputs, targets = make_rtdetr_outputs([4, 4]), make_targets([4, 4])
    plain, iou, giou = (
        make_criterion("deim_own", boxes_weight_format=f)(outputs, targets)
        for f in (None, "iou", "giou")
    )
    assert torch.equal(plain["loss_mal"], iou["loss_mal"])
    assert giou["loss_mal"].isfinite()
    assert giou["loss_mal"] != iou["loss_mal"]
    assert iou["loss_giou"] < plain["loss_giou"]


class Waits(TorchDispatchMode):
    """Counts operations whose result the host has to wait for on an accelerator."""

    NAMES = (
        "_local_scalar_dense",
        "nonzero",
        "masked_select",
        "equal",
        "unique",
        "_unique",
        "is_nonzero",
    )

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        indices = args[1] if name in ("index", "index_put", "index_put_") else ()
        masked = any(index is not None and index.dtype == torch.bool for index in indices)
        if masked or name.startswith(self.NAMES):
            self.found.append(name)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("sizes", [[3, 4], [0, 2]], ids=str)
@pytest.mark.parametrize("epoch", [0, 9])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_step_waits_for_the_device_once(
    monkeypatch: pytest.MonkeyPatch, family: str, epoch: int, sizes: list[int]
) -> None:
    outputs, targets = OUTPUTS[family](sizes), make_targets(sizes)
    matcher = make_matcher(change_matcher=True, iou_order_alpha=4.0, matcher_change_epoch=9)
    criterion = make_criterion(family, matcher=matcher)
    transfers = []
    to_host = Tensor.cpu
    monkeypatch.setattr(Tensor, "cpu", lambda x: transfers.append(x.shape) or to_host(x))
    with Waits() as waits:
        losses = criterion(outputs, targets, epoch)
        torch.stack(list(losses.values())).sum().backward()
    assert len(transfers) == 1
    assert waits.found == []
