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

#: The value of `lr_scheduler_kind` for DEIM's schedule, and the keys that it needs.
FLAT_COSINE = "flatcosine"
FLAT_COSINE_KEYS = ("warmup_iter", "flat_epoch", "no_aug_epoch", "lr_gamma")


class Schedule(Protocol):
    """The whole learning-rate schedule of a run, warm-up included."""

    @property
    def warmup_steps(self) -> int:
        """Optimizer steps of the warm-up."""
        ...

    def factor(self, step: int, steps_per_epoch: int) -> float:
        """Factor on the base rates for optimizer step `step`, counted from 0."""
        ...

    def describe(self, steps_per_epoch: int, epochs: int) -> list[str]:
        """The schedule after its warm-up in lines of text."""
        ...


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

    def describe(self, steps_per_epoch: int, epochs: int) -> list[str]:
        """The factor at the end of each epoch in which it changed."""
        lines = []
        previous = None
        for epoch in range(epochs):
            factor = self.factor((epoch + 1) * steps_per_epoch - 1, steps_per_epoch)
            if factor != previous:
                lines.append(f"epoch {epoch}  learning rate x {factor:.4g} at its end")
            previous = factor
        return lines


@dataclass(frozen=True)
class FlatCosine:
    """Quadratic warm-up, a flat part, half a cosine down to `floor`, and `floor` to the end.

    The schedule of RTMDet (Lyu et al. 2022, arXiv:2212.07784, section 4.1), as DEIM uses it.

    Attributes:
        epochs: of the whole run.
        warmup_steps: step t (from 1) of the warm-up runs at (t / warmup_steps) ** 2.
        flat_epochs: the epoch in which the fall begins; past the end: never.
        tail_epochs: epochs at `floor` at the end, unless the flat part reaches into them.
        floor: the last factor.
        lags: the authors' code writes the rates after the optimizer step and counts from 0: step
            i runs at the curve's value for t = i - 1.
        first: with `lags`, the factor of the very first step, which no rate was written for.
    """

    epochs: int
    warmup_steps: int
    flat_epochs: int
    tail_epochs: int
    floor: float
    lags: bool = False
    first: float = 1.0

    def factor(self, step: int, steps_per_epoch: int) -> float:
        """Factor on the base rates for optimizer step `step`, counted from 0."""
        if not self.lags:
            return self._curve(step + 1, steps_per_epoch)
        if step == 0 or (step == 1 and self.warmup_steps == 0):
            # with `warmup_iter: 0` the authors' first value is 0 / 0, and nothing is written
            return self.first
        return self._curve(step - 1, steps_per_epoch)

    def _curve(self, t: int, steps_per_epoch: int) -> float:
        flat = self.flat_epochs * steps_per_epoch
        end = (self.epochs - self.tail_epochs) * steps_per_epoch
        if t <= self.warmup_steps:
            return float((t / self.warmup_steps) ** 2) if self.warmup_steps else 1.0
        if t <= flat:
            return 1.0
        if t >= end:
            return self.floor
        return (
            self.floor + (1 - self.floor) * (1 + math.cos(math.pi * (t - flat) / (end - flat))) / 2
        )

    def describe(self, steps_per_epoch: int, epochs: int) -> list[str]:
        """The parts of the curve."""
        if self.flat_epochs >= epochs or self.floor == 1:
            return ["learning rate flat to the end"]
        lines = [f"epoch {self.flat_epochs}  learning rate begins to fall, on a cosine"]
        end = max(epochs - self.tail_epochs, self.flat_epochs)
        if end < epochs:
            lines.append(f"epoch {end}  learning rate x {self.floor:.4g} from here on")
        return lines


def schedule_from(tree: Mapping[str, Any], *, ours: bool = False) -> Schedule:
    """The schedule that `lr_scheduler_kind`, or `lr_scheduler` and its warm-up, describe.

    Args:
        tree: the resolved configuration as nested plain data.
        ours: without the authors' quirks: see `LRSchedule.curve_waits`, `FlatCosine.lags`.

    Raises:
        ConfigError: an unknown scheduler type or a value that makes no sense.
    """
    warmup = dict(tree.get("lr_warmup_scheduler") or {})
    if warmup and warmup.get("type", "LinearWarmup") != "LinearWarmup":
        raise ConfigError(
            f"lr_warmup_scheduler.type: the trainer has no `{warmup['type']}`",
            hint="use LinearWarmup with warmup_duration in iterations",
        )
    duration = int(warmup.get("warmup_duration") or 0)
    kind = tree.get("lr_scheduler_kind")
    if kind is None:
        return LRSchedule(_curve_of(tree), duration, not ours)
    if kind != FLAT_COSINE:
        near = did_you_mean(str(kind), [FLAT_COSINE])
        raise ConfigError(
            f"lr_scheduler_kind: the trainer has no `{kind}`{near}",
            hint=f"use {FLAT_COSINE}, or an `lr_scheduler` section and no lr_scheduler_kind",
        )
    return _flat_cosine(tree, lags=not ours, first=1 / duration if duration > 0 else 1.0)


def _flat_cosine(tree: Mapping[str, Any], *, lags: bool, first: float) -> FlatCosine:
    missing = [key for key in FLAT_COSINE_KEYS if tree.get(key) is None]
    if missing:
        raise ConfigError(
            f"lr_scheduler_kind: {FLAT_COSINE} needs {', '.join(missing)}",
            hint="e.g. warmup_iter: 2000, flat_epoch: 29, no_aug_epoch: 8, lr_gamma: 0.5",
        )
    warmup, flat, tail = (int(tree[key]) for key in FLAT_COSINE_KEYS[:3])
    gamma = float(tree["lr_gamma"])
    for key, value in zip(FLAT_COSINE_KEYS, (warmup, flat, tail, gamma), strict=True):
        if value < 0:
            raise ConfigError(f"{key}: must not be negative, got {value:g}")
    return FlatCosine(int(tree.get("epochs") or 1), warmup, flat, tail, gamma, lags, first)


def _curve_of(tree: Mapping[str, Any]) -> Curve:
    section = dict(tree.get("lr_scheduler") or {})
    kind = section.pop("type", None)
    if kind is None:
        return ConstantCurve()
    if kind == "MultiStepLR":
        return MultiStepCurve(
            tuple(int(m) for m in section.get("milestones", ())), float(section.get("gamma", 0.1))
        )
    if kind == "CosineAnnealingLR":
        base = float((tree.get("optimizer") or {}).get("lr", 1.0)) or 1.0
        period = int(section.get("T_max") or tree.get("epochs") or 1)
        return CosineCurve(period, float(section.get("eta_min", 0.0)) / base)
    known = ("MultiStepLR", "CosineAnnealingLR")
    raise ConfigError(
        f"lr_scheduler.type: the trainer has no `{kind}`{did_you_mean(str(kind), known)}",
        hint=f"use one of {', '.join(known)}, or leave lr_scheduler out for a constant rate",
    )
