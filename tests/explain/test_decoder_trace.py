"""What the trace sees is what the model computes, and seeing it changes nothing."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import nn

from detrkit.errors import UsageError
from detrkit.explain.decoder_trace import (
    Decoded,
    DecoderTrace,
    decoder_of,
    judged_outputs,
    refining_decoder_of,
)
from detrkit.models.decoders.query_selection import make_anchors
from detrkit.models.detector import Detector
from detrkit.structures import Target
from tests.engine.bright import BrightBox
from tests.export.families import FAMILIES, family, inputs

REFINING = tuple(name for name in FAMILIES if name != "rtdetrv2")


def traced(model: Detector, batch: int = 2) -> tuple[dict[str, Any], Decoded]:
    images, _ = inputs(batch)
    with torch.no_grad(), DecoderTrace(model) as trace:
        outputs = model(images)
    return dict(outputs), trace.last


@pytest.mark.parametrize("deployed", [False, True])
@pytest.mark.parametrize("name", FAMILIES)
def test_answers_stay_the_same(name: str, deployed: bool) -> None:
    model = family(name).detector
    model = model.deploy(fold_norms=True) if deployed else model
    images, _ = inputs(2)
    with torch.no_grad():
        plain = model(images)
    outputs, decoded = traced(model)
    for key in ("pred_logits", "pred_boxes"):
        assert torch.equal(outputs[key], plain[key])
    assert torch.equal(decoded.logits, plain["pred_logits"])
    assert torch.equal(decoded.boxes, plain["pred_boxes"])
    hooks = [m for m in model.modules() if m._forward_hooks or m._forward_pre_hooks]
    assert not hooks


@pytest.mark.parametrize("name", FAMILIES)
def test_places_are_those_of_the_best_positions(name: str) -> None:
    """With box heads that say nothing every query starts from the anchor of its place."""
    model = family(name).detector
    head = model.decoder.enc_bbox_head
    before = [p.detach().clone() for p in head.parameters()]
    try:
        head.zero_last()
        _, decoded = traced(model)
    finally:
        for parameter, old in zip(head.parameters(), before, strict=True):
            parameter.data.copy_(old)
    anchors, valid = make_anchors(decoded.shapes)
    assert valid[0, decoded.places].all()
    torch.testing.assert_close(decoded.start, anchors[0, decoded.places].sigmoid())
    ends = [0]
    for h, w in decoded.shapes:
        ends.append(ends[-1] + h * w)
    for level, (first, end) in enumerate(pairwise(ends)):
        inside = (decoded.places >= first) & (decoded.places < end)
        assert torch.equal(inside, decoded.levels == level)


@pytest.mark.parametrize("deployed", [False, True])
@pytest.mark.parametrize("name", REFINING)
def test_distributions_give_the_models_own_boxes(name: str, deployed: bool) -> None:
    model = family(name).detector
    model = model.deploy(fold_norms=True) if deployed else model
    outputs, decoded = traced(model)
    refined = decoded.refined
    assert refined is not None
    assert torch.equal(refined.boxes[-1], outputs["pred_boxes"])
    assert len(refined.corners) == model.decoder.decoder.eval_idx + 1
    probability = refined.corners.softmax(-1)
    expected = (probability * refined.weights).sum(-1)
    torch.testing.assert_close(expected, refined.distances, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("name", FAMILIES)
def test_all_layers_are_judged_without_denoising(name: str) -> None:
    model = family(name).detector
    images, _ = inputs(2)
    targets = [Target(torch.full((2, 4), 0.3), torch.tensor([0, 1])) for _ in range(2)]
    with torch.no_grad():
        plain = model(images)
        modes = [module.training for module in model.modules()]
        denoising = model.decoder.num_denoising
        with judged_outputs(model):
            outputs = model(images, targets)
            norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
            assert not any(norm.training for norm in norms)
    assert [module.training for module in model.modules()] == modes
    assert model.decoder.num_denoising == denoising
    assert "dn_outputs" not in outputs
    assert len(outputs["aux_outputs"]) == model.decoder.settings.num_layers - 1
    torch.testing.assert_close(outputs["pred_boxes"], plain["pred_boxes"], atol=1e-5, rtol=1e-4)


def test_what_has_no_distributions_says_so() -> None:
    with pytest.raises(UsageError, match="predicts boxes directly"):
        refining_decoder_of(family("rtdetrv2").detector)
    assert traced(family("rtdetrv2").detector)[1].refined is None


def test_a_foreign_decoder_says_so() -> None:
    with pytest.raises(UsageError, match="cannot be looked into"):
        decoder_of(BrightBox())


def test_nothing_was_decoded() -> None:
    trace = DecoderTrace(family("deimv2_hgnet").detector)
    with pytest.raises(RuntimeError, match="nothing was decoded"):
        _ = trace.last
