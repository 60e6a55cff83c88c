"""Losses between queries: equations, limits, pairs."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from detrkit.distillation.losses.base import Edges
from detrkit.distillation.losses.classes import QualityFocal, SigmoidKL
from detrkit.distillation.losses.localisation import LocalisationKL, on_grid
from detrkit.distillation.pairing import Pairing, image_mean
from detrkit.distillation.probes import probe_boxes
from detrkit.distillation.teacher import Answers
from detrkit.distillation.terms import LogitLosses
from detrkit.ops.boxes import cxcywh_to_xyxy, paired_giou
from detrkit.ops.distribution import distance2bbox, weighting_function

M, K, R = 5, 3, 8


def logits(seed: int, *shape: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return (torch.randn(*shape, generator=generator) * 3).double()


def boxes(seed: int, *shape: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    size = torch.rand(*shape, 2, generator=generator) * 0.3 + 0.05
    centre = size / 2 + torch.rand(*shape, 2, generator=generator) * (1 - size)
    return torch.cat([centre, size], -1).double()


def edges(seed: int, count: int = M, reg_max: int = R, up: float = 0.5, scale: float = 4) -> Edges:
    return Edges(
        logits(seed, count, 4, reg_max + 1),
        boxes(seed + 1, count),
        torch.tensor([up]),
        torch.tensor([scale]),
    )


def test_sigmoid_kl() -> None:
    s, t = logits(0, M, K), logits(1, M, K)
    tau = 2.0
    p, q = torch.sigmoid(t / tau), torch.sigmoid(s / tau)
    expected = tau**2 * (p * (p / q).log() + (1 - p) * ((1 - p) / (1 - q)).log()).sum(-1)
    torch.testing.assert_close(SigmoidKL(tau)(s, t), expected)


def test_sigmoid_kl_is_finite_for_any_logits() -> None:
    s = torch.tensor([[90.0, -90.0]], requires_grad=True)
    value = SigmoidKL()(s, -s.detach())
    value.sum().backward()
    assert value.isfinite().all()
    assert s.grad is not None
    assert s.grad.isfinite().all()


def test_quality_focal() -> None:
    s, t = logits(0, M, K), logits(1, M, K)
    p, q = t.sigmoid(), s.sigmoid()
    expected = (p - q).abs() ** 2 * -(p * q.log() + (1 - p) * (1 - q).log())
    torch.testing.assert_close(QualityFocal(2.0)(s, t), expected.sum(-1))


@pytest.mark.parametrize("loss", [SigmoidKL(), SigmoidKL(3.0), QualityFocal()])
def test_equal_scores_have_no_loss_and_no_gradient(loss: torch.nn.Module) -> None:
    s = logits(0, M, K).requires_grad_()
    value = loss(s, s.detach())
    (gradient,) = torch.autograd.grad(value.sum(), s)
    assert value.abs().max() < 1e-12
    assert gradient.abs().max() < 1e-12


def test_localisation_on_equal_grids() -> None:
    student, teacher = edges(0), edges(7)
    teacher = Edges(teacher.logits, student.references, student.up, student.reg_scale)
    tau = 5.0
    t, s = (teacher.logits / tau).softmax(-1), (student.logits / tau).softmax(-1)
    expected = tau**2 * (t * (t / s).log()).sum(-1).mean(-1)
    torch.testing.assert_close(
        LocalisationKL(tau)(student, teacher), expected, rtol=1e-4, atol=1e-5
    )


def test_equal_edges_have_no_loss_and_no_gradient() -> None:
    student = edges(0)
    student.logits.requires_grad_()
    teacher = Edges(student.logits.detach(), student.references, student.up, student.reg_scale)
    value = LocalisationKL()(student, teacher)
    (gradient,) = torch.autograd.grad(value.sum(), student.logits)
    assert value.abs().max() < 1e-5
    assert gradient.abs().max() < 1e-5


@settings(max_examples=25, deadline=None)
@given(
    st.integers(0, 1000),
    st.sampled_from([4, 8, 16, 32]),
    st.floats(0.3, 0.6),
    st.floats(3, 8),
)
def test_another_grid_keeps_mass_and_place(
    seed: int, reg_max: int, up: float, scale: float
) -> None:
    """A narrow distribution near the student's box puts the edges where the teacher's does."""
    source = edges(seed, 1, reg_max, up, scale)
    grid = Edges(logits(0, 1, 4, 33), source.references * torch.tensor([1.0, 1.0, 1.1, 0.9]),
                 torch.tensor([0.6]), torch.tensor([4.0]))  # fmt: skip
    probability = torch.zeros(1, 4, reg_max + 1, dtype=torch.double)
    probability[..., reg_max // 2] = 1  # the reference box itself
    found = on_grid(source, probability, grid)
    torch.testing.assert_close(found.sum(-1), torch.ones(1, 4).double())
    values = weighting_function(32, grid.up, grid.reg_scale)
    distance = (found * values).sum(-1)
    box = distance2bbox(grid.references, distance, grid.reg_scale)
    torch.testing.assert_close(box, source.references.to(box), rtol=1e-4, atol=1e-4)


def test_queries_in_another_order_find_each_other() -> None:
    theirs, where = logits(0, 2, 6, K), boxes(1, 2, 6)
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    pairs = Pairing(6)(theirs[:, order], where[:, order], theirs, where)
    place = torch.cat([order, order + 6])  # of each student's query among the teacher's
    assert torch.equal(place[pairs.student], pairs.teacher)
    assert len(pairs.student) == 12


def test_the_pairs_cost_least() -> None:
    student, theirs = logits(0, 1, 5, K), logits(1, 1, 3, K)
    a, b = boxes(2, 1, 5), boxes(3, 1, 3)
    pairs = Pairing(3)(student, a, theirs, b)
    label = theirs[0].argmax(-1)
    p = student[0].sigmoid()
    positive = 0.25 * (1 - p) ** 2 * -(p + 1e-8).log()
    negative = 0.75 * p**2 * -(1 - p + 1e-8).log()
    classes = (positive - negative)[:, label]
    distance = (a[0][:, None] - b[0][None]).abs().sum(-1)
    giou = paired_giou(cxcywh_to_xyxy(a[0])[:, None], cxcywh_to_xyxy(b[0])[None])
    cost = 2 * classes + 5 * distance - 2 * giou
    best = min(
        sum(float(cost[q, t]) for t, q in enumerate(chosen))
        for chosen in itertools.permutations(range(5), 3)
    )
    found = sum(float(cost[q, t]) for q, t in zip(pairs.student, pairs.teacher, strict=True))
    assert found == pytest.approx(best, abs=1e-4)


def test_only_the_best_queries_of_the_teacher_count() -> None:
    theirs = logits(1, 2, 8, K)
    pairs = Pairing(3)(logits(0, 2, 8, K), boxes(2, 2, 8), theirs, boxes(3, 2, 8))
    scores = theirs.amax(-1)
    for image in range(2):
        best = set((scores[image].topk(3).indices + 8 * image).tolist())
        assert best == {t for t in pairs.teacher.tolist() if t // 8 == image}


def test_weights_make_means_over_images() -> None:
    scores = torch.tensor([0.9, 0.6, 0.1, 0.1])
    image = torch.tensor([0, 0, 1, 1])
    found = image_mean(scores, image, 2)
    torch.testing.assert_close(found, torch.tensor([0.9 / 1.5, 0.6 / 1.5, 0.1, 0.1]) / 2)


def outputs_and_answers() -> tuple[dict[str, Tensor], Answers]:
    out = {
        "pred_logits": logits(0, 2, 6, K),
        "pred_boxes": boxes(1, 2, 6),
        "pred_corners": logits(2, 2, 6, 4 * (R + 1)),
        "ref_points": boxes(3, 2, 6),
        "up": torch.tensor([0.5]),
        "reg_scale": torch.tensor([4.0]),
    }
    distributions = Edges(
        out["pred_corners"].reshape(12, 4, R + 1),
        out["ref_points"].flatten(0, 1),
        out["up"],
        out["reg_scale"],
    )
    return out, Answers(out["pred_logits"], out["pred_boxes"], distributions)


def test_an_equal_teacher_teaches_nothing() -> None:
    out, answers = outputs_and_answers()
    wanted = [out[name].requires_grad_() for name in ("pred_logits", "pred_boxes", "pred_corners")]
    answers = Answers(
        out["pred_logits"].detach(),
        out["pred_boxes"].detach(),
        Edges(answers.edges.logits.detach(), *_rest(answers.edges)),  # type: ignore[union-attr]
    )
    losses = LogitLosses(torch.arange(K)).paired(out, answers)
    assert set(losses) == {"class", "bbox", "giou", "ld"}
    gradients = torch.autograd.grad(torch.stack(list(losses.values())).sum(), wanted)
    for name, value in losses.items():
        assert abs(value.item()) < 1e-5, name
    for gradient in gradients:
        assert gradient.abs().max() < 1e-5


def _rest(edges: Edges | None) -> tuple[Tensor, Tensor, Tensor]:
    assert edges is not None
    return edges.references, edges.up, edges.reg_scale


def test_only_shared_classes_are_compared() -> None:
    out, answers = outputs_and_answers()
    out["pred_logits"].requires_grad_()
    theirs = Answers(logits(9, 2, 6, 2), answers.boxes, None)
    losses = LogitLosses(torch.tensor([2, 0])).paired(out, theirs)
    (gradient,) = torch.autograd.grad(losses["class"], out["pred_logits"])
    assert not gradient[..., 1].any()
    assert gradient[..., 0].any()
    assert gradient[..., 2].any()
    assert "ld" not in losses


def test_weights_of_zero_leave_a_loss_out() -> None:
    out, answers = outputs_and_answers()
    losses = LogitLosses(torch.arange(K), weight_ld=0, weight_bbox=0).paired(out, answers)
    assert set(losses) == {"class", "giou"}


def test_probes_are_boxes_inside_the_image() -> None:
    torch.manual_seed(0)
    theirs = logits(0, 2, 6, K)
    found = probe_boxes(theirs, boxes(1, 2, 6), 5, 3)
    assert found.shape == (2, 8, 4)
    corners = cxcywh_to_xyxy(found)
    assert (corners > -1e-6).all()
    assert (corners < 1 + 1e-6).all()
    best = theirs.amax(-1)[0].argmax()
    torch.testing.assert_close(found[0, 5], boxes(1, 2, 6)[0, best].float())
