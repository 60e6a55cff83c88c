"""The model in several processes: gradients, parameters without any, batch norm."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from detrkit.engine.distributed.group import rank, world_size
from detrkit.engine.distributed.replicas import Unused, find_unused_parameters, replicated
from detrkit.engine.distributed.sync_bn import SynchronizedBatchNorm2d, with_synchronized_norms
from tests.engine.distributed.processes import in_processes
from tests.engine.test_accumulation import detector
from tests.losses.cases import make_targets

CPU = torch.device("cpu")


class Part(nn.Module):
    """Some parameters learn always, some never, some only where there are boxes."""

    def __init__(self) -> None:
        super().__init__()
        self.always = nn.Conv2d(3, 2, 1)
        self.never = nn.Linear(2, 2)
        self.boxes = nn.Linear(4, 1)
        self.frozen = nn.Linear(1, 1).requires_grad_(False)

    def forward(self, images: Tensor, targets: Any) -> dict[str, Tensor]:
        outputs = {"pred": self.always(images).mean(1), "idle": self.never(images[:, :2, 0, :2])}
        if sum(map(len, targets)):
            outputs["boxes"] = self.boxes(torch.cat([t.boxes_cxcywh for t in targets]))
        return outputs


class PartLoss(nn.Module):
    """Does not look at `idle`."""

    def forward(self, outputs: Any, targets: Any, epoch: int = 0) -> dict[str, Tensor]:
        losses = {"loss": outputs["pred"].square().mean()}
        if "boxes" in outputs:
            losses["loss_boxes"] = outputs["boxes"].mean()
        return losses


def trial(model: nn.Module, criterion: nn.Module | None = None) -> Unused:
    return find_unused_parameters(
        model, criterion or PartLoss(), device=CPU, size=(4, 4), autocast=nullcontext
    )


def test_the_trial_tells_parameters_without_gradient() -> None:
    model = Part().eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    assert trial(model) == Unused(
        always=("never.bias", "never.weight"), sometimes=("boxes.bias", "boxes.weight")
    )
    assert not model.training
    assert all(p.grad is None for p in model.parameters())
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def steps(find_unused: bool) -> tuple[dict[str, Tensor | None], bool]:
    """Three steps on the process's own images; only the main one has boxes, and in one step."""
    from detrkit.structures import Target

    torch.manual_seed(rank())  # replicas start from the main process's weights nevertheless
    model = Part()
    options = {"device": CPU, "size": (4, 4), "autocast": nullcontext}
    replica = replicated(model, PartLoss(), find_unused=find_unused, **options)
    assert isinstance(replica, DistributedDataParallel)
    start = model.always.weight.clone()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for step in range(3):
        count = 2 if rank() == 0 and step == 1 else 0
        targets = [Target(torch.rand(count, 4), torch.zeros(count, dtype=torch.int64))]
        outputs = replica(torch.rand(1, 3, 4, 4), targets)
        torch.stack(list(PartLoss()(outputs, targets).values())).sum().backward()
        optimizer.step()
        grads = {name: None if p.grad is None else p.grad for name, p in model.named_parameters()}
        optimizer.zero_grad()
    assert not torch.equal(start, model.always.weight)
    state = {name: value.detach() for name, value in model.state_dict().items()}
    return state, all(grads[f"never.{n}"] is None for n in ("weight", "bias"))


@pytest.mark.parametrize("find_unused", [False, True])
def test_processes_without_boxes_keep_up(find_unused: bool) -> None:
    (first, idle), (second, _) = in_processes(2, steps, find_unused)
    assert idle
    for name, value in first.items():
        assert torch.equal(value, second[name]), name


def test_a_single_process_keeps_its_model() -> None:
    model = Part()
    options = {"device": CPU, "size": (4, 4), "autocast": nullcontext}
    assert replicated(model, PartLoss(), sync_bn=True, **options) is model


# Batch norm ------------------------------------------------------------------------------------

SHARES = (3, 1, 2)


def norm_step(norm: nn.Module, x: Tensor) -> dict[str, Tensor]:
    """Output, gradients and statistics after two batches."""
    for part in (x + 1, x):
        part = part.detach().requires_grad_()
        y = norm(part)
        norm.zero_grad()
        (y.square() * torch.linspace(0.1, 2, y.shape[-1])).sum().backward()
    assert part.grad is not None
    found = {"y": y.detach(), "x": part.grad}
    found.update({f"{name} slope": p.grad for name, p in norm.named_parameters()})  # type: ignore[misc]
    found.update(norm.state_dict())
    return found


def images() -> Tensor:
    return torch.randn(sum(SHARES), 4, 5, 3, generator=torch.Generator().manual_seed(1)) * 3 + 1


def synchronized_step(momentum: float | None) -> dict[str, Tensor]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.BatchNorm2d(4, momentum=momentum))
    nn.init.uniform_(model[0].weight)  # type: ignore[arg-type]
    (norm,) = with_synchronized_norms(model, CPU)  # type: ignore[misc]
    assert isinstance(norm, SynchronizedBatchNorm2d)
    return norm_step(norm, images().split(SHARES[: world_size()])[rank()])


@pytest.mark.parametrize("momentum", [0.1, None])
def test_batch_norm_over_processes_is_that_of_the_whole_batch(momentum: float | None) -> None:
    torch.manual_seed(0)
    norm = nn.BatchNorm2d(4, momentum=momentum)
    nn.init.uniform_(norm.weight)
    whole = norm_step(norm, images())
    parts = in_processes(3, synchronized_step, momentum)
    close = {"atol": 1e-4, "rtol": 1e-4}
    for name in ("y", "x"):
        torch.testing.assert_close(torch.cat([p[name] for p in parts]), whole[name], **close)
    for name in ("weight slope", "bias slope"):
        torch.testing.assert_close(sum(p[name] for p in parts), whole[name], **close)
    for name in ("running_mean", "running_var", "num_batches_tracked"):
        for part in parts:
            torch.testing.assert_close(part[name], whole[name], **close)


def test_synchronized_norms_are_ordinary_ones_elsewhere() -> None:
    model = nn.Sequential(nn.BatchNorm2d(4))
    twin = nn.Sequential(nn.BatchNorm2d(4))
    with_synchronized_norms(model, CPU)
    x = images()
    assert torch.equal(model(x), twin(x))
    assert torch.equal(model.eval()(x), twin.eval()(x))
    assert model.state_dict().keys() == twin.state_dict().keys()


# Detectors -------------------------------------------------------------------------------------


def detector_steps(name: str) -> dict[str, Tensor]:
    """Two steps with denoising: the second process has no box, then nobody has."""
    model, criterion = detector(name, denoising=10, frozen=False)
    model.float()
    options = {"device": CPU, "size": (64, 64), "autocast": nullcontext, "sync_bn": True}
    replica = replicated(model, criterion, **options)
    assert not replica.find_unused_parameters
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-4)
    for step in range(2):
        generator = torch.Generator().manual_seed(10 * step + rank())
        targets = make_targets([3, 2] if rank() == 0 and step == 0 else [0, 0])
        losses = criterion(replica(torch.rand(2, 3, 64, 64, generator=generator), targets), targets)
        torch.stack(list(losses.values())).sum().backward()
        assert all(p.grad is not None for p in model.parameters() if p.requires_grad)
        optimizer.step()
        optimizer.zero_grad()
    return {name: value.detach() for name, value in model.state_dict().items()}


@pytest.mark.parametrize(
    "name",
    [
        "dfine_n_coco",
        pytest.param("deimv2_pico_coco", marks=pytest.mark.slow),
        pytest.param("deim_hgnetv2_n_coco", marks=pytest.mark.slow),
        pytest.param("rtdetrv2_r18vd_120e_coco", marks=pytest.mark.slow),
    ],
)
def test_detectors_without_boxes_take_part(name: str) -> None:
    first, second = in_processes(2, detector_steps, name)
    for key, value in first.items():
        assert value.isfinite().all(), key
        assert torch.equal(value, second[key]), key
