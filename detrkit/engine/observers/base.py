"""The observer's contract: two methods, no priorities, no write access to the training."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from detrkit.structures import Batch


@dataclass(frozen=True, slots=True)
class StepReport:
    """One optimizer step, or one batch of the evaluation.

    Attributes:
        phase: "train" or "val".
        epoch, epochs: epoch from 0, and how many.
        batch, batches: batch in the epoch from 0, and how many.
        step: optimizer steps done before this one.
        losses: weighted terms, detached, on the device; reading one waits for the device.
        lr: the main learning rate (the highest of all groups).
        grad_norm: of all gradients before clipping; on the device.
        data: the batch, on the device.
        seconds: wall time since the step before, or since the epoch began.
        wait_seconds: of them, without work because the batch was not there; on a GPU possibly of
            the step before.
    """

    phase: str
    epoch: int
    epochs: int
    batch: int
    batches: int
    step: int = 0
    losses: Mapping[str, Tensor] = field(default_factory=dict)
    lr: float = 0.0
    grad_norm: Tensor | None = None
    data: Batch | None = None
    seconds: float = 0.0
    wait_seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class EpochReport:
    """A finished epoch.

    Attributes:
        epoch, epochs: epoch from 0, and how many.
        stage: name of the stage.
        losses: mean of each term; `loss` is their sum.
        lr: the main rate at the end of the epoch.
        metrics: {"AP": …, "AP50": …}; empty when the epoch was not evaluated.
        is_best: whether AP is the best so far.
        best_ap, best_epoch: best so far.
        train_seconds, eval_seconds: wall time.
        wait_seconds: of the training, without work because a batch was not there.
        images_per_second: of the training part.
        memory_gib: peak of the device's memory, None on a CPU.
        step: optimizer steps done so far.
    """

    epoch: int
    epochs: int
    stage: str
    losses: Mapping[str, float]
    lr: float
    metrics: Mapping[str, float]
    is_best: bool
    best_ap: float | None
    best_epoch: int
    train_seconds: float
    eval_seconds: float
    images_per_second: float
    memory_gib: float | None
    step: int
    wait_seconds: float = 0.0

    @property
    def data_wait(self) -> float:
        """The share of the training time, 0 to 1, that was spent waiting for batches."""
        return min(self.wait_seconds / max(self.train_seconds, 1e-9), 1.0)

    def to_dict(self) -> dict[str, Any]:
        """Flat plain data, one line of the log."""
        return {
            "epoch": self.epoch,
            "stage": self.stage,
            "step": self.step,
            "lr": self.lr,
            **{f"train/{name}": value for name, value in self.losses.items()},
            **{f"val/{name}": value for name, value in self.metrics.items()},
            "best": self.is_best,
            "train_seconds": round(self.train_seconds, 3),
            "wait_seconds": round(self.wait_seconds, 3),
            "eval_seconds": round(self.eval_seconds, 3),
            "images_per_second": round(self.images_per_second, 2),
            "memory_gib": self.memory_gib,
        }


class Observer:
    """Does nothing; subclasses override what they need."""

    def step(self, report: StepReport) -> None:
        """After each batch."""

    def epoch(self, report: EpochReport) -> None:
        """After each epoch and its evaluation."""

    def close(self) -> None:
        """At the end of the run, also after an error."""
