"""The whole training schedule as one pure function of the recipe and the data's size.

    plan = Plan.from_tree(config.tree, batches_per_epoch=100)
    plan.at(148).name            # "refine": strong augmentation is over
    plan.lr_factor(step)         # factor on each group's base learning rate
    print(plan.describe())       # the same, for people

D-FINE trains in two stages (Peng et al. 2024, arXiv:2410.13842, appendix; the authors'
repository): until `stop_epoch` with strong augmentation and several image sizes, then the rest of
the epochs at one size with flips only, starting again from the best weights of stage 1. An epoch
of stage 2 that does not improve goes back to those weights once more. DEIM and DEIMv2 (Huang et
al. 2024, arXiv:2412.04234, section 4; 2025, arXiv:2509.20787) do the same, with mosaic, mixup and
copyblend in a window of stage 1, a flat-cosine rate, and another matching cost near the end.
RT-DETRv2 has the stages, but goes on from the weights that it has.

`schedule: auto` derives the numbers from the count of epochs and batches, and starts again from
the best weights only where the run has declined since; the rules stand in
`detrkit.engine.automatic`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from detrkit.engine.quirks import is_our_recipe
from detrkit.engine.schedules import LRSchedule, Schedule, schedule_from
from detrkit.engine.stages import Stage, collate_of, restart_epoch, stages_of
from detrkit.errors import ConfigError

__all__ = ["EMAPlan", "Plan", "Stage"]


@dataclass(frozen=True)
class EMAPlan:
    """How the averaged weights follow.

    Attributes:
        decay: share of the old average that stays, at most.
        warmups: updates over which the decay rises, as decay (1 - exp(-updates / warmups)).
        start: steps that are left out at first.
    """

    decay: float = 0.9999
    warmups: int = 1000
    start: int = 0

    @classmethod
    def from_tree(cls, tree: Mapping[str, Any]) -> EMAPlan | None:
        """From `ema`, or `ema_decay` and `ema_warmups` without that section.

        None where `use_ema` is off.
        """
        if not tree.get("use_ema"):
            return None
        section = tree.get("ema")
        if not isinstance(section, Mapping):
            return cls(float(tree.get("ema_decay", 0.9999)), int(tree.get("ema_warmups", 2000)))
        return cls(
            float(section.get("decay", 0.9999)),
            int(section.get("warmups", 1000)),
            int(section.get("start", 0)),
        )

    def decay_at(self, updates: int) -> float:
        """The decay of update number `updates`, counted from 1."""
        if self.warmups <= 0:
            return self.decay
        return self.decay * (1 - math.exp(-updates / self.warmups))


@dataclass(frozen=True)
class Plan:
    """See the module. Immutable; every method is a pure function of its arguments.

    Attributes:
        epochs: how many.
        batches_per_epoch: optimizer steps in one epoch.
        stages: in order, without gaps, from epoch 0 to `epochs`.
        schedule: learning-rate curve.
        ema: None when no average is kept.
        restart_epoch: begins with the best weights so far; None: no epoch does.
        restarts_after_decline: it does so only where the latest epochs are worse by more than
            chance, and no epoch returns to them later.
        rewinds: a restart also rewinds the learning-rate schedule.
        keeps_old_rate: the first step after a restart runs at the rate that was in force when the
            weights were saved.
    """

    epochs: int
    batches_per_epoch: int
    stages: tuple[Stage, ...]
    schedule: Schedule
    ema: EMAPlan | None
    restart_epoch: int | None = None
    restarts_after_decline: bool = False
    rewinds: bool = True
    keeps_old_rate: bool = False

    @classmethod
    def from_tree(cls, tree: Mapping[str, Any], batches_per_epoch: int) -> Plan:
        """Reads the plan from a resolved configuration (`Config.tree`).

        Raises:
            ConfigError: a number makes no sense, e.g. no epochs.
        """
        epochs = int(tree.get("epochs") or 0)
        if epochs < 1:
            raise ConfigError(
                f"epochs: must be at least 1, got {tree.get('epochs')}",
                hint="set `epochs: 50` in the file or --epochs 50",
            )
        if batches_per_epoch < 1:
            raise ConfigError(
                "an epoch has no batches: fewer training images than the batch size",
                hint="use a smaller batch (--batch) or more images",
            )
        ours = is_our_recipe(tree)
        ema = EMAPlan.from_tree(tree)
        schedule = schedule_from(tree, ours=ours)
        decay = ema.decay if ema else 0.0
        late_decay = decay
        if ours and ema:  # the authors assign it to an attribute that nothing reads
            late_decay = float(collate_of(tree).get("ema_restart_decay", decay))
        by_epoch = isinstance(schedule, LRSchedule)
        return cls(
            epochs=epochs,
            batches_per_epoch=batches_per_epoch,
            stages=stages_of(tree, epochs, ema_decay=decay, late_ema_decay=late_decay),
            schedule=schedule,
            ema=ema,
            restart_epoch=restart_epoch(tree, epochs),
            restarts_after_decline=tree.get("restart_from_best") == "decline",
            rewinds=not ours and by_epoch,
            keeps_old_rate=not ours and not by_epoch,
        )

    def at(self, epoch: int) -> Stage:
        """The stage that `epoch` (from 0) belongs to."""
        for stage in self.stages:
            if stage.first <= epoch < stage.end:
                return stage
        return self.stages[-1]

    @property
    def last_stage(self) -> int:
        """First epoch of what ends the run: after the restart, or without strong augmentation.

        0 where nothing of the kind does.
        """
        if self.restart_epoch is not None:
            return self.restart_epoch
        last = self.stages[-1]
        return 0 if last.strong_augmentation else last.first

    def lr_factor(self, step: int) -> float:
        """Factor on each group's base learning rate for optimizer step `step`, from 0."""
        return self.schedule.factor(step, self.batches_per_epoch)

    def lr_factors(self, steps: list[int]) -> list[float]:
        """`lr_factor` of several steps."""
        return [self.lr_factor(step) for step in steps]

    @property
    def steps(self) -> int:
        """Optimizer steps of the whole run."""
        return self.epochs * self.batches_per_epoch

    def to_dict(self) -> dict[str, Any]:
        """Plain data for `--json`."""
        return {
            "epochs": self.epochs,
            "batches_per_epoch": self.batches_per_epoch,
            "steps": self.steps,
            "warmup_steps": self.schedule.warmup_steps,
            "stages": [stage.to_dict() for stage in self.stages],
            "ema": asdict(self.ema) if self.ema else None,
            "restart_epoch": self.restart_epoch,
            "restarts_after_decline": self.restarts_after_decline,
            "lr_factor_at_epoch_start": [
                self.lr_factor(epoch * self.batches_per_epoch) for epoch in range(self.epochs)
            ],
        }

    def describe(self) -> str:
        """The plan in a few lines of text."""
        lines = [
            f"{self.epochs} epochs of {self.batches_per_epoch} batches, {self.steps} steps; "
            f"warm-up over {self.schedule.warmup_steps} steps"
        ]
        if self.ema:
            lines.append(
                f"weights averaged with decay {self.ema.decay:g}, rising over "
                f"{self.ema.warmups} steps"
            )
        lines += [stage.describe() for stage in self.stages]
        if self.restart_epoch is not None and self.restarts_after_decline:
            lines.append(
                f"epoch {self.restart_epoch} goes back to the best weights so far only after a "
                "decline: three epochs worse than the best by more than chance"
            )
        lines += self.schedule.describe(self.batches_per_epoch, self.epochs)
        return "\n".join(lines)
