"""Steps whose loss or gradient is not finite: noticed, counted, answered.

    skip      the step is dropped (`safeguard.py`): a single bad batch costs nothing else
    go back   after `max_skips` of them in a row, or as many as an epoch has, to the state at the
              start of the epoch they began in, with a safer number format (fp16 -> bf16 ->
              float32) or, in float32, half the rates
    stop      after `max_roll_backs` of these: exit code 7, and all that is known in a folder

Going back brings weights, optimizer and averages back, but neither the data nor the schedule:
the run goes on with the next batch, so that it does not meet the same ones in the same way
again. (PaLM did the same by hand: Chowdhery et al. 2022, arXiv:2204.02311, section 5.1.)

On a GPU a step is known to be bad one step later, when the host has waited for the matcher's
costs anyway; reading earlier would make it wait once more. Processes share what they find, so they
count alike and answer alike.
"""

from __future__ import annotations

import logging
import math
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from detrkit.engine.diagnosis import write_diagnosis
from detrkit.engine.distributed.group import gathered, is_main, shared
from detrkit.engine.distributed.meeting import agreed
from detrkit.errors import ConfigError, TrainingDiverged
from detrkit.structures import Batch
from detrkit.words import count

if TYPE_CHECKING:
    from detrkit.engine.trainer import Trainer

log = logging.getLogger("detrkit")

#: So many dropped steps of an epoch are described one by one.
DESCRIBED = 5

#: So many in a row may be chance, however short an epoch is.
LEAST = 3

_HINT = "lower the learning rate (--lr), use --amp bf16 or off, or look at these images"


@dataclass(frozen=True)
class Policy:
    """What follows a step that is not finite.

    Attributes:
        on_non_finite: "skip" drops it, "stop" ends the run.
        max_skips: so many in a row send the run back.
        max_roll_backs: how often, before it ends.
    """

    on_non_finite: Literal["skip", "stop"] = "skip"
    max_skips: int = 10
    max_roll_backs: int = 2

    def __post_init__(self) -> None:
        if self.max_skips < 1 or self.max_roll_backs < 0:
            raise ConfigError(
                f"max_skips: {self.max_skips}, max_roll_backs: {self.max_roll_backs}: "
                "at least 1 and 0",
                hint="on_non_finite: stop ends the run at the first step that is not finite",
            )

    @property
    def goes_back(self) -> bool:
        """Whether the run ever needs the state at the start of an epoch."""
        return self.on_non_finite == "skip" and self.max_roll_backs > 0


class Flag:
    """A flag of the device, on its way to the host without keeping it."""

    def __init__(self, flag: Tensor) -> None:
        self._arrived: torch.cuda.Event | None = None
        self._host = flag
        if flag.is_cuda:
            self._host = torch.empty_like(flag, device="cpu", pin_memory=True)
            self._host.copy_(flag, non_blocking=True)
            self._arrived = torch.cuda.current_stream(flag.device).record_event()

    def read(self) -> bool:
        """Waits until it is there."""
        if self._arrived is not None:
            self._arrived.synchronize()
        return bool(self._host)


@dataclass(frozen=True)
class Step:
    """A step that was made, until it is known whether it was finite.

    Attributes:
        step, epoch, number: of the run; its epoch and batch, from 0.
        losses: weighted terms on the device.
        norm: of the gradients.
        batch: as the loader made it.
        parts: in which it went through the model.
        bad: whether it was dropped.
        masked: by the device, so that the average counted it.
    """

    step: int
    epoch: int
    number: int
    losses: Mapping[str, Tensor]
    norm: Tensor
    batch: Batch
    parts: int
    bad: Flag
    masked: bool

    def describe(self) -> str:
        """What was not finite in any process. Every process must call it."""
        everyone = gathered(self._words())
        return shared(lambda: min(everyone or [])[1])

    def _words(self) -> tuple[bool, str]:
        """Whether the losses of this process are finite, and what to say."""
        values = {name: float(value) for name, value in self.losses.items()}
        bad = [name for name, value in values.items() if not math.isfinite(value)]
        finite = math.isfinite(sum(values.values()))
        what = f"the loss is not finite at step {self.step}"
        if bad:
            more = f" and {len(bad) - 4} more" if len(bad) > 4 else ""
            what += ": " + ", ".join(f"{name} = {values[name]}" for name in bad[:4]) + more
        elif finite:
            what = f"the gradient is not finite at step {self.step} (the losses are)"
        images = ", ".join(str(target.image_id) for target in self.batch.targets[:16])
        return finite, f"{what}; gradient norm {float(self.norm):.3g}; images {images}"


class Watch:
    """Counts the dropped steps of a run and acts by its policy.

    Args:
        trainer: of the run.
        policy: what to do.
        lag: steps between a step and the reading of its flag; default 1 on a GPU, else 0.
    """

    def __init__(self, trainer: Trainer, policy: Policy, lag: int | None = None) -> None:
        self.trainer = trainer
        self.policy = policy
        self.lag = (1 if trainer.device.type == "cuda" else 0) if lag is None else lag
        self._recent: deque[Step] = deque()

    def look(self, losses: Mapping[str, Tensor], norm: Tensor, batch: Batch) -> None:
        """Remembers the step that was just made and counted, and acts on those known by now.

        Args:
            losses, norm: of the step.
            batch: as the loader made it.

        Raises:
            TrainingDiverged: the policy says to stop.
        """
        state, safeguard = self.trainer.state, self.trainer.safeguard
        self._recent.append(
            Step(
                state.step - 1,
                state.epoch,
                state.batch - 1,
                losses,
                norm,
                batch,
                self.trainer.parts,
                Flag(safeguard.bad),
                safeguard.masked,
            )
        )
        while len(self._recent) > self.lag:
            self._answer(self._recent.popleft())

    def settle(self) -> None:
        """Acts on all steps so far; the state of the run is exact then."""
        while self._recent:
            self._answer(self._recent.popleft())

    def _answer(self, step: Step) -> None:
        state = self.trainer.state
        if not step.bad.read():
            state.skips_in_a_row = 0
            return
        if step.masked and self.trainer.ema and is_main():
            self.trainer.ema.take_back()
        state.skipped_steps += 1
        state.skips_in_a_row += 1
        if self.policy.on_non_finite == "stop":
            self._stop(step, step.describe())
        if state.skips_in_a_row >= self._most():
            self._go_back(step, step.describe())
        elif state.skipped_steps <= DESCRIBED:
            last = "; others of this epoch are only counted"
            end = last if state.skipped_steps == DESCRIBED else ""
            log.warning("%s; the step is dropped%s", step.describe(), end)

    def _most(self) -> int:
        """Dropped steps in a row that are too many: a short run must not end amid them."""
        return min(self.policy.max_skips, max(len(self.trainer.loader), LEAST))

    def _go_back(self, step: Step, words: str) -> None:
        state = self.trainer.state
        in_a_row = f"{count(state.skips_in_a_row, 'step')} in a row dropped"
        if state.roll_backs >= self.policy.max_roll_backs:
            tried = f" after going back {count(state.roll_backs, 'time')}"
            self._stop(step, f"{words}; {in_a_row}" + (tried if state.roll_backs else ""))
        log.warning("%s", words)
        folder = write_diagnosis(self.trainer, step, words)
        # what was made of the present weights goes with them
        state.skipped_steps += sum(later.bad.read() for later in self._recent)
        self._recent.clear()
        change = self.trainer.roll_back()
        if change is None:
            self._stop(step, f"{words}; {in_a_row}, and no earlier state was found")
        state.roll_backs += 1
        state.skips_in_a_row = 0
        log.warning(
            "%s: back to the last good state; going on in epoch %d after batch %d with %s%s",
            in_a_row,
            state.epoch + 1,
            state.batch,
            change,
            f"; see {folder}" if folder else "",
        )

    def _stop(self, step: Step, words: str) -> None:
        folder = write_diagnosis(self.trainer, step, words)
        raise agreed(TrainingDiverged(words + (f"; see {folder}" if folder else ""), hint=_HINT))
