"""Where a run stands, and which of its epochs were good."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor

from detrkit.engine.amp import Amp
from detrkit.engine.checkpoint import Checkpoint
from detrkit.engine.distributed.group import gathered, is_distributed, shared

#: So many epochs in a row are needed for a decline: one alone may be an unlucky one.
DECLINE = 3

#: Fields of checkpoints that were written when only AP could judge an epoch.
_OLD_NAMES = {"best_ap": "best_value", "try_ap": "try_value"}


@dataclass(frozen=True, slots=True)
class Verdict:
    """What an epoch was worth.

    Attributes:
        is_best: better than every epoch before it.
        is_progress: better than the epochs since the last return to the best weights.
    """

    is_best: bool
    is_progress: bool


@dataclass
class TrainState:
    """Position and record of a run; saved in every checkpoint.

    Attributes:
        epoch: the epoch in progress, from 0.
        batch: batches of it that are done.
        step: optimizer steps of the run; only ever rises.
        schedule_step: position on the learning-rate curve; a restart may rewind it.
        rate_step: position whose rate the next step takes instead, after a restart that brought
            back the rate of the saved weights; None: its own.
        best_value, best_epoch: the best epoch so far, and what it is judged by.
        try_value: the best since the last return to the best stage-1 weights.
        latest: what the last epochs were judged by, since that return; at most `DECLINE`.
        skipped: epochs of the plan that were left out when patience ran out.
        ended_early: why the run ended before its plan; None: it did not.
        loss_names, loss_sums: sums over the epoch's steps.
        skipped_steps: steps of the epoch that were dropped because they were not finite.
        skips_in_a_row: of them and of the epochs before, up to the latest step.
        roll_backs: how often the run went back because of too many of them.
        amp: number format since the last of these; None: as configured.
        lr_scale: factor of all learning rates since then.
        splits: so many times more parts than configured, since memory was short.
        images, train_seconds, wait_seconds, eval_seconds: of the epoch.
    """

    epoch: int = 0
    batch: int = 0
    step: int = 0
    schedule_step: int = 0
    rate_step: int | None = None
    best_value: float | None = None
    best_epoch: int = -1
    try_value: float | None = None
    latest: list[float] = field(default_factory=list)
    skipped: int = 0
    ended_early: str | None = None
    loss_names: list[str] = field(default_factory=list)
    loss_sums: Tensor | None = None
    skipped_steps: int = 0
    skips_in_a_row: int = 0
    roll_backs: int = 0
    amp: Amp | None = None
    lr_scale: float = 1.0
    splits: int = 1
    images: int = 0
    train_seconds: float = 0.0
    wait_seconds: float = 0.0
    eval_seconds: float = 0.0

    @property
    def is_good_start(self) -> bool:
        """Whether this is the start of an epoch, and not amid steps that were dropped."""
        return self.batch == 0 and self.skips_in_a_row == 0

    def add(self, losses: Mapping[str, Tensor], images: int, unless: Tensor | None = None) -> None:
        """Adds a step's losses to the epoch's sums, without waiting for the device.

        A batch without boxes may lack a term (DEIM's distillation of denoising queries): it counts
        as zero there.

        Args:
            losses: weighted terms.
            images: of the step.
            unless: () bool: the losses do not count.
        """
        values = torch.stack([value.float() for value in losses.values()])
        if unless is not None:
            values = values.masked_fill(unless.to(values.device), 0.0)
        names = list(losses)
        if self.loss_sums is None:
            self.loss_names, self.loss_sums = names, values
        elif names == self.loss_names:
            self.loss_sums = self.loss_sums.to(values.device) + values
        else:
            sums = dict(zip(self.loss_names, self.loss_sums.to(values.device), strict=True))
            for name, value in zip(names, values, strict=True):
                sums[name] = sums[name] + value if name in sums else value
            self.loss_names, self.loss_sums = list(sums), torch.stack(list(sums.values()))
        self.images += images

    def average(self) -> None:
        """Makes the sums those of all processes on average. Every process must call it."""
        if not is_distributed() or self.loss_sums is None:
            return
        sums = dict(zip(self.loss_names, self.loss_sums.tolist(), strict=True))
        everyone = gathered(sums)
        sums = shared(lambda: _averages(everyone or []))
        self.loss_names = list(sums)
        self.loss_sums = torch.tensor(list(sums.values()), dtype=torch.float32)

    def mean_losses(self) -> dict[str, float]:
        """Mean of each term over the epoch's steps that count, and `loss`, their sum."""
        steps = self.batch - self.skipped_steps
        if self.loss_sums is None or steps == 0:
            return {}
        means = (self.loss_sums.double() / steps).tolist()
        return {"loss": sum(means), **dict(zip(self.loss_names, means, strict=True))}

    def judge(self, value: float | None) -> Verdict:
        """Compares the epoch with those before. Without a value (None) every epoch is the best."""
        if value is None:
            self.best_epoch = self.epoch
            return Verdict(is_best=True, is_progress=True)
        self.latest = [*self.latest, value][-DECLINE:]
        is_best = self.best_value is None or value > self.best_value
        is_progress = self.try_value is None or value > self.try_value
        if is_best:
            self.best_value, self.best_epoch = value, self.epoch
        if is_progress:
            self.try_value = value
        return Verdict(is_best, is_progress)

    def has_declined(self, chance: float) -> bool:
        """Whether none of the last epochs came near the best one.

        Args:
            chance: what is at most so much worse is near.
        """
        if self.best_value is None or len(self.latest) < DECLINE:
            return False
        return max(self.latest) < self.best_value - chance

    def next_epoch(self) -> None:
        """Moves to the start of the next epoch."""
        self.epoch += 1
        self.batch = 0
        self.loss_names, self.loss_sums = [], None
        self.skipped_steps = 0
        self.images, self.eval_seconds = 0, 0.0
        self.train_seconds = self.wait_seconds = 0.0

    def skip_to(self, epoch: int, batches_per_epoch: int) -> None:
        """Leaves out the epochs of the plan before `epoch`; the schedule goes on from there."""
        left_out = epoch - self.epoch
        self.epoch = epoch
        self.skipped += left_out
        self.schedule_step += left_out * batches_per_epoch

    def to_dict(self) -> dict[str, Any]:
        """Plain data for a checkpoint."""
        data = {k: v for k, v in asdict(self).items() if k != "loss_sums"}
        data["loss_sums"] = None if self.loss_sums is None else self.loss_sums.tolist()
        return data

    @classmethod
    def from_checkpoint(cls, checkpoint: Checkpoint, batches_per_epoch: int) -> TrainState:
        """From ours; from the authors' as far as they say: the start of the next epoch."""
        data = dict(checkpoint.position)
        if not data:
            epoch = checkpoint.last_epoch + 1
            step = epoch * batches_per_epoch
            warmup = checkpoint.lr_warmup_scheduler or {}
            # DEIM makes a warm-up for its flat-cosine schedule and never advances it
            done = int(warmup.get("last_step") or step)
            return cls(epoch=epoch, step=step, schedule_step=done)
        for old, new in _OLD_NAMES.items():
            if old in data:
                data[new] = data.pop(old)
        sums = data.pop("loss_sums", None)
        known = cls.__dataclass_fields__
        state = cls(**{k: v for k, v in data.items() if k in known})
        state.loss_sums = None if sums is None else torch.tensor(sums, dtype=torch.float32)
        return state


def _averages(sums: list[dict[str, float]]) -> dict[str, float]:
    """Term by term; one that a process lacks counts as zero there."""
    names = dict.fromkeys(name for own in sums for name in own)
    return {name: sum(own.get(name, 0.0) for own in sums) / len(sums) for name in names}
