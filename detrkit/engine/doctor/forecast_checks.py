"""What the measured numbers mean: batch, time, memory, disk, who waits for whom."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from detrkit.data.caching import Room
from detrkit.engine.batch_size import SPARE, BatchChoice
from detrkit.engine.doctor.forecast import Forecast
from detrkit.engine.doctor.report import Check, note, ok, problem, warning
from detrkit.engine.machine import Machine
from detrkit.engine.observers.bottleneck import THRESHOLD
from detrkit.engine.plan import EMAPlan, Plan
from detrkit.words import amount, count, duration

#: An epoch of fewer steps: averaging, warm-up and the best epoch become coarse.
FEW_STEPS = 10

#: A warm-up longer than this share of the run, and more of the initial weights in the average.
MUCH_WARMUP = 0.5
MUCH_OF_THE_START = 0.1

#: Runs that take longer deserve a word.
LONG = 7 * 86400

#: Equal steps that differ so many times are a sign of other programs.
UNSTEADY = 3.0

#: Batches that each loader worker keeps on their way (`build_loader`'s default), and the one that
#: it is working on.
ON_THEIR_WAY = 3


def plan_checks(plan: Plan) -> Iterator[Check]:
    """The schedule in short, its stages as details; what does not go with the length of the run."""
    text = (
        f"{count(plan.epochs, 'epoch')} of {count(plan.batches_per_epoch, 'batch')}, "
        f"{count(plan.steps, 'step')}"
    )
    values = plan.to_dict()
    del values["lr_factor_at_epoch_start"]
    stages = [stage.describe() for stage in plan.stages]
    if plan.batches_per_epoch < FEW_STEPS:
        yield note(
            "plan",
            f"{text}: an epoch is short",
            "a smaller batch (--batch), or more epochs",
            details=stages,
            values=values,
        )
    else:
        yield ok("plan", text, details=stages, values=values)
    warmup = plan.schedule.warmup_steps
    derive = f"--epochs {plan.epochs} derives it from the length of the run"
    if warmup > MUCH_WARMUP * plan.steps:
        yield warning(
            "plan.warmup",
            f"warm-up takes {warmup:,} of {count(plan.steps, 'step')}"
            + (": the learning rate never reaches its value" if warmup >= plan.steps else ""),
            derive,
            values={"warmup": warmup, "steps": plan.steps},
        )
    if plan.ema is not None:
        left = initial_share(plan.ema, plan.steps)
        if left > MUCH_OF_THE_START:
            yield warning(
                "plan.average",
                f"the averaged weights, which are evaluated and kept, still consist of {left:.0%} "
                "of the initial ones at the end",
                derive,
                values={"share": left},
            )


def initial_share(ema: EMAPlan, steps: int) -> float:
    """Share of the initial weights in the average after so many steps."""
    logs = 0.0
    for update in range(1, max(steps - ema.start, 0) + 1):
        logs += math.log(max(ema.decay_at(update), 1e-300))
        if logs < -20:
            return 0.0
    return math.exp(logs)


def batch_check(choice: BatchChoice, own: int) -> Check:
    """What `--batch auto` came to, and what it does to the learning rates.

    Args:
        choice: of the search.
        own: the configuration's batch.
    """
    tried = [
        f"{cost.batch}: {duration(cost.seconds)} a step, {cost.images_per_second:.3g} images/s"
        + (f", {amount(cost.memory)}" if cost.memory else "")
        for cost in sorted(choice.trials, key=lambda cost: cost.batch)
    ]
    tried += [f"{batch}: does not fit" for batch in sorted(choice.too_large)]
    text = f"auto: {choice.batch} ({choice.reason})"
    if choice.rate_factor and choice.batch != own:
        text += f"; learning rates x {choice.rate_factor:.3g}, as the batch: {choice.batch} / {own}"
    return ok("plan.batch", text, details=tried, values=choice.to_dict())


def step_check(forecast: Forecast, busy: bool = False) -> Check:
    """Seconds of a step.

    Args:
        forecast: with them.
        busy: whether other programs kept the machine busy meanwhile.
    """
    f = forecast
    text = (
        f"{duration(f.mean_seconds)} a step on average: batch {f.batch}, {_size(f.size)}, "
        f"{f.model_rate:.3g} images/s"
    )
    if f.largest != f.size:
        text += f"; {duration(f.largest_seconds)} at {_size(f.largest)}"
    if f.measured < f.batch:
        text += f" (measured with {count(f.measured, 'image')}, the rest is calculated)"
    values = {
        "seconds": f.mean_seconds, "batch": f.batch, "measured": f.measured, "size": list(f.size),
        "largest": list(f.largest), "seconds_largest": f.largest_seconds, "spread": f.spread,
    }  # fmt: skip
    if f.spread > UNSTEADY:
        text += f"; equal steps differ {f.spread:.0f} times"
    if busy or f.spread > UNSTEADY:
        return warning(
            "forecast.step",
            f"{text}; other programs compete: alone it is faster",
            "measure again when they are done",
            values=values,
        )
    return ok("forecast.step", text, values=values)


def memory_check(forecast: Forecast) -> Check:
    """Peak memory against what there is."""
    f = forecast
    values = {"peak": f.memory, "limit": f.memory_limit, "boxes": f.boxes}
    if f.memory is None:
        return note(
            "forecast.memory", "the system does not tell how much a step takes", values=values
        )
    text = (
        f"{amount(f.memory)} at most, for {count(f.batch, 'image')} of {_size(f.largest)} with "
        f"{count(f.boxes, 'box')}"
    )
    if f.memory_limit is None:
        return ok("forecast.memory", text, values=values)
    text += f"; there are {amount(f.memory_limit)}"
    hint = f"--batch {f.fitting} fits" if f.fitting else "a smaller --size, or a smaller model"
    values["fitting"] = f.fitting
    if f.memory > f.memory_limit:
        return problem("forecast.memory", text, hint, values=values)
    if f.memory > (1 - SPARE) * f.memory_limit:
        return warning("forecast.memory", text, hint, values=values)
    return ok("forecast.memory", text, values=values)


def loader_check(forecast: Forecast, remedies: Callable[[float], Sequence[str]]) -> Check:
    """Who waits: the model for images, or the loader for the model.

    Args:
        forecast: with both rates.
        remedies: what would help where so large a share of the time is waited for images.
    """
    f = forecast
    if "loader" in f.failures:
        return problem(
            "forecast.loader",
            f"loading failed: {f.failures['loader']}",
            "does it work with --workers 0?",
        )
    workers = "in the main process" if not f.workers else f"with {count(f.workers, 'worker')}"
    text = f"{f.loader_rate:.3g} images/s {workers}, the model trains {f.model_rate:.3g}"
    values = {
        "loader": f.loader_rate,
        "model": f.model_rate,
        "together": f.rate,
        "workers": f.workers,
    }
    lost = 1 - f.rate / f.model_rate
    if lost <= THRESHOLD:
        return ok("forecast.loader", f"{text}: the loader waits for the model", values=values)
    return warning(
        "forecast.loader",
        f"{text}: loading costs {lost:.0%} of the time",
        "; or ".join(remedies(lost)),
        values=values,
    )


def cache_check(kind: str, need: int, room: Room) -> Check:
    """Whether the decoded images that `--cache` keeps have room.

    Args:
        kind: "ram" or "disk".
        need: bytes of the training images.
        room: bytes for them.
    """
    place = "memory" if kind == "ram" else "disk space"
    text = f"decoded images take {amount(need)} of {amount(room.usable)} of {place}"
    values = {"kind": kind, "need": need, "room": room.usable}
    if need <= room.usable:
        return ok("forecast.cache", text, values=values)
    return problem(
        "forecast.cache", text, "--cache-size N for smaller ones, or --cache off", values=values
    )


def time_check(forecast: Forecast) -> Check:
    """Of an epoch and of the run."""
    f = forecast
    if "validation" in f.failures:
        return problem("forecast.time", f"validation failed: {f.failures['validation']}")
    train = f.epoch_seconds - f.eval_seconds
    text = f"an epoch takes {duration(f.epoch_seconds)}"
    if f.eval_seconds:
        text += f" ({duration(train)} training, {duration(f.eval_seconds)} validation)"
    text += f", the run of {count(f.epochs, 'epoch')} {duration(f.run_seconds)}"
    values = {
        "epoch": f.epoch_seconds, "training": train, "validation": f.eval_seconds,
        "run": f.run_seconds, "epochs": f.epochs,
    }  # fmt: skip
    if f.run_seconds > LONG:
        hint = "fewer --epochs, a smaller --size or model, or tune published weights"
        return warning(
            "forecast.time", text, hint + (" or a GPU" if f.on_cpu else ""), values=values
        )
    return ok("forecast.time", text, values=values)


def disk_check(forecast: Forecast, plan: Plan, every: int, folder: Path, free: int) -> Check:
    """Room for all checkpoints that a run keeps.

    Args:
        forecast: sizes of the files.
        plan: says whether stage 2 starts from a state of its own.
        every: epochs between numbered checkpoints; 0: none.
        folder: where they go.
        free: bytes there.
    """
    numbered = plan.epochs // every if every else 0
    whole = 2 + numbered + (plan.restart_epoch is not None)  # one more while it is written
    need = whole * forecast.checkpoint_bytes + forecast.weights_bytes
    text = (
        f"{amount(need)} of checkpoints ({amount(forecast.checkpoint_bytes)} each"
        + (f", {numbered} of them numbered" if numbered else "")
        + f"); {amount(free)} free at {folder}"
    )
    values = {"need": need, "free": free, "checkpoint": forecast.checkpoint_bytes,
              "numbered": numbered}  # fmt: skip
    hint = "another --output, or fewer numbered ones: -u checkpoint_freq=0"
    if need > free:
        return problem("forecast.disk", text, hint, values=values)
    if need > 0.5 * free:
        return warning("forecast.disk", text, hint, values=values)
    return ok("forecast.disk", text, values=values)


def shared_memory_check(forecast: Forecast, machine: Machine) -> Iterator[Check]:
    """Room in /dev/shm for the batches that workers have on their way."""
    free = machine.shared_memory_free
    if free is None or not forecast.workers:
        return
    need = forecast.workers * ON_THEIR_WAY * forecast.batch_bytes
    text = f"/dev/shm: loader workers need {amount(need)}, {amount(free)} are free"
    values = {"need": need, "free": free}
    if need > free:
        yield problem(
            "forecast.shared-memory",
            text,
            "start the container with --shm-size=8g or --ipc=host; or --workers 0",
            values=values,
        )
    else:
        yield ok("forecast.shared-memory", text, values=values)


def _size(size: tuple[int, int]) -> str:
    return f"{size[0]}x{size[1]}"
