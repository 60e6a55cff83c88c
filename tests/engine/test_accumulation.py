"""A batch in parts gives the gradient of the whole batch."""

from __future__ import annotations

from contextlib import nullcontext
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.amp import GradScaler

import detrkit
from detrkit.engine.accumulation import Backward
from detrkit.engine.parts import build_criterion
from detrkit.engine.randomness import seed_step
from detrkit.layers.norm import freeze_batch_norm
from detrkit.losses.criterion import SetCriterion
from detrkit.structures import Batch, Target
from tests.engine.lively import enliven
from tests.engine.toy import Loss
from tests.losses.cases import make_targets

BOXES = (3, 0, 5, 1, 0, 2, 4)

#: One of each kind: with the union of matches and distillation, without, with neither.
CONFIGS = {
    "dfine_n_coco": "DFINETransformer",
    "deim_hgnetv2_n_coco": "DFINETransformer",
    "deimv2_pico_coco": "DEIMTransformer",
    "rtdetrv2_r18vd_120e_coco": "RTDETRTransformerv2",
}


def detector(name: str, denoising: int = 0, frozen: bool = True) -> tuple[nn.Module, nn.Module]:
    """A small model in float64 with lively weights, and its criterion."""
    decoder = CONFIGS[name]
    update = ["num_classes=5", f"{decoder}.num_denoising={denoising}", f"{decoder}.num_queries=30"]
    cfg = detrkit.load_config(name, update=update, overrides={"image_size": [64, 64]})
    model = enliven(detrkit.build_model(cfg, seed=0))
    if frozen:
        freeze_batch_norm(model)
    return model.double().train(), build_criterion(cfg)


def batch() -> Batch:
    images = torch.rand(len(BOXES), 3, 64, 64, generator=torch.Generator().manual_seed(3))
    return Batch(images.double(), make_targets(BOXES))


def backward(model: nn.Module, criterion: nn.Module) -> Backward:
    seed = partial(seed_step, 1, 2, 0)
    return Backward(model, criterion, nullcontext, GradScaler("cpu", enabled=False), seed)


def numbers(losses: dict[str, Tensor]) -> dict[str, float]:
    return {name: float(value) for name, value in losses.items()}


def gradients(model: nn.Module) -> Tensor:
    found = [p.grad.flatten() for p in model.parameters() if p.grad is not None]
    model.zero_grad()
    return torch.cat(found).double()


@pytest.mark.parametrize("name", CONFIGS)
def test_parts_add_up_to_the_whole(name: str) -> None:
    """With frozen batch norms and without denoising nothing depends on who is in a part."""
    model, criterion = detector(name)
    step = backward(model, criterion)
    losses = step(batch(), 1, epoch=0)
    whole = gradients(model)
    for parts in (3, 7) if name == "dfine_n_coco" else (3,):
        split = step(batch(), parts, epoch=0)
        assert numbers(split) == pytest.approx(numbers(losses), rel=1e-5, abs=1e-6)
        apart = (gradients(model) - whole).norm() / whole.norm()
        assert apart < 1e-5, parts


def test_without_any_box() -> None:
    model, criterion = detector("dfine_n_coco")
    empty = Batch(batch().images[:4], make_targets([0] * 4))
    losses = backward(model, criterion)(empty, 1, epoch=0)
    whole = gradients(model)
    split = backward(model, criterion)(empty, 2, epoch=0)
    assert numbers(split) == pytest.approx(numbers(losses), rel=1e-5)
    assert (gradients(model) - whole).norm() < 1e-5 * whole.norm()


def test_parts_are_matched_once_and_counted_once() -> None:
    """The pass that matches sees what the second pass sees, and leaves no trace in the norms."""
    model, criterion = detector("dfine_n_coco", denoising=10, frozen=False)
    assert isinstance(criterion, SetCriterion)
    seen: list[Tensor] = []
    match, forward = criterion.match, criterion.forward

    def watched_match(outputs: Any, *args: Any) -> Any:
        seen.append(outputs["pred_logits"].detach().clone())
        return match(outputs, *args)

    def watched_forward(outputs: Any, *args: Any, **kwargs: Any) -> Any:
        seen.append(outputs["pred_logits"].detach().clone())
        return forward(outputs, *args, **kwargs)

    criterion.match = watched_match  # type: ignore[method-assign]
    criterion.forward = watched_forward  # type: ignore[method-assign]
    losses = backward(model, criterion)(batch(), 3, epoch=0)
    assert all(value.isfinite() for value in losses.values())
    assert any(name.startswith("loss_vfl_dn") for name in losses)
    assert len(seen) == 6
    for first, second in zip(seen[:3], seen[3:], strict=True):
        assert torch.equal(first, second)
    counts = {int(b) for n, b in model.named_buffers() if n.endswith("num_batches_tracked")}
    assert counts == {3}


def test_another_criterion_is_a_mean_over_images() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.tensor([0.3, -0.2, 0.5]))

        def forward(self, images: Tensor, targets: list[Target]) -> dict[str, Tensor]:
            return {"pred": images.mean((2, 3)) @ self.weight}

    model = Net().double()
    losses = backward(model, Loss())(batch(), 1, epoch=0)
    whole = gradients(model)
    split = backward(model, Loss())(batch(), 3, epoch=0)
    assert numbers(split) == pytest.approx(numbers(losses))
    torch.testing.assert_close(gradients(model), whole)


def test_split() -> None:
    whole = batch()
    parts = whole.split(3)
    assert [len(part) for part in parts] == [2, 2, 3]
    assert torch.equal(torch.cat([part.images for part in parts]), whole.images)
    assert [t for part in parts for t in part.targets] == whole.targets
    assert [len(part) for part in whole.split(20)] == [1] * 7
    assert whole.split(1)[0] is whole
