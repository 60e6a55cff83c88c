"""`--batch auto`: how many images a step should have on this machine.

On a GPU the largest batch that fits, found by real steps: doubled until memory is short, then
bisected. A tenth of the memory stays free, because other images need other sizes. On a CPU, where
memory is plenty and speed hardly depends on the batch, the one that trains most images per second,
of nearly equal ones the nearest to the recipe's.

Steps are those of `detrkit.engine.step_probe`: the largest images of the run, with most boxes.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from detrkit.config import Config
from detrkit.engine.derive import rate_factor
from detrkit.engine.machine import look, resident_memory
from detrkit.engine.memory import give_back
from detrkit.engine.overheard import overheard
from detrkit.engine.parts import batch_size_of, split_of
from detrkit.engine.session import Session, open_session
from detrkit.engine.step_probe import StepCost, StepProbe, attempt, largest_size
from detrkit.errors import DetrkitError, UsageError

log = logging.getLogger("detrkit")

#: Share of the memory that stays free.
SPARE = 0.1

#: `auto` leaves an epoch this many steps at least, unless that means fewer images than `LEAST`.
LEAST_STEPS = 16
LEAST = 4

#: `auto` goes no further than this: rates are scaled by rules that hold nearby only.
MOST = 256

#: Seconds that steps on a CPU may take altogether.
SECONDS = 60.0

#: Batches within this share of the fastest count as equally fast.
NEARLY = 0.95

#: Measures a step of so many images; None: it does not fit.
Measure = Callable[[int], StepCost | None]


@dataclass(frozen=True)
class BatchChoice:
    """What `auto` came to.

    Attributes:
        batch: images per step.
        reason: why not more or fewer, in a few words.
        trials: steps that were measured, in order.
        too_large: batches that did not fit.
        size: (h, w) of the images that were tried.
        rate_factor: what the learning rates are multiplied by; None: unknown.
    """

    batch: int
    reason: str
    trials: tuple[StepCost, ...] = ()
    too_large: tuple[int, ...] = ()
    size: tuple[int, int] = (0, 0)
    rate_factor: float | None = None

    def describe(self) -> str:
        """One line: the batch, why, and what it does to the learning rates."""
        text = f"{self.batch} ({self.reason})"
        if self.rate_factor is not None and self.rate_factor != 1:
            text += f"; learning rates x {self.rate_factor:.3g}, as the batch"
        return text

    def to_dict(self) -> dict[str, Any]:
        """Plain data for `--json`."""
        return {
            "batch": self.batch,
            "reason": self.reason,
            "size": list(self.size),
            "rate_factor": self.rate_factor,
            "too_large": list(self.too_large),
            "trials": [
                {"batch": c.batch, "seconds": c.seconds, "memory": c.memory} for c in self.trials
            ],
        }


def choose_batch(cfg: Config, processes: int = 1) -> BatchChoice:
    """The batch for a run that is about to start.

    Args:
        cfg: of the run.
        processes: of the run. Each would try on its own, and wait for the others in vain where
            one of them is short of memory.

    Raises:
        UsageError: there are several processes.
        DetrkitError: the data or the configuration is wrong, or not even one image fits.
    """
    if processes > 1:
        raise UsageError(
            f"--batch auto tries on one device, but the run has {processes} processes",
            hint="`detrkit doctor CFG --batch auto` finds the batch of one device; "
            f"give {processes} times as much",
        )
    with overheard():  # the run will say it
        session = open_session(cfg)
        probe = StepProbe(session)
        choice = choose_for(session, probe)
    device = session.device
    del probe, session
    give_back(device)
    return choice


def choose_for(session: Session, probe: StepProbe, seconds: float = SECONDS) -> BatchChoice:
    """The batch for a session.

    Args:
        session: with its data; its own batch is where the search starts from.
        probe: of the session.
        seconds: that steps on a CPU may take.

    Raises:
        DetrkitError: not even one image fits.
    """
    size = largest_size(session)
    own = batch_size_of(split_of(session.config, "train_dataloader"), default=4)
    images = len(session.train.dataset)
    limit = memory_limit(session.device)

    def measure(batch: int) -> StepCost | None:
        log.info("trying a batch of %d at %d x %d", batch, *size)
        steps = 1 if session.device.type == "cpu" else 2
        return attempt(lambda: probe.measure(batch, size, steps=steps), probe.release)

    most = min(max(images // LEAST_STEPS, LEAST), images, MOST)
    if session.device.type == "cpu":
        choice = fastest(measure, min(own, most), limit=limit, seconds=seconds)
    else:
        choice = largest_fitting(measure, most, limit=limit, first=min(own, most))
    return BatchChoice(
        choice.batch,
        choice.reason,
        choice.trials,
        choice.too_large,
        size,
        rate_factor(session.config, choice.batch, linear=True),
    )


def memory_limit(device: torch.device) -> int | None:
    """Bytes that this process may hold on a device, or on the machine for a CPU."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return int(free + torch.cuda.memory_reserved(device))
    if device.type == "mps":
        return int(torch.mps.recommended_max_memory())
    available = look().memory_available
    return None if available is None else available + resident_memory()


def largest_fitting(
    measure: Measure, most: int, *, limit: int | None, first: int = 1
) -> BatchChoice:
    """The largest batch that leaves `SPARE` of `limit` free.

    Batches are doubled until one does not fit, then halved between the last two; past 8 only
    multiples of 2, past 16 of 4, and so on are tried.

    Args:
        measure: a step.
        most: largest batch to try.
        limit: bytes; None: unknown, what can be run fits.
        first: batch to begin with.

    Raises:
        DetrkitError: not even one image fits.
    """
    trials: list[StepCost] = []
    too_large: list[int] = []

    def fits(batch: int) -> bool:
        cost = measure(batch)
        if cost is None or (limit and (cost.memory or 0) > (1 - SPARE) * limit):
            too_large.append(batch)
            return False
        trials.append(cost)
        return True

    low, high, batch = 0, 0, max(first, 1)
    while not high and low < most:
        if fits(batch):
            low, batch = batch, min(2 * batch, most)
        else:
            high = batch
    while high - low > (step := _grid(low)):
        middle = low + max((high - low) // 2 // step, 1) * step
        if fits(middle):
            low = middle
        else:
            high = middle
    if not low:
        raise DetrkitError(
            "not even a batch of one image fits into the memory",
            hint="a smaller input (--size), a smaller model, or --amp bf16",
        )
    reason = "the most that is tried" if low >= most else f"{high} do not fit with a tenth spare"
    return BatchChoice(low, reason, tuple(trials), tuple(too_large))


def _grid(batch: int) -> int:
    """Distance of the batches worth telling apart: the power of two that is an eighth or less."""
    return 1 << max((batch // 8).bit_length() - 1, 0)


def fastest(
    measure: Measure, most: int, *, limit: int | None, seconds: float = SECONDS
) -> BatchChoice:
    """The batch that trains most images per second; of nearly equal ones the largest.

    Raises:
        DetrkitError: not even one image fits.
    """
    trials = climb(measure, most, limit=limit, seconds=seconds)
    if not trials:
        raise DetrkitError(
            "not even a batch of one image fits into the memory",
            hint="a smaller input (--size) or a smaller model",
        )
    best = max(cost.images_per_second for cost in trials)
    chosen = [cost for cost in trials if cost.images_per_second >= NEARLY * best][-1]
    reason = f"{chosen.images_per_second:.3g} images/s"
    last = trials[-1]
    if chosen is not last:
        reason += f"; {last.batch} give {last.images_per_second:.3g}"
    elif last.batch < most:
        reason += (
            "; more would not fit" if _too_much(trials, limit) else "; more were too slow to try"
        )
    else:
        reason += ", the most that is tried"
    return BatchChoice(chosen.batch, reason, tuple(trials))


def climb(
    measure: Measure, target: int, *, limit: int | None, seconds: float = SECONDS
) -> list[StepCost]:
    """Costs of 1, 2, 4, … and `target` images, as far as memory and time allow.

    A batch is not tried when the ones before it let expect that it takes more than `SPARE` leaves
    of `limit`, or that all steps together would take more than `seconds`.
    """
    costs: list[StepCost] = []
    started = time.perf_counter()
    batch = 1
    while True:
        if costs:
            spent = time.perf_counter() - started
            # a trial was so many times as long as its step: warm-up, reading the images
            trial = spent_per_second(costs, spent) * predicted(costs, batch)[0]
            if spent + trial > seconds or _too_much(costs, limit, batch):
                return costs
        cost = measure(batch)
        if cost is None:
            return costs
        costs.append(cost)
        if batch >= target:
            return costs
        batch = min(2 * batch, target)


def spent_per_second(costs: Sequence[StepCost], spent: float) -> float:
    """Seconds that trials took for each second of their steps."""
    return spent / max(sum(cost.seconds for cost in costs), 1e-9)


def predicted(costs: Sequence[StepCost], batch: int) -> tuple[float, float | None]:
    """Seconds and bytes of a step of `batch` images, on the line through the last two costs."""
    last = costs[-1]
    if len(costs) == 1:
        ratio = batch / last.batch
        return last.seconds * ratio, last.memory  # what the program itself holds is unknown yet
    before = costs[-2]
    more = (batch - last.batch) / (last.batch - before.batch)
    seconds = last.seconds + max(last.seconds - before.seconds, 0.0) * more
    # an image never costs more time among more of them: a steeper line is noise
    seconds = min(seconds, last.seconds * batch / last.batch)
    if last.memory is None or before.memory is None:
        return seconds, None
    return seconds, last.memory + max(last.memory - before.memory, 0) * more


def fitting_batch(costs: Sequence[StepCost], limit: int | None) -> int | None:
    """The largest batch that leaves `SPARE` free, on the line through the last two costs.

    None where the memory of two batches is not known.
    """
    if limit is None or len(costs) < 2:
        return None
    one, two = costs[-2:]
    if one.memory is None or two.memory is None or two.memory <= one.memory:
        return None
    per_image = (two.memory - one.memory) / (two.batch - one.batch)
    batch = two.batch + int(((1 - SPARE) * limit - two.memory) / per_image)
    return batch // _grid(batch) * _grid(batch) if batch > 0 else None


def _too_much(costs: Sequence[StepCost], limit: int | None, batch: int | None = None) -> bool:
    _, memory = predicted(costs, batch or 2 * costs[-1].batch)
    return limit is not None and memory is not None and memory > (1 - SPARE) * limit
