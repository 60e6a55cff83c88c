"""Each loss against a naive transcription of its equation, pair by pair."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.ops import generalized_box_iou, sigmoid_focal_loss

from detrkit.losses.boxes import giou_loss, iou_of, l1_loss
from detrkit.losses.ddf import Balance, ddf_loss
from detrkit.losses.fgl import fgl_loss
from detrkit.losses.focal import focal_loss
from detrkit.losses.mal import matchability_loss
from detrkit.losses.matches import Matching
from detrkit.losses.vfl import varifocal_loss
from detrkit.ops.boxes import cxcywh_to_xyxy
from detrkit.ops.distribution import EdgeTargets
from tests.losses.cases import make_boxes

LAYERS, QUERIES, CLASSES, PAIRS, BINS = 2, 7, 4, 3, 9


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


@pytest.fixture
def matching() -> Matching:
    return Matching(torch.tensor([[0, 3, 6], [5, 1, 2]]), torch.tensor([[0, 1, 2], [2, 0, 1]]))


@pytest.fixture
def labels() -> Tensor:
    return torch.tensor([[3, 0, 1], [1, 3, 0]])


def nothing(layers: int = LAYERS) -> Matching:
    return Matching(*torch.zeros(2, layers, 0, dtype=torch.int64))


def test_vfl_is_the_equation(
    generator: torch.Generator, matching: Matching, labels: Tensor
) -> None:
    logits = (torch.randn(LAYERS, QUERIES, CLASSES, generator=generator) * 4).double()
    logits.requires_grad_()
    quality = torch.rand(LAYERS, PAIRS, generator=generator).double()
    loss = varifocal_loss(logits, matching, labels, quality, alpha=0.75, gamma=2.0)

    target = torch.zeros_like(logits)
    for layer in range(LAYERS):
        for pair in range(PAIRS):
            place = (layer, matching.queries[layer, pair], labels[layer, pair])
            target[place] = quality[layer, pair]
    p = logits.sigmoid()
    weight = torch.where(target > 0, target, 0.75 * p.detach() ** 2)
    expected = (weight * -(target * p.log() + (1 - target) * (1 - p).log())).sum((1, 2))
    torch.testing.assert_close(loss, expected)
    ours, theirs = (torch.autograd.grad(x.sum(), logits)[0] for x in (loss, expected))
    torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("extreme", [-200.0, 200.0])
@pytest.mark.parametrize("gamma", [0.5, 2.0])
@pytest.mark.parametrize("name", ["vfl", "mal", "focal"])
def test_class_losses_survive_extreme_logits(
    matching: Matching, labels: Tensor, name: str, gamma: float, extreme: float
) -> None:
    quality = torch.ones(LAYERS, PAIRS)
    logits = torch.full((LAYERS, QUERIES, CLASSES), extreme, requires_grad=True)
    losses = {
        "vfl": lambda: varifocal_loss(logits, matching, labels, quality, 0.75, gamma),
        "mal": lambda: matchability_loss(logits, matching, labels, quality, gamma),
        "focal": lambda: focal_loss(logits, matching, labels, 0.75, gamma),
    }
    loss = losses[name]()
    loss.sum().backward()
    assert loss.isfinite().all()
    assert logits.grad is not None
    assert logits.grad.isfinite().all()


@pytest.mark.parametrize("alpha", [1.0, 0.5])
@pytest.mark.parametrize("gamma", [0.5, 1.5, 2.0])
def test_mal_is_the_equation(
    generator: torch.Generator, matching: Matching, labels: Tensor, gamma: float, alpha: float
) -> None:
    logits = (torch.randn(LAYERS, QUERIES, CLASSES, generator=generator) * 4).double()
    logits.requires_grad_()
    quality = torch.rand(LAYERS, PAIRS, generator=generator).double()
    quality[0, 0], quality[1, 2] = 0, 1  # no overlap is a match as well, and weighs 1
    loss = matchability_loss(logits, matching, labels, quality, gamma, alpha)

    p = logits.sigmoid()
    expected = torch.zeros(LAYERS, dtype=torch.float64)
    for layer in range(LAYERS):
        of_box = {
            (query, label): q
            for query, label, q in zip(
                matching.queries[layer].tolist(), labels[layer].tolist(), quality[layer],
                strict=True,
            )
        }  # fmt: skip
        for query in range(QUERIES):
            for label in range(CLASSES):
                score = p[layer, query, label]
                if (query, label) in of_box:
                    target = of_box[query, label] ** gamma
                    entropy = -(target * score.log() + (1 - target) * (1 - score).log())
                else:
                    entropy = -alpha * score.detach() ** gamma * (1 - score).log()
                expected[layer] += entropy
    torch.testing.assert_close(loss, expected)
    ours, theirs = (torch.autograd.grad(x.sum(), logits)[0] for x in (loss, expected))
    torch.testing.assert_close(ours, theirs)


def test_mal_without_gamma_is_cross_entropy(
    generator: torch.Generator, matching: Matching, labels: Tensor
) -> None:
    logits = torch.randn(LAYERS, QUERIES, CLASSES, generator=generator).double()
    quality = torch.rand(LAYERS, PAIRS, generator=generator).double()
    target = torch.zeros_like(logits)
    target[matching.rows(), matching.queries, labels] = 1  # q^0
    expected = F.binary_cross_entropy_with_logits(logits, target, reduction="none").sum((1, 2))
    loss = matchability_loss(logits, matching, labels, quality, gamma=0.0)
    torch.testing.assert_close(loss, expected)


def test_mal_of_full_overlap_is_the_varifocal_loss(
    generator: torch.Generator, matching: Matching, labels: Tensor
) -> None:
    logits = torch.randn(LAYERS, QUERIES, CLASSES, generator=generator)
    quality = torch.ones(LAYERS, PAIRS)
    mal = matchability_loss(logits, matching, labels, quality, 2.0, 0.75)
    vfl = varifocal_loss(logits, matching, labels, quality, 0.75, 2.0)
    torch.testing.assert_close(mal, vfl)


def test_mal_pulls_on_a_poor_match_and_vfl_hardly_does() -> None:
    matching, labels = Matching(*torch.zeros(2, 1, 1, dtype=torch.int64)), torch.zeros(1, 1).long()
    quality = torch.full((1, 1), 0.05)
    pulls = []
    for loss in (
        lambda x: matchability_loss(x, matching, labels, quality, 1.5),
        lambda x: varifocal_loss(x, matching, labels, quality, 0.75, 2.0),
    ):
        logits = torch.full((1, 1, 1), 3.0, requires_grad=True)  # far too sure of itself
        loss(logits).sum().backward()
        assert logits.grad is not None
        pulls.append(logits.grad.item())
    mal, vfl = pulls
    assert mal == pytest.approx(torch.tensor(3.0).sigmoid().item() - 0.05**1.5)
    assert 0 < vfl < 0.06 * mal


def test_quality_below_zero_counts_as_zero(
    generator: torch.Generator, matching: Matching, labels: Tensor
) -> None:
    logits = torch.randn(LAYERS, QUERIES, CLASSES, generator=generator)
    low, zero = (
        matchability_loss(logits, matching, labels, torch.full((LAYERS, PAIRS), q), 1.5)
        for q in (-0.7, 0.0)
    )
    assert torch.equal(low, zero)


@pytest.mark.parametrize("alpha", [0.25, -1])
def test_focal_is_torchvision_s(
    generator: torch.Generator, matching: Matching, labels: Tensor, alpha: float
) -> None:
    logits = torch.randn(LAYERS, QUERIES, CLASSES, generator=generator) * 3
    target = torch.zeros_like(logits)
    target[matching.rows(), matching.queries, labels] = 1
    expected = sigmoid_focal_loss(logits, target, alpha, 2.0).sum((1, 2))
    torch.testing.assert_close(focal_loss(logits, matching, labels, alpha, 2.0), expected)


def test_box_losses_are_the_equations(generator: torch.Generator) -> None:
    predicted = make_boxes(LAYERS, PAIRS, generator=generator)
    true = make_boxes(LAYERS, PAIRS, generator=generator)
    giou = torch.stack(
        [
            generalized_box_iou(cxcywh_to_xyxy(a), cxcywh_to_xyxy(b)).diagonal()
            for a, b in zip(predicted, true, strict=True)
        ]
    )
    weight = torch.rand(LAYERS, PAIRS, generator=generator)
    torch.testing.assert_close(l1_loss(predicted, true), (predicted - true).abs().sum((1, 2)))
    torch.testing.assert_close(giou_loss(predicted, true), (1 - giou).sum(1))
    torch.testing.assert_close(giou_loss(predicted, true, weight), ((1 - giou) * weight).sum(1))
    torch.testing.assert_close(iou_of(predicted, true, generalized=True), giou)
    assert giou_loss(true, true).abs().max() < 1e-5


def test_fgl_is_the_equation(generator: torch.Generator) -> None:
    corners = torch.randn(LAYERS, PAIRS, 4, BINS, generator=generator)
    left = torch.randint(0, BINS - 1, (PAIRS, 4), generator=generator)
    right = torch.rand(PAIRS, 4, generator=generator)
    iou = torch.rand(LAYERS, PAIRS, generator=generator)
    loss = fgl_loss(corners, EdgeTargets(left, right, 1 - right), iou)

    expected = torch.zeros(LAYERS)
    for layer in range(LAYERS):
        for pair in range(PAIRS):
            for edge in range(4):
                logits, low = corners[layer, pair, edge], left[pair, edge]
                share = right[pair, edge]
                entropy = (1 - share) * F.cross_entropy(logits, low)
                entropy = entropy + share * F.cross_entropy(logits, low + 1)
                expected[layer] += iou[layer, pair] * entropy
    torch.testing.assert_close(loss, expected)


def test_fgl_is_smallest_where_the_distribution_is_the_target() -> None:
    edges = EdgeTargets(torch.full((1, 4), 2), torch.full((1, 4), 0.3), torch.full((1, 4), 0.7))
    corners = torch.full((1, 1, 4, BINS), -20.0)
    corners[..., 2], corners[..., 3] = math.log(0.7), math.log(0.3)
    corners.requires_grad_()
    fgl_loss(corners, edges, torch.ones(1, 1)).sum().backward()
    assert corners.grad is not None
    assert corners.grad.abs().max() < 1e-6


def test_ddf_is_the_equation(generator: torch.Generator, matching: Matching) -> None:
    students = torch.randn(LAYERS, QUERIES, 4, BINS, generator=generator).requires_grad_()
    teacher = torch.randn(QUERIES, 4, BINS, generator=generator).requires_grad_()
    logits = torch.randn(QUERIES, CLASSES, generator=generator).requires_grad_()
    iou = torch.rand(LAYERS, PAIRS, generator=generator)
    balance = Balance.of(PAIRS, QUERIES)
    loss = ddf_loss(students, teacher, logits, matching, iou, balance)

    for layer in range(LAYERS):
        divergence = F.kl_div(
            (students[layer] / 5).log_softmax(-1), (teacher / 5).softmax(-1), reduction="none"
        ).sum(-1)
        weight = logits.sigmoid().amax(-1)
        matched = torch.zeros(QUERIES, dtype=torch.bool)
        for pair, query in enumerate(matching.queries[layer].tolist()):
            weight = weight.index_fill(0, torch.tensor(query), iou[layer, pair].item())
            matched[query] = True
        each = 25 * divergence * weight[:, None]
        positive, negative = math.sqrt(PAIRS), math.sqrt(QUERIES - PAIRS)
        mixed = each[matched].mean() * positive + each[~matched].mean() * negative
        torch.testing.assert_close(loss[layer], mixed / (positive + negative))

    loss.sum().backward()
    assert students.grad is not None
    assert teacher.grad is None
    assert logits.grad is None


def test_ddf_of_a_student_that_equals_its_teacher_is_zero(
    generator: torch.Generator, matching: Matching
) -> None:
    teacher = torch.randn(QUERIES, 4, BINS, generator=generator)
    students = teacher.repeat(LAYERS, 1, 1, 1)
    logits = torch.randn(QUERIES, CLASSES, generator=generator)
    iou = torch.ones(LAYERS, PAIRS)
    loss = ddf_loss(students, teacher, logits, matching, iou, Balance.of(PAIRS, QUERIES))
    torch.testing.assert_close(loss, torch.zeros(LAYERS), atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    ("matched", "total"), [(0, 10), (10, 10), (3, 10)], ids=["none", "all", "some"]
)
def test_balance_adds_up_to_one(matched: int, total: int) -> None:
    balance = Balance.of(matched, total)
    assert balance.matched + balance.other == pytest.approx(1)
    assert balance.matched == pytest.approx(
        math.sqrt(matched) / (math.sqrt(matched) + math.sqrt(total - matched))
    )


def test_without_pairs_box_losses_are_zero_and_class_losses_see_background(
    generator: torch.Generator,
) -> None:
    logits = torch.randn(LAYERS, QUERIES, CLASSES, generator=generator)
    none, labels = nothing(), torch.zeros(LAYERS, 0, dtype=torch.int64)
    no_boxes, no_iou = torch.zeros(LAYERS, 0, 4), torch.zeros(LAYERS, 0)
    assert l1_loss(no_boxes, no_boxes).tolist() == [0, 0]
    assert giou_loss(no_boxes, no_boxes).tolist() == [0, 0]
    edges = EdgeTargets(torch.zeros(0, 4, dtype=torch.int64), torch.zeros(0, 4), torch.ones(0, 4))
    assert fgl_loss(torch.zeros(LAYERS, 0, 4, BINS), edges, no_iou).tolist() == [0, 0]
    assert (varifocal_loss(logits, none, labels, no_iou, 0.75, 2.0) > 0).all()
    assert (matchability_loss(logits, none, labels, no_iou, 1.5) > 0).all()
    assert (focal_loss(logits, none, labels, 0.25, 2.0) > 0).all()


def test_ddf_without_queries_is_zero() -> None:
    students = torch.zeros(LAYERS, 0, 4, BINS)
    loss = ddf_loss(
        students, students[0], torch.zeros(0, CLASSES), nothing(), torch.zeros(LAYERS, 0),
        Balance.of(0, 0),
    )  # fmt: skip
    assert loss.tolist() == [0, 0]
