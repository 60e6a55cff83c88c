"""The detector as a whole: sizes, modes, copies, gradients, export."""

from __future__ import annotations

import copy
import io
from collections.abc import Callable

import pytest
import torch
from torch import nn

from detrkit import build_model
from detrkit.models.decoders.query_selection import make_anchors, select_positions, take
from detrkit.models.detector import Detector
from detrkit.structures import Target
from tests.models.outputs import loss, tensors

Tiny = Callable[..., Detector]
Targets = Callable[[list[int]], list[Target]]


@pytest.mark.parametrize("size", [(64, 96), (96, 64), (128, 128), (75, 101), (33, 257)])
@torch.no_grad()
def test_any_size(tiny: Tiny, size: tuple[int, int]) -> None:
    out = tiny().eval()(torch.rand(2, 3, *size))
    assert out["pred_logits"].shape == (2, 10, 5)
    assert out["pred_boxes"].shape == (2, 10, 4)
    assert all(t.isfinite().all() for t in tensors(out))


@torch.no_grad()
def test_fewer_positions_than_queries(tiny: Tiny, targets: Targets) -> None:
    model = tiny(num_queries=300)
    images = torch.rand(2, 3, 64, 64)  # 4 * 4 + 2 * 2 positions
    assert model.eval()(images)["pred_logits"].shape == (2, 20, 5)
    out = model.train()(images, targets([2, 1]))
    assert out["pred_logits"].shape == (2, 20, 5)
    assert out["dn_meta"]["dn_num_split"][1] == 20


def test_checkpoint_of_another_input_size_loads(tiny: Tiny) -> None:
    model = tiny(eval_spatial_size=[128, 64])
    anchors = model.decoder.anchors.clone()
    model.load_state_dict(tiny().state_dict())
    assert torch.equal(model.decoder.anchors, anchors)


@torch.no_grad()
def test_images_of_a_batch_are_independent(tiny: Tiny) -> None:
    model = tiny().eval()
    images = torch.rand(3, 3, 64, 96)
    together = model(images)["pred_boxes"]
    alone = torch.cat([model(image[None])["pred_boxes"] for image in images])
    assert torch.allclose(together, alone, atol=1e-5)


@torch.no_grad()
def test_copies_and_saved_models_are_the_same(tiny: Tiny) -> None:
    model = tiny().eval()
    images = torch.rand(1, 3, 96, 96)
    expected = model(images)["pred_logits"]
    assert torch.equal(copy.deepcopy(model)(images)["pred_logits"], expected)
    buffer = io.BytesIO()
    torch.save(model.state_dict(), buffer)
    buffer.seek(0)
    other = tiny().eval()
    for parameter in other.parameters():
        parameter.zero_() if parameter.is_floating_point() else None
    other.load_state_dict(torch.load(buffer, weights_only=True))
    assert torch.equal(other(images)["pred_logits"], expected)


@torch.no_grad()
def test_deploy_answers_the_same_and_leaves_the_model(tiny: Tiny) -> None:
    torch.manual_seed(3)
    model = tiny(eval_idx=1)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(std=0.1)
            module.running_var.uniform_(0.5, 1.5)
    model.train()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    deployed = model.deploy()
    assert model.training
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    images = torch.rand(2, 3, 64, 96)
    for a, b in zip(tensors(deployed(images)), tensors(model.eval()(images)), strict=True):
        assert torch.allclose(a, b, atol=1e-4)
    assert len(deployed.decoder.decoder.layers) == 2
    assert not any(p.requires_grad for p in deployed.parameters())
    again = deployed.deploy()  # nothing left to fuse
    assert torch.equal(again(images)["pred_logits"], deployed(images)["pred_logits"])
    assert any(isinstance(m, nn.BatchNorm2d) for m in deployed.backbone.modules())


@torch.no_grad()
@pytest.mark.parametrize(
    "name", ["dfine_n_coco", "rtdetrv2_hgnetv2_l_6x_coco", "deim_r18vd_120e_coco"]
)
def test_folded_norms_answer_the_same(name: str) -> None:
    model = build_model(name).eval().double()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None
            assert module.running_var is not None
            module.running_mean.normal_(std=0.1)
            module.running_var.uniform_(0.5, 1.5)
    folded = model.deploy(fold_norms=True)
    assert not any(isinstance(m, nn.BatchNorm2d) for m in folded.modules())
    images = torch.rand(1, 3, 96, 64, dtype=torch.float64)
    theirs, ours = (m.encoder(m.backbone(images)) for m in (model, folded))
    for a, b in zip(ours, theirs, strict=True):
        assert torch.allclose(a, b, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("counts", [[2, 3], [0, 0]])
def test_every_parameter_learns(tiny: Tiny, targets: Targets, counts: list[int]) -> None:
    model = tiny(num_denoising=6).train()
    # heads that start at zero would hide what lies behind them
    for name, parameter in model.named_parameters():
        if parameter.requires_grad and not parameter.any():
            nn.init.normal_(parameter, std=0.1)
        assert parameter.requires_grad == (name not in ("decoder.up", "decoder.reg_scale"))
    out = model(torch.rand(2, 3, 64, 96), targets(counts))
    assert all(t.isfinite().all() for t in tensors(out))
    assert len(out["dn_outputs"]) == 3
    assert len(out["aux_outputs"]) == 2
    loss(out).backward()
    silent = [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None]
    assert not silent  # distributed training waits for every one of them
    zero = [n for n, p in model.named_parameters() if p.requires_grad and not p.grad.any()]
    allowed = ["decoder.denoising_class_embed.weight"] if sum(counts) == 0 else []
    assert zero == allowed


def test_training_needs_targets_for_denoising(tiny: Tiny) -> None:
    with pytest.raises(ValueError, match="needs targets"):
        tiny().train()(torch.rand(1, 3, 64, 64))


def test_training_after_inference_mode(tiny: Tiny, targets: Targets) -> None:
    """Cached constants of evaluation must serve in training."""
    model = tiny(eval_spatial_size=None)
    images = torch.rand(2, 3, 64, 96)
    with torch.inference_mode():
        model.eval()(images)
    loss(model.train()(images, targets([1, 2]))).backward()


def test_selection_scores_all_positions_but_differentiates_few(tiny: Tiny) -> None:
    """The selected positions have the values and gradients of the plain computation."""
    decoder = tiny(num_denoising=0).decoder.train()
    nn.init.normal_(decoder.enc_bbox_head.layers[-1].weight)
    shapes = [(6, 4), (3, 2)]
    memory = torch.randn(2, 30, 32, requires_grad=True)
    content, boxes, logits = decoder._select(memory, shapes, 10)
    (content.sin().sum() + boxes.sigmoid().sum() + logits.sin().sum()).backward()
    found = {n: p.grad.clone() for n, p in decoder.named_parameters() if p.grad is not None}
    found["memory"] = memory.grad.clone()

    decoder.zero_grad(set_to_none=True)
    memory.grad = None
    anchors, valid = make_anchors(shapes)
    scored = decoder.enc_output(memory * valid)
    every = decoder.enc_score_head(scored)
    index = select_positions(every, 10)
    plain = take(scored, index), take(every, index)
    box = decoder.enc_bbox_head(plain[0]) + take(anchors.expand(len(index), -1, -1), index)
    (plain[0].sin().sum() + box.sigmoid().sum() + plain[1].sin().sum()).backward()
    assert torch.allclose(plain[0], content, atol=1e-5)
    assert torch.allclose(plain[1], logits, atol=1e-5)
    assert torch.allclose(memory.grad, found.pop("memory"), atol=1e-5)
    names = {n for n, p in decoder.named_parameters() if p.grad is not None}
    assert names == set(found)
    for name, parameter in decoder.named_parameters():
        if name in found:
            assert torch.allclose(parameter.grad, found[name], atol=1e-4), name


@torch.no_grad()
def test_exports(tiny: Tiny) -> None:
    model = tiny().deploy()
    images = torch.rand(1, 3, 64, 96)
    exported = torch.export.export(model, (images,)).module()
    for a, b in zip(tensors(exported(images)), tensors(model(images)), strict=True):
        assert torch.allclose(a, b, atol=1e-4)
