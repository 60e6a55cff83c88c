"""The whole training schedule as one pure function of the recipe and the data's size.

    plan = Plan.from_tree(config.tree, batches_per_epoch=100)
    plan.at(148).name            # "refine": strong augmentation is over
    plan.lr_factor(step)         # factor on each group's base learning rate
    print(plan.describe())       # the same, for people

D-FINE trains in two stages (Peng et al. 2024, arXiv:2410.13842, appendix; the authors'
repository): until `stop_epoch` with strong augmentation and several image sizes, then the rest of
the epochs at one size with flips only, starting again from the best weights of stage 1. An epoch
of stage 2 that does not improve goes back to those weights once more.

`schedule: auto` derives the numbers from the count of epochs and batches; the rules stand in
`automatic` below.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from detrkit.engine.quirks import is_our_recipe
from detrkit.engine.schedules import LRSchedule, schedule_from
from detrkit.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Stage:
    """A run of epochs under the same rules.

    Attributes:
        name: "strong augmentation", "refine" or "train" (when there is only one).
        first: its first epoch, counted from 0.
        end: the epoch after its last.
        strong_augmentation: whether the operations that the policy names are on.
        image_sizes: sides in pixels that batches are resized to at random, (h, w); empty: off.
        ema_decay: the decay in force.
        restarts: it begins with the best weights so far, and returns to them after each epoch
            that is not better.
    """

    name: str
    first: int
    end: int
    strong_augmentation: bool
    image_sizes: tuple[int, ...]
    ema_decay: float
    restarts: bool = False

    def starts_at(self, epoch: int) -> bool:
        """Whether this stage begins with `epoch`, coming from another stage."""
        return epoch == self.first and epoch > 0


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
        rewinds: a restart also rewinds the learning-rate schedule.
    """

    epochs: int
    batches_per_epoch: int
    stages: tuple[Stage, ...]
    schedule: LRSchedule
    ema: EMAPlan | None
    rewinds: bool = True

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
        ema = None
        if tree.get("use_ema"):
            section = tree.get("ema") or {}
            ema = EMAPlan(
                float(section.get("decay", 0.9999)),
                int(section.get("warmups", 1000)),
                int(section.get("start", 0)),
            )
        return cls(
            epochs=epochs,
            batches_per_epoch=batches_per_epoch,
            stages=_stages(tree, epochs, ema, ours),
            schedule=schedule_from(tree, curve_waits=not ours),
            ema=ema,
            rewinds=not ours,
        )

    def at(self, epoch: int) -> Stage:
        """The stage that `epoch` (from 0) belongs to."""
        for stage in self.stages:
            if stage.first <= epoch < stage.end:
                return stage
        return self.stages[-1]

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
            "stages": [
                {
                    "name": s.name,
                    "epochs": [s.first, s.end - 1],
                    "strong_augmentation": s.strong_augmentation,
                    "image_sizes": list(s.image_sizes),
                    "ema_decay": s.ema_decay if self.ema else None,
                    "restarts_from_best": s.restarts,
                }
                for s in self.stages
            ],
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
        for s in self.stages:
            sizes = sorted(set(s.image_sizes))
            words = [
                "strong augmentation" if s.strong_augmentation else "light augmentation",
                f"image sizes {sizes[0]} to {sizes[-1]}" if sizes else "one image size",
            ]
            if s.restarts:
                words.append("starts from the best weights so far")
            lines.append(f"epochs {s.first}-{s.end - 1}  {', '.join(words)}")
        previous = None
        for epoch in range(self.epochs):
            factor = self.lr_factor((epoch + 1) * self.batches_per_epoch - 1)
            if factor != previous:
                lines.append(f"epoch {epoch}  learning rate x {factor:.4g} at its end")
            previous = factor
        return "\n".join(lines)


def multi_scale_sizes(base_size: int, repeat: int | None) -> tuple[int, ...]:
    """Sides that the multi-scale collate draws from, multiples of 32 from 0.75 to 1.25 x base.

    The base itself stands `repeat` times in the list, so that it is drawn more often. None
    switches multi-scale off.
    """
    if repeat is None:
        return ()
    low, high = int(base_size * 0.75 / 32) * 32, int(base_size * 1.25 / 32) * 32
    count = (base_size - low) // 32
    up = [low + 32 * i for i in range(count)]
    down = [high - 32 * i for i in range(count)]
    return (*up, *[base_size] * repeat, *down)


def _stages(
    tree: Mapping[str, Any], epochs: int, ema: EMAPlan | None, ours: bool
) -> tuple[Stage, ...]:
    loader = tree.get("train_dataloader") or {}
    collate = loader.get("collate_fn") or {}
    policy = ((loader.get("dataset") or {}).get("transforms") or {}).get("policy") or {}
    augment_until = policy.get("epoch") if policy.get("name") == "stop_epoch" else None
    augment_until = epochs if augment_until is None else int(augment_until)
    restart_at = collate.get("stop_epoch")
    restart_at = epochs if restart_at is None else int(restart_at)
    base = collate.get("base_size", 640)
    base = base if isinstance(base, int) else max(base)
    sizes = multi_scale_sizes(base, collate.get("base_size_repeat"))
    decay = ema.decay if ema else 0.0
    # the authors assign ema_restart_decay to an attribute that nothing reads
    late_decay = float(collate.get("ema_restart_decay", decay)) if ours and ema else decay

    edges = sorted({0, epochs, *(e for e in (augment_until, restart_at) if 0 < e < epochs)})
    stages = []
    for first, end in pairwise(edges):
        strong = first < augment_until
        late = first >= restart_at
        if len(edges) == 2:
            name = "train"
        else:
            name = "refine" if late else "strong augmentation" if strong else "light augmentation"
        stages.append(
            Stage(
                name=name,
                first=first,
                end=end,
                strong_augmentation=strong,
                image_sizes=() if late else sizes,
                ema_decay=late_decay if late else decay,
                restarts=late,
            )
        )
    return tuple(stages)


@dataclass(frozen=True)
class Automatic:
    """What `schedule: auto` sets. See `automatic` for the rules."""

    stop_epoch: int
    warmup_steps: int
    ema_decay: float
    ema_warmups: int

    def values(self) -> dict[str, Any]:
        """The same as dotted keys of the configuration."""
        return {
            "train_dataloader.dataset.transforms.policy.epoch": self.stop_epoch,
            "train_dataloader.collate_fn.stop_epoch": self.stop_epoch,
            "lr_warmup_scheduler.warmup_duration": self.warmup_steps,
            "ema.decay": self.ema_decay,
            "ema.warmups": self.ema_warmups,
        }


def automatic(
    epochs: int,
    batches_per_epoch: int,
    *,
    warmup_steps: int = 500,
    ema_decay: float = 0.9999,
    ema_warmups: int = 1000,
) -> Automatic:
    """Derives the schedule from the length of the run.

    The authors' files train for 100 000 steps and more. Their numbers (the keyword arguments)
    are upper limits; a short run takes a share of its own length T = epochs x batches:

    - light augmentation for the last 12 % of the epochs (theirs: 8 to 17 %), at least one epoch;
      a run of one or two epochs has no second stage;
    - learning-rate warm-up over T / 20 steps, at most theirs;
    - averaged weights remember the last T / 20 steps (decay = 1 - 20 / T), at most as long as
      theirs, and their decay rises over T / 40 steps, at most theirs.

    Zero stays zero: a recipe that turned its warm-up off keeps it off.
    """
    total = max(epochs * batches_per_epoch, 1)
    tail = max(round(0.12 * epochs), 1) if epochs > 2 else 0
    memory = max(total / 20, 10.0)
    return Automatic(
        stop_epoch=epochs - tail,
        warmup_steps=min(warmup_steps, math.ceil(total / 20)),
        ema_decay=min(ema_decay, round(1 - 1 / memory, 6)),
        ema_warmups=min(ema_warmups, math.ceil(total / 40)),
    )
