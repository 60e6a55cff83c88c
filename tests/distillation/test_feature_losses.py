"""Each feature loss against a naive transcription of its paper's equation, and at its limits."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from detrkit.distillation.losses.base import FeatureLoss
from detrkit.distillation.losses.cosine import FeatureCosine
from detrkit.distillation.losses.cwd import CWD
from detrkit.distillation.losses.fgd import FGD, attention
from detrkit.distillation.losses.foreground import ForegroundL2
from detrkit.distillation.losses.mgd import MGD
from detrkit.distillation.losses.mse import FeatureMSE
from detrkit.distillation.losses.pkd import PKD
from detrkit.distillation.losses.regions import regions_of
from detrkit.registry import MODULES

B, C, H, W = 2, 3, 4, 5

#: Two overlapping boxes, and an image without any.
BOXES = [torch.tensor([[0.4, 0.5, 0.4, 0.5], [0.45, 0.4, 0.1, 0.2]]), torch.zeros(0, 4)]
LOSSES: dict[str, Callable[[], FeatureLoss]] = {
    "CWD": lambda: CWD(2.0),
    "PKD": PKD,
    "FGD": FGD,
    "ForegroundL2": ForegroundL2,
    "FeatureMSE": FeatureMSE,
    "FeatureCosine": FeatureCosine,
}


@pytest.fixture
def maps() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    student, teacher = torch.randn(2, B, C, H, W, generator=generator, dtype=torch.double)
    return student.requires_grad_(), teacher


def cells(box: Tensor) -> set[tuple[int, int]]:
    """(row, column) of the cells that a box touches."""
    cx, cy, w, h = box.tolist()
    rows = range(math.floor((cy - h / 2) * H + 1e-6), math.ceil((cy + h / 2) * H - 1e-6))
    columns = range(math.floor((cx - w / 2) * W + 1e-6), math.ceil((cx + w / 2) * W - 1e-6))
    return {(i, j) for i in rows for j in columns}


def test_cwd(maps: tuple[Tensor, Tensor]) -> None:
    student, teacher = maps
    tau = 2.0
    total = 0.0
    for b in range(B):
        for c in range(C):
            s = torch.exp(student[b, c] / tau) / torch.exp(student[b, c] / tau).sum()
            t = torch.exp(teacher[b, c] / tau) / torch.exp(teacher[b, c] / tau).sum()
            total = total + (t * torch.log(t / s)).sum()
    expected = tau**2 / C * total / B
    assert CWD(tau)(student, teacher, BOXES).item() == pytest.approx(expected.item())


def test_mgd(maps: tuple[Tensor, Tensor]) -> None:
    student, teacher = maps
    torch.manual_seed(1)
    loss = MGD(0.4).prepare(C).double()
    torch.manual_seed(5)
    found = loss(student, teacher, BOXES)
    torch.manual_seed(5)
    draws = torch.rand(B, 1, H, W)
    assert 0 < (draws < 0.4).sum() < draws.numel()
    first, _, second = loss.generation
    total = 0.0
    for b in range(B):
        masked = student[b].clone()
        for i in range(H):
            for j in range(W):
                if draws[b, 0, i, j] < 0.4:
                    masked[:, i, j] = 0
        made = F.conv2d(masked[None], first.weight, first.bias, padding=1).clamp(min=0)
        made = F.conv2d(made, second.weight, second.bias, padding=1)
        total = total + ((teacher[b] - made[0]) ** 2).sum()
    assert found.item() == pytest.approx((total / B).item())


def test_mgd_is_zero_where_nothing_is_hidden_or_changed(maps: tuple[Tensor, Tensor]) -> None:
    student, _ = maps
    loss = MGD(0.0)  # not prepared: the generation is the identity
    value = loss(student, student.detach(), BOXES)
    (gradient,) = torch.autograd.grad(value, student)
    assert value == 0
    assert not gradient.any()


def test_pkd_is_one_minus_the_correlation(maps: tuple[Tensor, Tensor]) -> None:
    student, teacher = maps
    correlations = [
        torch.corrcoef(torch.stack([student[:, c].flatten(), teacher[:, c].flatten()]))[0, 1]
        for c in range(C)
    ]
    expected = 1 - torch.stack(correlations).mean()
    assert PKD()(student, teacher, BOXES).item() == pytest.approx(expected.item(), abs=1e-5)
    scaled = PKD()(student, 7 * student.detach() + 3, BOXES)
    assert scaled.item() == pytest.approx(0, abs=1e-9)


def test_pkd_bears_constant_channels() -> None:
    student = torch.zeros(1, 2, 3, 3, requires_grad=True)
    value = PKD()(student, torch.rand(1, 2, 3, 3), BOXES[:1])
    (gradient,) = torch.autograd.grad(value, student)
    assert value.isfinite()
    assert gradient.isfinite().all()


def test_regions() -> None:
    foreground, share = regions_of(BOXES, (H, W))
    first, second = (cells(box) for box in BOXES[0])
    assert second < first
    for i in range(H):
        for j in range(W):
            inside = (i, j) in first
            assert foreground[0, 0, i, j] == inside
            if (i, j) in second:  # the smaller box wins
                expected = 1 / len(second)
            else:
                expected = 1 / (len(first) if inside else H * W - len(first))
            assert share[0, 0, i, j].item() == pytest.approx(expected)
    assert not foreground[1].any()
    assert share[1].sum().item() == pytest.approx(1)


def test_fgd(maps: tuple[Tensor, Tensor]) -> None:
    student, teacher = maps
    torch.manual_seed(2)
    weights = {"alpha": 0.3, "beta": 0.2, "gamma": 0.7, "lambda_global": 0.05}
    loss = FGD(tau=0.5, **weights).prepare(C).double()
    for relation in (loss.of_student, loss.of_teacher):
        torch.nn.init.normal_(relation.up.weight)
    found = loss(student, teacher, BOXES)

    foreground, share = regions_of(BOXES, (H, W))
    feature = attended = 0.0
    for b in range(B):
        space_t = torch.softmax(teacher[b].abs().mean(0).flatten() / 0.5, 0).view(H, W) * H * W
        channel_t = torch.softmax(teacher[b].abs().mean((1, 2)) / 0.5, 0) * C
        space_s = torch.softmax(student[b].abs().mean(0).flatten() / 0.5, 0).view(H, W) * H * W
        channel_s = torch.softmax(student[b].abs().mean((1, 2)) / 0.5, 0) * C
        for c in range(C):
            for i in range(H):
                for j in range(W):
                    kind = 0.3 if foreground[b, 0, i, j] else 0.2
                    error = (teacher[b, c, i, j] - student[b, c, i, j]) ** 2
                    feature += kind * share[b, 0, i, j] * space_t[i, j] * channel_t[c] * error
        attended += (space_t - space_s).abs().mean() + (channel_t - channel_s).abs().mean()

    def relation(x: Tensor, block: torch.nn.Module) -> Tensor:
        key = torch.softmax((block.key.weight.view(1, C) @ x.flatten(1) + block.key.bias)[0], 0)
        context = x.flatten(1) @ key
        hidden = block.down.weight[:, :, 0, 0] @ context + block.down.bias
        hidden = F.layer_norm(hidden, hidden.shape).clamp(min=0)
        return x + (block.up.weight[:, :, 0, 0] @ hidden + block.up.bias)[:, None, None]

    related = sum(
        ((relation(student[b], loss.of_student) - relation(teacher[b], loss.of_teacher)) ** 2).sum()
        for b in range(B)
    )
    expected = (feature + 0.7 * attended + 0.05 * related) / B
    assert found.item() == pytest.approx(expected.item(), rel=1e-6)


def test_attention_is_one_on_average(maps: tuple[Tensor, Tensor]) -> None:
    space, channel = attention(maps[0], 0.5)
    assert space.mean().item() == pytest.approx(1)
    assert channel.mean().item() == pytest.approx(1)


def test_foreground(maps: tuple[Tensor, Tensor]) -> None:
    student, teacher = maps
    foreground, _ = regions_of(BOXES, (H, W))
    expected = 0.0
    for b in range(B):
        error = weights = 0.0
        for i in range(H):
            for j in range(W):
                w = 1.0 if foreground[b, 0, i, j] else 0.25
                weights += w
                error += w * ((teacher[b, :, i, j] - student[b, :, i, j]) ** 2).sum().item()
        expected += error / (C * weights)
    found = ForegroundL2(0.25)(student, teacher, BOXES)
    assert found.item() == pytest.approx(expected / B, rel=1e-6)


def test_without_background_an_empty_image_has_no_loss(maps: tuple[Tensor, Tensor]) -> None:
    student, teacher = maps
    assert ForegroundL2(0.0)(student[1:], teacher[1:], BOXES[1:]) == 0


def test_mse_and_cosine(maps: tuple[Tensor, Tensor]) -> None:
    student, teacher = maps
    assert FeatureMSE()(student, teacher, BOXES).item() == pytest.approx(
        ((student - teacher) ** 2).mean().item()
    )
    expected = (1 - F.cosine_similarity(student, teacher, dim=1)).mean()
    assert FeatureCosine()(student, teacher, BOXES).item() == pytest.approx(expected.item())


@pytest.mark.parametrize("name", LOSSES)
def test_equal_maps_have_no_loss_and_no_gradient(name: str, maps: tuple[Tensor, Tensor]) -> None:
    student, _ = maps
    loss = LOSSES[name]().prepare(C).double()
    value = loss(student, student.detach(), BOXES)
    (gradient,) = torch.autograd.grad(value, student)
    assert value.item() == pytest.approx(0, abs=1e-12)
    assert gradient.abs().max().item() < 1e-12


@pytest.mark.parametrize("name", [*LOSSES, "MGD"])
def test_the_student_learns_and_the_teacher_does_not(
    name: str, maps: tuple[Tensor, Tensor]
) -> None:
    student, teacher = maps
    loss = MODULES.create(name).prepare(C).double()
    loss(student, teacher, BOXES).backward()
    assert student.grad is not None
    assert student.grad.abs().sum() > 0
    assert teacher.grad is None


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("CWD", {"tau": 0}),
        ("MGD", {"ratio": 1.0}),
        ("FGD", {"tau": -1}),
        ("ForegroundL2", {"background": 2}),
    ],
)
def test_values_without_meaning(name: str, wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        MODULES.create(name, **wrong)
