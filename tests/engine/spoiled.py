"""A toy run whose batches, losses or gradients are not finite where a test wants it."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from torch import nn

from detrkit.engine.observers import EpochReport, Observer, StepReport
from detrkit.engine.safeguard import Safeguard
from detrkit.engine.trainer import Trainer
from detrkit.structures import Batch
from tests.engine.toy import Loader, Loss, trainer

NAN, INF = float("nan"), float("inf")


class Spoiled(Loader):
    """Some batches (epoch, number) hold pixels that are not finite."""

    def __init__(self, bad: set[tuple[int, int]], batches: int = 5, value: float = NAN) -> None:
        super().__init__(batches)
        self.bad, self.value = bad, value

    def __iter__(self) -> Iterator[Batch]:
        for batch in super().__iter__():
            if self.made[-1] in self.bad:
                batch.images[0, 0, 0, 0] = self.value
            yield batch


def spoiled(folder: Path, *bad: tuple[int, int], value: float = NAN, **more: Any) -> Trainer:
    run = trainer(folder, **more)
    run.loader = Spoiled(set(bad), len(run.loader), value)
    return run


def content(run: Trainer) -> dict[str, Any]:
    """All that a step may change."""
    assert run.ema is not None
    return copy.deepcopy(
        {
            "model": run.model.state_dict(),
            "ema": run.ema.state_dict(),
            "optimizer": {
                k: v for k, v in run.optimizer.state_dict().items() if k != "param_groups"
            },
        }
    )


class Contents(Observer):
    """What the run holds after each step, and its reports."""

    def __init__(self) -> None:
        self.run: Trainer | None = None
        self.after: list[dict[str, Any]] = []
        self.epochs: list[EpochReport] = []

    def step(self, report: StepReport) -> None:
        if report.phase == "train" and self.run is not None:
            self.after.append(content(self.run))

    def epoch(self, report: EpochReport) -> None:
        self.epochs.append(report)


def on_the_device(run: Trainer) -> Trainer:
    """As on a GPU: the host reads the flag one step later."""
    run.safeguard = Safeguard(run.optimizer, on_device=True)
    run.watch.lag = 1
    return run


class Sharp(nn.Module):
    """A loss of zero whose slope is infinite, at chosen calls."""

    def __init__(self, *calls: int) -> None:
        super().__init__()
        self.calls, self.count, self.loss = calls, -1, Loss()

    def forward(self, outputs: Any, targets: Any, epoch: int = 0) -> Any:
        self.count += 1
        losses = self.loss(outputs, targets, epoch)
        if self.count in self.calls:
            losses["loss_sharp"] = (outputs["pred"].sum() * 0).sqrt()
        else:
            losses["loss_sharp"] = outputs["pred"].sum() * 0
        return losses
