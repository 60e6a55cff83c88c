"""When the teacher is listened to, and how much."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from detrkit.errors import ConfigError

Decay = Literal["none", "linear", "cosine"]


@dataclass(frozen=True)
class Window:
    """A factor on all distillation losses, as a pure function of the position in the run.

    Attributes:
        start: first epoch with distillation, from 0.
        stop: first epoch without it again.
        warmup: epochs, or parts of one, over which it rises from 0.
        decay: how it falls to 0 towards `stop`: "none" (at once), "linear", "cosine".
        decay_epochs: over so many epochs; None: from the end of the warm-up on.
    """

    start: int
    stop: int
    warmup: float = 0.0
    decay: Decay = "none"
    decay_epochs: float | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.start < self.stop:
            raise ConfigError(
                f"distillation from epoch {self.start} to {self.stop}: no epoch is left",
                hint="epochs count from 0; stop_epoch is the first without distillation",
            )
        length = self.stop - self.start
        if self.warmup < 0 or self.warmup + (self.decay_epochs or 0) > length:
            raise ConfigError(
                f"distillation: warmup_epochs {self.warmup:g} and decay_epochs "
                f"{self.decay_epochs or 0:g} do not fit into {length} epochs"
            )
        if self.decay_epochs is not None and self.decay_epochs <= 0:
            raise ConfigError(f"distillation: decay_epochs must be above 0: {self.decay_epochs}")

    def is_open(self, epoch: int) -> bool:
        """Whether `epoch` has distillation."""
        return self.start <= epoch < self.stop

    def is_over(self, epoch: int) -> bool:
        """Whether neither `epoch` nor a later one has."""
        return epoch >= self.stop

    def factor(self, position: float) -> float:
        """The factor at a position in epochs: 2.5 is the middle of the third."""
        if not self.start <= position < self.stop:
            return 0.0
        since = position - self.start
        if since < self.warmup:
            return since / self.warmup
        if self.decay == "none":
            return 1.0
        length = self.stop - self.start - self.warmup
        falls = length if self.decay_epochs is None else self.decay_epochs
        left = min((self.stop - position) / falls, 1.0)
        return left if self.decay == "linear" else 0.5 * (1 - math.cos(math.pi * left))
