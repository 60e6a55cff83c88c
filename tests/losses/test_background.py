"""The weight of background queries, and random negatives: what they change, and what not."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from detrkit.errors import ConfigError
from tests.losses.cases import FAMILIES, leaves, make_criterion, make_outputs, make_targets

CLASS_TERMS = {"vfl": "loss_vfl", "mal": "loss_mal", "focal": "loss_focal"}


def focal(**options: Any) -> Any:
    return make_criterion(losses=["focal"], weight_dict={"loss_focal": 1.0}, **options)


def mean_of(kind: str, logits: torch.Tensor) -> torch.Tensor:
    """Class loss per query where no class is present, from the equations of the losses."""
    p = logits.sigmoid()
    alpha, gamma = {"vfl": (0.75, 2.0), "mal": (1.0, 1.5), "focal": (0.25, 2.0)}[kind]
    return (-alpha * p**gamma * torch.log1p(-p)).sum(-1)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("sizes", [[3, 4], [0, 2], [0, 0]], ids=str)
def test_one_is_as_without(family: str, sizes: list[int]) -> None:
    outputs, targets = make_outputs(sizes), make_targets(sizes)
    plain = make_criterion(family)(outputs, targets)
    weighed = make_criterion(family, bg_loss_weight=1.0)(outputs, targets)
    assert plain.keys() == weighed.keys()
    assert all(torch.equal(plain[name], weighed[name]) for name in plain)


@settings(max_examples=20, deadline=None)
@given(
    kind=st.sampled_from(["vfl", "mal", "focal"]),
    sizes=st.lists(st.integers(0, 4), min_size=1, max_size=3),
    weight=st.floats(0.0, 5.0),
)
def test_the_equation(kind: str, sizes: list[int], weight: float) -> None:
    """L(w) = L(1) + (w - 1)/N · sum over unmatched queries; box terms stay."""
    outputs, targets = make_outputs(sizes), make_targets(sizes)

    def criterion(w: float) -> Any:
        terms = {CLASS_TERMS[kind]: 1.0, "loss_bbox": 1.0, "loss_giou": 1.0}
        own = {"gamma": 1.5} if kind == "mal" else {}
        if kind == "mal":
            own |= {"losses": ["mal", "boxes"]}
            return make_criterion("deim", weight_dict=terms, bg_loss_weight=w, **own)
        own |= {"losses": [kind, "boxes"]}
        return make_criterion("dfine", weight_dict=terms, bg_loss_weight=w, **own)

    judge = criterion(1.0)
    base, other = judge(outputs, targets), criterion(weight)(outputs, targets)
    matched = judge.match(outputs, targets)
    for suffix, output in (("", outputs), ("_aux_0", outputs["aux_outputs"][0])):
        logits = output["pred_logits"].detach().flatten(0, 1)
        unmatched = torch.ones(len(logits), dtype=torch.bool)
        unmatched[torch.from_numpy(matched.own[suffix].queries)] = False
        alpha = 1.0
        if kind == "focal":  # the family's alpha is that of what is present: 1 - alpha elsewhere
            alpha = (1 - judge.alpha) / 0.25
        background = mean_of(kind, logits)[unmatched].sum() * alpha / max(sum(sizes), 1)
        name = CLASS_TERMS[kind] + suffix
        expected = base[name] + (weight - 1) * background
        torch.testing.assert_close(other[name], expected, rtol=1e-4, atol=1e-6)
    for name in base:
        if "bbox" in name or "giou" in name:
            assert torch.equal(base[name], other[name])


def test_a_weight_below_zero_is_refused() -> None:
    with pytest.raises(ConfigError, match="bg_loss_weight: must not be negative, got -1"):
        make_criterion(bg_loss_weight=-1.0)
    with pytest.raises(ConfigError, match="bg_loss_weight"):
        make_criterion(bg_loss_weight=float("nan"))


@pytest.mark.parametrize("family", ["dfine", "deim", "deim_own"])
@pytest.mark.parametrize("sizes", [[3, 4], [0, 2], [0, 0]], ids=str)
def test_random_negatives_add_class_losses_and_nothing_else(family: str, sizes: list[int]) -> None:
    outputs = make_outputs(sizes, negatives=5)
    without = {**outputs, "dn_meta": {**outputs["dn_meta"]}}
    del without["dn_meta"]["dn_random"]
    for key in ("dn_outputs", "dn_pre_outputs"):
        value = without[key]
        layers = [value] if isinstance(value, dict) else value
        cut = [{k: v[:, : v.shape[1] - 5] for k, v in layer.items()} for layer in layers]
        without[key] = cut[0] if isinstance(value, dict) else cut
    criterion, targets = make_criterion(family), make_targets(sizes)
    ours, plain = criterion(outputs, targets), criterion(without, targets)
    assert all(torch.equal(ours[name], plain[name]) for name in plain)
    term = "loss_vfl" if family == "dfine" else "loss_mal"
    assert set(ours) - set(plain) == {f"{term}_neg_{i}" for i in (0, 1, 2, "pre")}
    logits = outputs["dn_outputs"][1]["pred_logits"].detach()[:, -4:]  # the first does not count
    expected = mean_of("vfl" if family == "dfine" else "mal", logits).sum() / (5 * len(sizes))
    torch.testing.assert_close(ours[f"{term}_neg_1"], expected)


def test_random_negatives_that_do_not_count_teach_nothing_and_boxes_never() -> None:
    outputs = make_outputs([2, 0], negatives=3)
    losses = make_criterion()(outputs, make_targets([2, 0]))
    torch.stack([v for n, v in losses.items() if "_neg_" in n]).sum().backward()
    layer = outputs["dn_outputs"][0]
    gradient = layer["pred_logits"].grad
    assert gradient[:, -2:].abs().sum() > 0
    assert not gradient[:, :-2].any()
    for leaf in (layer["pred_boxes"], layer["pred_corners"]):
        assert leaf.grad is None or not leaf.grad.any()


def test_random_negatives_take_part_in_the_graph() -> None:
    outputs = make_outputs([0, 0], negatives=3)
    torch.stack(list(make_criterion()(outputs, make_targets([0, 0])).values())).sum().backward()
    for leaf in leaves(outputs):
        assert leaf.grad is not None
        assert leaf.grad.isfinite().all()


def test_parts_add_up_to_the_batch() -> None:
    """Gradient accumulation: the mean is over the whole batch."""
    outputs, targets = make_outputs([0, 0], negatives=4), make_targets([0, 0])
    criterion = make_criterion()
    whole = criterion.measure(targets, [], outputs)
    parts = [
        criterion(_of_image(outputs, i), targets[i : i + 1], whole=whole)["loss_vfl_neg_0"]
        for i in range(2)
    ]
    torch.testing.assert_close(sum(parts), criterion(outputs, targets)["loss_vfl_neg_0"])


def _of_image(value: Any, image: int) -> Any:
    """The part of the outputs that belongs to one image."""
    if isinstance(value, dict):
        return {key: _of_image(item, image) for key, item in value.items()}
    if isinstance(value, list):
        return [item if isinstance(item, int) else _of_image(item, image) for item in value]
    is_batched = isinstance(value, torch.Tensor) and value.ndim > 1
    return value[image : image + 1] if is_batched else value
