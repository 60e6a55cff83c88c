"""The matcher: costs against the equation, assignments against brute force."""

from __future__ import annotations

from itertools import permutations
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linear_sum_assignment

from detrkit.errors import ConfigError, DataError
from detrkit.losses.matcher import HungarianMatcher
from detrkit.ops.boxes import box_iou, cxcywh_to_xyxy, generalized_box_iou
from detrkit.structures import Target
from tests.losses.cases import make_boxes, make_matcher, make_outputs, make_targets


def naive_cost(
    output: dict[str, torch.Tensor], image: int, target: Target, focal: bool = True
) -> torch.Tensor:
    """The equation in the matcher's docstring, (Q, boxes)."""
    logits = output["pred_logits"][image].detach().double()
    predicted = output["pred_boxes"][image].detach().double()
    true = target.boxes_cxcywh.double()
    if focal:
        p = logits.sigmoid()[:, target.labels]
        positive = 0.25 * (1 - p) ** 2 * -(p + 1e-8).log()
        negative = 0.75 * p**2 * -(1 - p + 1e-8).log()
        of_class = positive - negative
    else:
        of_class = -logits.softmax(-1)[:, target.labels]
    distance = torch.cdist(predicted, true, p=1)
    giou = generalized_box_iou(cxcywh_to_xyxy(predicted), cxcywh_to_xyxy(true))
    return 2 * of_class + 5 * distance - 2 * giou


@pytest.mark.parametrize("focal", [True, False])
def test_cost_is_the_equation(focal: bool) -> None:
    sizes = [3, 0, 4]
    output, targets = make_outputs(sizes), make_targets(sizes)
    with torch.no_grad():
        costs = make_matcher(use_focal_loss=focal)._costs([output], targets, sizes)[0]
    np.testing.assert_allclose(costs[:3].T, naive_cost(output, 0, targets[0], focal), atol=2e-6)
    np.testing.assert_allclose(costs[3:].T, naive_cost(output, 2, targets[2], focal), atol=2e-6)


def naive_order_cost(
    output: dict[str, torch.Tensor], image: int, target: Target, order: float, focal: bool = True
) -> torch.Tensor:
    """Minus the score times the IoU to the power of `order`, (Q, boxes)."""
    logits = output["pred_logits"][image].detach().double()
    predicted = cxcywh_to_xyxy(output["pred_boxes"][image].detach().double())
    iou, _ = box_iou(predicted, cxcywh_to_xyxy(target.boxes_cxcywh.double()))
    scores = logits.sigmoid() if focal else logits.softmax(-1)
    return -scores[:, target.labels] * iou**order


def order_matcher(order: float = 4.0, **options: Any) -> HungarianMatcher:
    """Changes to the IoU-order cost in epoch 5."""
    return make_matcher(
        change_matcher=True, iou_order_alpha=order, matcher_change_epoch=5, **options
    )


@pytest.mark.parametrize("order", [0.0, 0.5, 1.0, 3.0, 4.0, 8.0])
@pytest.mark.parametrize("focal", [True, False])
def test_order_cost_is_the_equation(focal: bool, order: float) -> None:
    sizes = [3, 0, 4]
    output, targets = make_outputs(sizes), make_targets(sizes)
    matcher = order_matcher(order, use_focal_loss=focal)
    with torch.no_grad():
        costs = matcher._costs([output], targets, sizes, epoch=5)[0]
    for rows, image in ((costs[:3], 0), (costs[3:], 2)):
        expected = naive_order_cost(output, image, targets[image], order, focal)
        np.testing.assert_allclose(rows.T, expected, atol=2e-6)


def test_the_cost_changes_at_the_epoch() -> None:
    sizes = [6, 6]
    output, targets = make_outputs(sizes), make_targets(sizes)
    matcher = order_matcher()
    found = [matcher([output], targets, epoch)[0].queries.tolist() for epoch in (0, 4, 5, 9)]
    (plain,) = make_matcher()([output], targets, epoch=9)
    assert found[0] == found[1] == plain.queries.tolist()
    assert found[2] == found[3] != found[1]
    (off,) = make_matcher(matcher_change_epoch=5, iou_order_alpha=4.0)([output], targets, 9)
    assert off.queries.tolist() == plain.queries.tolist()


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 5), st.integers(1, 5), st.integers(0, 2**16), st.booleans())
def test_matching_is_optimal(queries: int, boxes: int, seed: int, late: bool) -> None:
    output = make_outputs([boxes], queries=queries, layers=1, seed=seed)
    targets = make_targets([boxes], seed=seed)
    compute = (lambda *x: naive_order_cost(*x, order=1.0)) if late else naive_cost
    cost = compute(output, 0, targets[0]).numpy()
    (pairs,) = order_matcher(1.0)([output], targets, epoch=5 * late)
    assert len(pairs.queries) == min(queries, boxes)
    assert len(set(pairs.queries)) == len(set(pairs.targets)) == len(pairs.queries)
    assert pairs.queries.tolist() == sorted(pairs.queries.tolist())

    few, many = (cost, cost.T) if queries <= boxes else (cost.T, cost)
    best = min(
        sum(few[row, column] for row, column in enumerate(chosen))
        for chosen in permutations(range(len(many)), len(few))
    )
    assert cost[pairs.queries, pairs.targets].sum() == pytest.approx(best, abs=1e-5)


@settings(deadline=None, max_examples=30)
@given(st.permutations(range(5)), st.integers(0, 2**16), st.booleans())
def test_matching_is_blind_to_the_order_of_targets(order: list[int], seed: int, late: bool) -> None:
    output = make_outputs([5], seed=seed)
    (target,) = make_targets([5], seed=seed)
    shuffled = Target(target.boxes_cxcywh[order], target.labels[order])
    matcher, epoch = order_matcher(), 5 * late
    (a,) = matcher([output], [target], epoch)
    (b,) = matcher([output], [shuffled], epoch)
    if late:  # boxes that no query overlaps cost nothing anywhere: several assignments are best
        cost = naive_order_cost(output, 0, target, 4.0).numpy()
        best, found = (cost[q, t].sum() for q, t in (a, (b.queries, np.array(order)[b.targets])))
        assert found == pytest.approx(best, abs=1e-6)
    else:
        assert dict(zip(a.queries, a.targets, strict=True)) == {
            query: order[box] for query, box in zip(b.queries, b.targets, strict=True)
        }


@pytest.mark.parametrize("boxes", [3, 12, 20])
def test_equal_costs_are_decided_as_scipy_decides_them(boxes: int) -> None:
    """With queries as rows: what the authors' matcher gives it."""
    output, (target,) = make_outputs([boxes]), make_targets([boxes])
    far = Target(target.boxes_cxcywh * 0.01, target.labels)  # overlaps with nothing
    (pairs,) = order_matcher()([output], [far], epoch=5)
    queries, targets = linear_sum_assignment(np.zeros((12, boxes)))
    assert pairs.queries.tolist() == queries.tolist()
    assert pairs.targets.tolist() == targets.tolist()


def test_outputs_and_images_do_not_disturb_each_other() -> None:
    sizes = [2, 5]
    first, second = make_outputs(sizes, seed=1), make_outputs(sizes, seed=2)
    targets = make_targets(sizes)
    matcher = make_matcher()
    together = [pairs.per_image(12, sizes) for pairs in matcher([first, second], targets)]
    for output, found in zip((first, second), together, strict=True):
        for image, target in enumerate(targets):
            one = {key: output[key][image : image + 1] for key in ("pred_logits", "pred_boxes")}
            (alone,) = matcher([one], [target])
            assert alone.per_image(12, [len(target)])[0] == found[image]


def test_equal_boxes_are_all_matched() -> None:
    box = make_boxes(1, generator=torch.Generator().manual_seed(0))
    target = Target(box.repeat(3, 1), torch.zeros(3, dtype=torch.int64))
    (pairs,) = make_matcher()([make_outputs([3])], [target])
    assert sorted(pairs.targets.tolist()) == [0, 1, 2]


@pytest.mark.parametrize("epoch", [0, 5])
@pytest.mark.parametrize("sizes", [[0], [0, 0, 0]])
def test_no_boxes(sizes: list[int], epoch: int) -> None:
    pairs = order_matcher()([make_outputs(sizes)] * 2, make_targets(sizes), epoch)
    assert [len(p.queries) for p in pairs] == [0, 0]


@pytest.mark.parametrize("epoch", [0, 5])
def test_an_output_that_is_not_finite_is_still_matched(epoch: int) -> None:
    output = make_outputs([3])
    with torch.no_grad():
        output["pred_boxes"][0, 0], output["pred_logits"][0, 1] = float("nan"), float("inf")
    (pairs,) = order_matcher()([output], make_targets([3]), epoch)
    assert len(pairs.queries) == 3


@pytest.mark.parametrize("epoch", [0, 5])
def test_boxes_without_area_are_matched(epoch: int) -> None:
    output, (target,) = make_outputs([3]), make_targets([3])
    with torch.no_grad():
        output["pred_boxes"][..., 2:] = 0
    flat = Target(target.boxes_cxcywh * torch.tensor([1, 1, 0, 0]), target.labels)
    (pairs,) = order_matcher()([output], [flat], epoch)
    assert len(pairs.queries) == 3


def test_half_precision_is_matched_in_single() -> None:
    output = make_outputs([4])
    half = {key: output[key].detach().bfloat16() for key in ("pred_logits", "pred_boxes")}
    single = {key: value.float() for key, value in half.items()}
    a, b = make_matcher()([half, single], make_targets([4]))
    assert a.queries.tolist() == b.queries.tolist()


@pytest.mark.parametrize("label", [5, -1])
def test_a_label_without_class_names_the_image(label: int) -> None:
    targets = make_targets([2, 3])
    targets[1].labels[2] = label
    with pytest.raises(
        DataError, match=rf"image 1: label {label} is outside .* 5 classes"
    ) as caught:
        make_matcher()([make_outputs([2, 3])], targets)
    assert "num_classes" in (caught.value.hint or "")


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ({"cost_clas": 1, "cost_bbox": 1, "cost_giou": 1}, "did you mean `cost_class`"),
        ({"cost_class": 1}, "missing cost_bbox, cost_giou"),
        ({"cost_class": 0, "cost_bbox": 0, "cost_giou": 0}, "all costs are zero"),
    ],
)
def test_wrong_weights_are_explained(weights: dict[str, float], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make_matcher(weight_dict=weights)


def test_a_negative_order_is_explained() -> None:
    with pytest.raises(ConfigError, match=r"iou_order_alpha: -1\.0 is below 0"):
        order_matcher(-1.0)
