"""Measured, not guessed: what a run will take, from a few real steps.

A step is measured at the run's largest size and at its input size, on the images with most boxes;
sizes between lie on a line over the number of pixels. Where a whole batch would take too long or
too much memory to try (on a CPU), smaller ones are measured and the line over them is followed.
The loader is measured alone, with its own number of workers; validation on a few images.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from detrkit.data.collate import BatchImageCollateFunction
from detrkit.data.loader import build_loader
from detrkit.engine.batch_size import climb, fitting_batch, memory_limit, predicted
from detrkit.engine.data_sets import loader_of
from detrkit.engine.distributed.replicas import unwrapped
from detrkit.engine.doctor.report import in_short
from detrkit.engine.machine import Machine
from detrkit.engine.session import Session, evaluator_on
from detrkit.engine.step_probe import StepCost, StepProbe, attempt, largest_size
from detrkit.errors import DetrkitError

log = logging.getLogger("detrkit.doctor")

#: Seconds for the steps on a CPU, and for the loader.
STEP_SECONDS = 40.0
LOADER_SECONDS = 5.0

#: Validation images that are measured.
VALIDATED = 16


@dataclass(frozen=True)
class Forecast:
    """What was measured, and what follows for a run.

    Attributes:
        batch: images of a step.
        measured: images of the largest step that was measured; the rest is calculated.
        size, largest: (h, w) of the run's input and of its largest images.
        boxes: of the fullest image.
        batch_bytes: of a batch of the largest images on its way from a loader worker.
        step_seconds, largest_seconds: of a step at these sizes.
        mean_seconds: of a step, over all steps of the run.
        memory: peak bytes of a step; None: unknown.
        memory_limit: bytes that there are; None: unknown.
        fitting: largest batch that fits by the line through the measured ones; None: unknown.
        loader_rate: images/s of the loader alone; infinite where it failed.
        workers: its processes.
        eval_seconds: of one validation.
        epochs, steps: of the run; steps of an epoch.
        checkpoint_bytes: of the whole state.
        weights_bytes: of the averaged weights.
        failures: {"loader", "validation"} -> what went wrong while it was measured.
        spread: slowest step by fastest, of equal ones.
        cores: of the machine.
        on_cpu: whether model and loader share them.
    """

    batch: int
    measured: int
    size: tuple[int, int]
    largest: tuple[int, int]
    boxes: int
    batch_bytes: int
    step_seconds: float
    largest_seconds: float
    mean_seconds: float
    memory: float | None
    memory_limit: int | None
    fitting: int | None
    loader_rate: float
    workers: int
    eval_seconds: float
    epochs: int
    steps: int
    checkpoint_bytes: int
    weights_bytes: int
    spread: float
    cores: int
    on_cpu: bool
    failures: Mapping[str, str] = field(default_factory=dict)

    @property
    def model_rate(self) -> float:
        """Images/s that the model trains when it never waits."""
        return self.batch / max(self.mean_seconds, 1e-9)

    @property
    def rate(self) -> float:
        """Images/s of training, loader and model together."""
        load, train = 1 / max(self.loader_rate, 1e-9), 1 / max(self.model_rate, 1e-9)
        if not self.workers:
            return 1 / (load + train)
        if not self.on_cpu:
            return 1 / max(load, train)
        # both compute on the same cores: the workers' share of them is missing to the model
        busy = min(self.workers, self.cores) / self.cores
        return 1 / max(load, train + load * busy)

    @property
    def epoch_seconds(self) -> float:
        """Of training and validation."""
        return self.steps * self.batch / self.rate + self.eval_seconds

    @property
    def run_seconds(self) -> float:
        """Of all epochs."""
        return self.epochs * self.epoch_seconds


class DoesNotFit(DetrkitError):
    """Not even one image, or on a GPU not the batch, fits into the memory."""


def measure_run(
    session: Session,
    probe: StepProbe,
    machine: Machine,
    *,
    known: Sequence[StepCost] = (),
    seconds: float = STEP_SECONDS,
    loader_seconds: float = LOADER_SECONDS,
) -> Forecast:
    """Measures steps, loader and validation.

    Args:
        session: with its data.
        probe: of the session, or of one that differs in its batch only.
        machine: that it runs on.
        known: costs at the largest size that were measured already.
        seconds: for the steps on a CPU.
        loader_seconds: for the loader.

    Raises:
        DoesNotFit: the batch does not.
    """
    batch = session.train.batch_size
    size, largest = session.image_spec.size, largest_size(session)
    limit = memory_limit(session.device)
    costs = list(known) or _costs(session, probe, batch, largest, limit, seconds)
    if not costs:
        raise DoesNotFit(
            f"a batch of {batch} images of {largest[0]}x{largest[1]} does not fit into the memory",
            hint="--batch auto finds the largest that does; or a smaller --size",
        )
    last = costs[-1]
    largest_seconds, memory = predicted(costs, batch)
    step_seconds = largest_seconds
    if size != largest:
        cost = attempt(lambda: probe.measure(last.batch, size, steps=1), probe.release)
        if cost is not None:
            step_seconds = largest_seconds * min(cost.seconds / last.seconds, 1.0)
    failures: dict[str, str] = {}
    rate, validation = math.inf, 0.0
    try:
        rate = loader_rate(session, loader_seconds)
    except Exception as error:  # a worker that dies raises whatever it likes
        log.debug("the loader failed", exc_info=True)
        failures["loader"] = in_short(error)
    try:
        validation = validation_seconds(session, probe)
    except Exception as error:
        log.debug("validation failed", exc_info=True)
        failures["validation"] = in_short(error)
    checkpoint, weights = checkpoint_sizes(probe)
    return Forecast(
        batch=batch,
        measured=min(last.batch, batch),
        size=size,
        largest=largest,
        boxes=max(cost.boxes for cost in costs),
        batch_bytes=batch * math.prod(largest) * session.image_spec.in_channels,
        step_seconds=step_seconds,
        largest_seconds=largest_seconds,
        mean_seconds=mean_step(session, step_seconds, largest_seconds),
        memory=memory,
        memory_limit=limit,
        fitting=fitting_batch(costs, limit),
        loader_rate=rate,
        workers=session.train.num_workers,
        eval_seconds=validation,
        epochs=session.plan.epochs,
        steps=session.plan.batches_per_epoch,
        checkpoint_bytes=checkpoint,
        weights_bytes=weights,
        spread=max(cost.spread for cost in costs),
        cores=machine.cores,
        on_cpu=session.device.type == "cpu",
        failures=failures,
    )


def _costs(
    session: Session,
    probe: StepProbe,
    batch: int,
    size: tuple[int, int],
    limit: int | None,
    seconds: float,
) -> list[StepCost]:
    def measure(count: int) -> StepCost | None:
        return attempt(lambda: probe.measure(count, size, steps=1), probe.release)

    if session.device.type == "cpu":
        return climb(measure, batch, limit=limit, seconds=seconds)
    cost = attempt(lambda: probe.measure(batch, size, steps=3, warm_up=2), probe.release)
    return [cost] if cost is not None else []


def mean_step(session: Session, step: float, largest: float) -> float:
    """Mean seconds of a step over all epochs, sizes drawn as the loader draws them.

    Args:
        session: with its plan.
        step: seconds at the input size.
        largest: seconds at the largest size.
    """
    height, width = session.image_spec.size
    big_h, big_w = largest_size(session)
    pixels, most = height * width, big_h * big_w
    slope = (largest - step) / (most - pixels) if most > pixels else 0.0
    collate = session.train.collate
    total = 0.0
    for epoch in range(session.plan.epochs):
        sizes = [session.image_spec.size]
        if isinstance(collate, BatchImageCollateFunction) and collate.size_at(epoch, 0):
            sizes = collate.scales
        mean = sum(h * w for h, w in sizes) / len(sizes)
        total += max(step + slope * (mean - pixels), step * mean / pixels * 0.5)
    return total / session.plan.epochs


def loader_rate(session: Session, seconds: float) -> float:
    """Images/s of the training loader alone, in the stage that lasts longest."""
    stage = max(session.plan.stages, key=lambda stage: stage.end - stage.first)
    loader = loader_of(
        session.config,
        "train_dataloader",
        session.train.dataset,
        session.seed,
        session.device,
    )
    loader.set_epoch(stage.first)
    begun = time.perf_counter()
    first: float | None = None
    images = 0
    now = begun
    for batch in loader:
        now = time.perf_counter()
        if first is None:
            first = now  # starting the workers is no part of the rate
            if len(loader) == 1:
                return len(batch) / max(now - begun, 1e-9)
            continue
        images += len(batch)
        if now - first > seconds:
            break
    return images / max(now - (first or begun), 1e-9)


def validation_seconds(session: Session, probe: StepProbe) -> float:
    """Of one validation, from a few of its images; 0 without any."""
    if session.val is None:
        return 0.0
    dataset = session.val.dataset
    chosen = min(len(dataset), VALIDATED)
    index = dataset.index.subset(range(chosen))
    size = min(session.val.batch_size, chosen)
    loader = build_loader(dataset.part(index), batch_size=size, shuffle=False)
    evaluator = evaluator_on(session, loader, index)
    model = unwrapped(probe.trainer.model)
    evaluator.run(model)  # the first pass chooses kernels
    started = time.perf_counter()
    evaluator.run(model)
    return (time.perf_counter() - started) / chosen * len(dataset)


def checkpoint_sizes(probe: StepProbe) -> tuple[int, int]:
    """Bytes of `last.pth` and of `best.pth`; a step must have been made."""
    snapshot = probe.trainer.snapshot()
    return _bytes(snapshot.to_dict()), _bytes(snapshot.weights)


def _bytes(value: Any) -> int:
    if isinstance(value, Tensor):
        return value.numel() * value.element_size()
    if isinstance(value, Mapping):
        return sum(map(_bytes, value.values()))
    if isinstance(value, list | tuple):
        return sum(map(_bytes, value))
    return 0
