"""The observer's contract: five methods, no priorities, no write access to the training."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from detrkit.distillation.names import PREFIX
from detrkit.engine import log_names as names
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
        lrs: rate of each parameter group by its name; empty where there is only one.
        ema_decay: in force for the averaged weights; None: there are none.
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
    lrs: Mapping[str, float] = field(default_factory=dict)
    ema_decay: float | None = None
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
        is_best: whether it is the best so far.
        best_metric: name of the number that says so.
        best_value, best_epoch: best so far.
        train_seconds, eval_seconds: wall time.
        wait_seconds: of the training, without work because a batch was not there.
        images_per_second: of the training part.
        memory_gib: peak of the device's memory, None on a CPU.
        step: optimizer steps done so far.
        lrs, ema_decay: as in StepReport, at the end of the epoch.
        skipped_steps: dropped because they were not finite; `losses` are those of the others.
        distill_ratio: norm of a distillation's gradient over that of the other losses; None
            where it was not measured.
    """

    epoch: int
    epochs: int
    stage: str
    losses: Mapping[str, float]
    lr: float
    metrics: Mapping[str, float]
    is_best: bool
    best_value: float | None
    best_epoch: int
    train_seconds: float
    eval_seconds: float
    images_per_second: float
    memory_gib: float | None
    step: int
    lrs: Mapping[str, float] = field(default_factory=dict)
    ema_decay: float | None = None
    wait_seconds: float = 0.0
    skipped_steps: int = 0
    best_metric: str = "AP"
    distill_ratio: float | None = None

    @property
    def data_wait(self) -> float:
        """The share of the training time, 0 to 1, that was spent waiting for batches."""
        return min(self.wait_seconds / max(self.train_seconds, 1e-9), 1.0)

    def to_dict(self) -> dict[str, Any]:
        """Flat plain data, one line of the log, under the names of `detrkit.engine.log_names`."""
        return {
            "epoch": self.epoch,
            "stage": self.stage,
            "step": self.step,
            names.LR: self.lr,
            **names.lr_names(self.lrs),
            **{names.loss_name(name): value for name, value in self.losses.items()},
            **self._distillation(),
            names.EMA_DECAY: self.ema_decay,
            names.SKIPPED_STEPS: self.skipped_steps,
            **{names.metric_name(name): value for name, value in self.metrics.items()},
            "best": self.is_best,
            names.TRAIN_SECONDS: round(self.train_seconds, 3),
            names.WAIT_SECONDS: round(self.wait_seconds, 3),
            names.DATA_WAIT: round(self.data_wait, 4),
            names.EVAL_SECONDS: round(self.eval_seconds, 3),
            names.IMAGES_PER_SECOND: round(self.images_per_second, 2),
            names.MEMORY_GIB: self.memory_gib,
        }

    def _distillation(self) -> dict[str, float]:
        """The sum of its terms and the ratio of the gradients, where there are any."""
        terms = [value for name, value in self.losses.items() if name.startswith(PREFIX)]
        found = {names.DISTILL: sum(terms)} if terms else {}
        if self.distill_ratio is not None:
            found[names.DISTILL_GRADIENT_RATIO] = self.distill_ratio
        return found


@dataclass(frozen=True, slots=True)
class LateReport:
    """Metrics of a finished epoch that took longer: false detections, counted in the background.

    Attributes:
        epoch, epochs: epoch from 0, and how many.
        step: optimizer steps that were done when it ended.
        metrics: {"oa_fppi": …}, see `detrkit.metrics.over_activation`.
    """

    epoch: int
    epochs: int
    step: int
    metrics: Mapping[str, float]

    def to_dict(self) -> dict[str, float]:
        """Under the names of `detrkit.engine.log_names`."""
        return {names.metric_name(name): value for name, value in self.metrics.items()}

    def describe(self) -> str:
        """`epoch 3: 0.25 false detections per image, 80% of the images without, …`"""
        found = self.metrics
        return (
            f"epoch {self.epoch + 1}: {found['oa_fppi']:.3g} false detections per image, "
            f"{found['oa_clean_rate']:.0%} of the images without, "
            f"highest score {found['oa_max_score']:.2f}"
        )


class Observer:
    """Does nothing; subclasses override what they need."""

    def step(self, report: StepReport) -> None:
        """After each batch."""

    def epoch(self, report: EpochReport) -> None:
        """After each epoch and its evaluation."""

    def late(self, report: LateReport) -> None:
        """When more is known about an epoch that was told before."""

    def close(self) -> None:
        """When training stops, also after an error."""

    def end(self, error: BaseException | None) -> None:
        """Last of all, once the pictures of a finished run are drawn.

        Args:
            error: what broke the run off; None: it is finished.
        """


@contextmanager
def until_the_end(observers: Sequence[Observer]) -> Iterator[None]:
    """Tells every observer how the run inside the block ended."""
    try:
        yield
    except BaseException as error:
        for observer in observers:
            observer.end(error)
        raise
    for observer in observers:
        observer.end(None)
