"""The criterion: laws that hold for any outputs, images without boxes, and clear mistakes."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, distributed, multiprocessing

from detrkit.errors import ConfigError
from detrkit.losses.criterion import SetCriterion
from detrkit.structures import Target
from tests.losses.cases import leaves, make_criterion, make_outputs, make_targets


def run(
    sizes: list[int], criterion: SetCriterion | None = None, **options: Any
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    outputs = make_outputs(sizes, **options)
    return (criterion or make_criterion())(outputs, make_targets(sizes)), outputs


def test_names_are_the_authors() -> None:
    losses, _ = run([2, 3])
    terms = {
        "": ["vfl", "bbox", "giou", "fgl"],
        "_aux_0": ["vfl", "bbox", "giou", "fgl", "ddf"],
        "_aux_1": ["vfl", "bbox", "giou", "fgl", "ddf"],
        "_pre": ["vfl", "bbox", "giou"],
        "_enc_0": ["vfl", "bbox", "giou"],
        "_dn_0": ["vfl", "bbox", "giou", "fgl", "ddf"],
        "_dn_1": ["vfl", "bbox", "giou", "fgl", "ddf"],
        "_dn_2": ["vfl", "bbox", "giou", "fgl", "ddf"],
        "_dn_pre": ["vfl", "bbox", "giou"],
    }
    assert list(losses) == [f"loss_{t}{suffix}" for suffix in terms for t in terms[suffix]]
    assert all(value.shape == () and value.dtype == torch.float32 for value in losses.values())
    assert losses["loss_ddf_dn_2"] == 0  # the teacher itself


@pytest.mark.parametrize("sizes", [[3, 4], [0, 4], [0, 0], [30]], ids=str)
def test_every_prediction_learns(sizes: list[int]) -> None:
    losses, outputs = run(sizes)
    total = torch.stack(list(losses.values())).sum()
    assert total.isfinite()
    total.backward()
    for leaf in leaves(outputs):
        assert leaf.grad is not None  # also where it is zero: processes must agree
        assert leaf.grad.isfinite().all()
    assert all(value >= 0 for value in losses.values())


def test_without_boxes_only_scores_and_distillation_cost() -> None:
    losses, _ = run([0, 0])
    costly = {name for name, value in losses.items() if value > 0}
    assert costly == {
        "loss_vfl", "loss_vfl_aux_0", "loss_vfl_aux_1", "loss_vfl_pre", "loss_vfl_enc_0",
        "loss_ddf_aux_0", "loss_ddf_aux_1",
    }  # fmt: skip


def test_teachers_learn_nothing_from_their_students() -> None:
    criterion = make_criterion(weight_dict={"loss_ddf": 1.0})
    losses, outputs = run([2, 3], criterion)
    torch.stack(list(losses.values())).sum().backward()
    assert outputs["pred_corners"].grad is None or outputs["pred_corners"].grad.abs().sum() == 0
    assert outputs["pred_logits"].grad is None or outputs["pred_logits"].grad.abs().sum() == 0
    assert outputs["aux_outputs"][0]["pred_corners"].grad.abs().sum() > 0


@pytest.mark.parametrize("union", [True, False])
def test_order_of_targets_does_not_matter(union: bool) -> None:
    sizes = [5, 4]
    outputs, targets = make_outputs(sizes), make_targets(sizes)
    del outputs["dn_outputs"], outputs["dn_pre_outputs"]  # these are made in the targets' order
    shuffled = [Target(t.boxes_cxcywh.flip(0), t.labels.flip(0)) for t in targets]
    criterion = make_criterion("deim" if union else "deim_own")
    a, b = criterion(outputs, targets), criterion(outputs, shuffled)
    # Where layers disagree with equal votes, the union keeps the first box: only then it matters.
    for name in [name for name in a if "mal" in name] if union else a:
        torch.testing.assert_close(a[name], b[name])


def test_the_same_step_twice_is_identical() -> None:
    outputs, targets = make_outputs([30, 7]), make_targets([30, 7])
    criterion = make_criterion()
    a, b = criterion(outputs, targets), criterion(outputs, targets)
    assert all(torch.equal(a[name], b[name]) for name in a)


def test_perfect_boxes_cost_nothing() -> None:
    sizes = [3, 2]
    outputs, targets = make_outputs(sizes), make_targets(sizes)
    criterion = make_criterion("deim_own")
    pairs = criterion.match(outputs, targets).box_pairs
    true = torch.cat([t.boxes_cxcywh for t in targets])
    with torch.no_grad():
        outputs["pred_boxes"].flatten(0, 1)[pairs.queries] = true[pairs.targets]
    losses = criterion(outputs, targets)
    assert losses["loss_bbox"] < 1e-6
    assert losses["loss_giou"] < 1e-5
    assert losses["loss_bbox_aux_0"] > 0.1


def test_half_precision_outputs_give_single_precision_losses() -> None:
    outputs = make_outputs([2, 3])
    for layer in [outputs, *outputs["aux_outputs"], *outputs["dn_outputs"]]:
        for key in ("pred_logits", "pred_corners", "teacher_corners", "teacher_logits"):
            if key in layer:
                layer[key] = layer[key].bfloat16()
    losses = make_criterion()(outputs, make_targets([2, 3]))
    assert all(value.dtype == torch.float32 and value.isfinite() for value in losses.values())


def test_a_loss_that_is_not_finite_is_not_hidden() -> None:
    outputs = make_outputs([2])
    outputs["pred_logits"] = outputs["pred_logits"] * float("nan")
    assert make_criterion()(outputs, make_targets([2]))["loss_vfl"].isnan()


def test_an_encoder_that_scores_objects_only() -> None:
    outputs = make_outputs([2, 3])
    encoder = outputs["enc_aux_outputs"][0]
    encoder["pred_logits"] = encoder["pred_logits"].detach()[..., :1]
    outputs["enc_meta"] = {"class_agnostic": True}
    assert make_criterion()(outputs, make_targets([2, 3]))["loss_vfl_enc_0"] > 0


@pytest.mark.parametrize("weight_format", ["iou", "giou"])
def test_weighted_boxes_cost_less_where_they_overlap_less(weight_format: str) -> None:
    plain, _ = run([4, 4])
    weighted, _ = run([4, 4], make_criterion(boxes_weight_format=weight_format))
    assert weighted["loss_giou"] < plain["loss_giou"]
    assert weighted["loss_bbox"] == plain["loss_bbox"]
    assert (weighted["loss_vfl"] == plain["loss_vfl"]) == (weight_format == "iou")


def test_terms_without_weight_are_left_out_and_weights_scale() -> None:
    plain, _ = run([2, 3], make_criterion(weight_dict={"loss_vfl": 1.0, "loss_giou": 2.0}))
    double, _ = run([2, 3], make_criterion(weight_dict={"loss_vfl": 2.0, "loss_giou": 4.0}))
    assert {name.split("_")[1] for name in plain} == {"vfl", "giou"}
    for name in plain:
        torch.testing.assert_close(double[name], 2 * plain[name])


def test_focal_in_place_of_vfl() -> None:
    criterion = make_criterion(losses=["focal"], weight_dict={"loss_focal": 1.0})
    losses, _ = run([2, 3], criterion)
    assert len(losses) == 9
    assert all(value > 0 for value in losses.values())


@pytest.mark.parametrize("outputs", [make_outputs([2], layers=1)], ids=["one layer"])
def test_a_single_layer_and_no_denoising(outputs: dict[str, Any]) -> None:
    for key in ("dn_outputs", "dn_pre_outputs", "dn_meta"):
        del outputs[key]
    losses = make_criterion()(outputs, make_targets([2]))
    assert not any("ddf" in name or "dn" in name or "aux" in name for name in losses)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"losses": ["vfl", "box"]}, "losses: unknown `box`, did you mean `boxes`"),
        ({"weight_dict": {"loss_gio": 1}}, "unknown `loss_gio`, did you mean `loss_giou`"),
        ({"boxes_weight_format": "diou"}, "boxes_weight_format: unknown `diou`"),
    ],
)
def test_mistakes_are_explained(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make_criterion(**options)


def test_the_normalisers_are_averaged_over_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    """This process beside one without boxes."""
    reduced = []
    alone, _ = run([4, 2])
    monkeypatch.setattr(distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(distributed, "get_world_size", lambda: 2)
    monkeypatch.setattr(distributed, "all_reduce", lambda counts: reduced.append(counts.clone()))
    together, _ = run([4, 2])
    empty, _ = run([0, 0])
    assert len(reduced) == 2  # one collective per step, also without boxes
    assert reduced[0][0] == 6
    assert reduced[1].tolist() == [0, 0]
    for name in ("loss_vfl", "loss_bbox", "loss_giou_aux_0", "loss_fgl_dn_0"):
        torch.testing.assert_close(together[name], 2 * alone[name])  # half as many boxes each
    assert all(value.isfinite() for value in empty.values())


def _process(rank: int, folder: str) -> None:
    """One of two training processes; the second has no boxes."""
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    torch.set_num_threads(1)
    store = distributed.FileStore(f"{folder}/store", 2)
    distributed.init_process_group("gloo", store=store, rank=rank, world_size=2)
    losses, outputs = run([4, 2] if rank == 0 else [0, 0])
    torch.stack(list(losses.values())).sum().backward()
    assert all(leaf.grad is not None for leaf in leaves(outputs))
    torch.save({k: v.detach() for k, v in losses.items()}, f"{folder}/{rank}.pt")
    distributed.destroy_process_group()


@pytest.mark.slow
def test_processes_share_their_normalisers(tmp_path: Path) -> None:
    multiprocessing.spawn(_process, (str(tmp_path),), nprocs=2)
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in (0, 1))
    alone, _ = run([4, 2])
    empty, _ = run([0, 0])
    assert set(first) == set(second) == set(alone)
    for name in ("loss_vfl", "loss_bbox", "loss_giou_aux_0", "loss_fgl_dn_0"):
        torch.testing.assert_close(first[name], 2 * alone[name])  # half as many boxes on average
    torch.testing.assert_close(second["loss_vfl"], empty["loss_vfl"] / 3)  # 6 boxes, 2 processes
