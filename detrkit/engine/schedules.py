"""Learning-rate curves: the factor on every group's base rate, as pure functions of the position.

A position is a number of optimizer steps done and the number of steps in an epoch; nothing here
holds state, so that a curve can be printed or plotted before a run starts and resuming needs no
more than a number.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from detrkit.errors import ConfigError, did_you_mean


class Curve(Protocol):
    """A learning-rate curve without its warm-up."""

    def factor(self, epochs_done: int) -> float:
        """Factor after `epochs_done` scheduler epochs."""
        ...


@dataclass(frozen=True)
class ConstantCurve:
    """The base rate throughout."""

    def factor(self, epochs_done: int) -> float:
        """Always 1."""
        return 1.0


@dataclass(frozen=True)
class MultiStepCurve:
    """Multiplied by `gamma` at each milestone (in epochs).

    A milestone that stands twice in the list counts twice, as in torch.
    """

    milestones: tuple[int, ...]
    gamma: float = 0.1

    def factor(self, epochs_done: int) -> float:
        """gamma ** (milestones passed)."""
        return float(self.gamma ** sum(milestone <= epochs_done for milestone in self.milestones))


@dataclass(frozen=True)
class CosineCurve:
    """Half a cosine from 1 to `floor` over `period` epochs (Loshchilov & Hutter 2017, eq. 5)."""

    period: int
    floor: float = 0.0

    def factor(self, epochs_done: int) -> float:
        """floor + (1 - floor) (1 + cos(pi t / T)) / 2."""
        return (
            self.floor + (1 - self.floor) * (1 + math.cos(math.pi * epochs_done / self.period)) / 2
        )


@dataclass(frozen=True)
class LRSchedule:
    """A curve behind a linear warm-up.

    Attributes:
        curve: the shape after the warm-up.
        warmup_steps: step i (from 0) runs at (i + 1) / warmup_steps of the curve.
        curve_waits: the curve's epochs count only once the warm-up has ended (the authors' way);
            otherwise they count from the start.
    """

    curve: Curve
    warmup_steps: int = 0
    curve_waits: bool = True

    def factor(self, step: int, steps_per_epoch: int) -> float:
        """Factor on the base rates for optimizer step `step`, counted from 0."""
        epoch = step // steps_per_epoch
        if self.curve_waits and self.warmup_steps > 0:
            # epoch j moves the curve only if its last step ended the warm-up
            first = max(math.ceil(self.warmup_steps / steps_per_epoch) - 1, 0)
            epoch = max(epoch - first, 0)
        warm = 1.0
        if step < self.warmup_steps:
            warm = min(1.0, (step + 1) / self.warmup_steps)
        return warm * self.curve.factor(epoch)


def schedule_from(tree: Mapping[str, Any], *, curve_waits: bool = True) -> LRSchedule:
    """The schedule that `lr_scheduler` and `lr_warmup_scheduler` describe.

    Args:
        tree: the resolved configuration as nested plain data.
        curve_waits: see LRSchedule.

    Raises:
        ConfigError: an unknown scheduler type or a value that makes no sense.
    """
    if tree.get("lr_scheduler_kind"):
        raise ConfigError(
            f"lr_scheduler_kind: the trainer has no `{tree['lr_scheduler_kind']}` schedule yet",
            hint="use an `lr_scheduler` section, e.g. {type: MultiStepLR, milestones: [500]}",
        )
    section = dict(tree.get("lr_scheduler") or {})
    kind = section.pop("type", None)
    curve: Curve
    if kind is None:
        curve = ConstantCurve()
    elif kind == "MultiStepLR":
        curve = MultiStepCurve(
            tuple(int(m) for m in section.get("milestones", ())), float(section.get("gamma", 0.1))
        )
    elif kind == "CosineAnnealingLR":
        base = float((tree.get("optimizer") or {}).get("lr", 1.0)) or 1.0
        period = int(section.get("T_max") or tree.get("epochs") or 1)
        curve = CosineCurve(period, float(section.get("eta_min", 0.0)) / base)
    else:
        known = ("MultiStepLR", "CosineAnnealingLR")
        raise ConfigError(
            f"lr_scheduler.type: the trainer has no `{kind}`{did_you_mean(str(kind), known)}",
            hint=f"use one of {', '.join(known)}, or leave lr_scheduler out for a constant rate",
        )
    warmup = dict(tree.get("lr_warmup_scheduler") or {})
    if warmup and warmup.get("type", "LinearWarmup") != "LinearWarmup":
        raise ConfigError(
            f"lr_warmup_scheduler.type: the trainer has no `{warmup['type']}`",
            hint="use LinearWarmup with warmup_duration in iterations",
        )
    return LRSchedule(curve, int(warmup.get("warmup_duration", 0)), curve_waits)
