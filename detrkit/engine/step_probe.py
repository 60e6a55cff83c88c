"""What a training step costs: real steps on the images with most boxes.

The batches are the worst that a run can meet: the images with most boxes, at the size asked for,
and where mosaics or mixup join images, with the boxes of all that may be joined. The model starts
from random weights, which cost what trained ones cost; nothing is kept and nothing is written.
"""

from __future__ import annotations

import itertools
import os
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from detrkit.data.collate import BatchImageCollateFunction
from detrkit.data.dataset import DetectionDataset
from detrkit.data.index import DatasetIndex
from detrkit.data.sample import Sample, SampleKey
from detrkit.distillation.schedule import Window
from detrkit.engine.data_sets import transforms_of
from detrkit.engine.distilling.opening import open_distiller
from detrkit.engine.machine import PeakMemory
from detrkit.engine.memory import give_back, is_out_of_memory
from detrkit.engine.randomness import fixed_order
from detrkit.engine.run_dir import RunDirectory
from detrkit.engine.session import Session, build_trainer, start_model
from detrkit.engine.trainer import Trainer
from detrkit.structures import Batch

#: So many different images make a batch; more would only be read for nothing.
DIFFERENT_IMAGES = 16

#: Short steps are repeated until they have taken so many seconds, or so many were made.
SHORT = 1.5
MOST_STEPS = 9


@dataclass(frozen=True)
class StepCost:
    """What a step of one batch costs.

    Attributes:
        batch: images.
        size: (h, w).
        seconds: the median of the steps that were timed.
        memory: peak bytes: of the device's allocator on a GPU, of the process on a CPU; None where
            the system does not tell.
        boxes: of the fullest image.
        spread: the slowest step by the fastest; far above 1 where other programs compete.
    """

    batch: int
    size: tuple[int, int]
    seconds: float
    memory: int | None
    boxes: int
    spread: float = 1.0

    @property
    def images_per_second(self) -> float:
        """How fast that is."""
        return self.batch / max(self.seconds, 1e-9)


class StepProbe:
    """Runs training steps of a session and says what they cost.

    Args:
        session: with its data.
        fresh: start from the weights that the run starts from; else from random ones.
    """

    def __init__(self, session: Session, *, fresh: bool = False) -> None:
        self.session = session
        model, _ = start_model(session, fresh=fresh)
        distiller = open_distiller(session, model, quiet=True)
        if distiller is not None:  # as in a step at full weight
            distiller.window = Window(0, 1)
            distiller.begin_epoch(0)
        # the keeper gets a folder because it wants one; nobody asks it to save
        folder = RunDirectory(Path(os.devnull))
        self.trainer: Trainer = build_trainer(session, model, folder, distiller=distiller)
        self.trainer.evaluator = None
        model.train()
        self.trainer.criterion.train()
        self._peak = PeakMemory()

    def step(self, batch: Batch) -> dict[str, Tensor]:
        """One optimizer step, finished when this returns."""
        batch = batch.to(self.session.device)
        losses, _ = self.trainer.train_step(batch)
        self.trainer.state.step += 1
        self._wait()
        return losses

    def measure(
        self, count: int, size: tuple[int, int], *, steps: int = 2, warm_up: int = 1
    ) -> StepCost:
        """Time and memory of steps on the worst batch.

        Args:
            count: images of the batch.
            size: (h, w).
            steps: that are timed at least; more, up to `MOST_STEPS`, while they are short.
            warm_up: that are not: the first one makes the optimizer's state, chooses kernels.

        Raises:
            torch.OutOfMemoryError, RuntimeError: it does not fit; see `is_out_of_memory`.
        """
        batch = worst_batch(self.session, count, size)
        self.trainer.accumulate = min(self.session.accumulate, count)
        self._reset_peak()
        times: list[float] = []
        with fixed_order(self.session.device):  # as in training
            for _ in range(warm_up):
                self.step(batch)
            while len(times) < steps or (len(times) < MOST_STEPS and sum(times) < SHORT):
                started = time.perf_counter()
                self.step(batch)
                times.append(time.perf_counter() - started)
        boxes = max((len(target) for target in batch.targets), default=0)
        return StepCost(
            count,
            size,
            statistics.median(times),
            self._read_peak(),
            boxes,
            max(times) / max(min(times), 1e-9),
        )

    def release(self) -> None:
        """Gives memory back, also after a step that failed in the middle."""
        trainer = self.trainer
        trainer.optimizer.zero_grad(set_to_none=True)
        # a scaler that stopped between unscaling and its update refuses the next step
        trainer.scaler = trainer.precision.scaler(self.session.device)
        give_back(self.session.device)

    def _wait(self) -> None:
        if self.session.device.type == "cuda":
            torch.cuda.synchronize(self.session.device)
        elif self.session.device.type == "mps":
            torch.mps.synchronize()

    def _reset_peak(self) -> None:
        if self.session.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.session.device)
        else:
            self._peak.reset()

    def _read_peak(self) -> int | None:
        if self.session.device.type == "cuda":
            # reserved, not allocated: what the allocator cannot use for its size is gone as well
            return torch.cuda.max_memory_reserved(self.session.device)
        if self.session.device.type == "mps":
            return int(torch.mps.driver_allocated_memory())
        return self._peak.read()


def attempt(measure: Callable[[], StepCost], release: Callable[[], None]) -> StepCost | None:
    """What `measure` gives, or None where memory is short; memory is given back either way."""
    cost: StepCost | None = None
    try:
        cost = measure()
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
    # after the handler: the error's frames hold the tensors
    release()
    return cost


def largest_size(session: Session) -> tuple[int, int]:
    """(h, w) of the largest images of the run."""
    return max([*multi_scale_sizes(session), session.image_spec.size], key=lambda s: s[0] * s[1])


def multi_scale_sizes(session: Session) -> list[tuple[int, int]]:
    """(h, w) that batches are resized to at random, each as often as it is drawn; empty: off."""
    collate = session.train.collate
    if isinstance(collate, BatchImageCollateFunction) and collate.size_at(0, 0) is not None:
        return list(collate.scales)
    return []


def worst_batch(session: Session, count: int, size: tuple[int, int]) -> Batch:
    """`count` images of (h, w) with as many boxes as images of this run can have."""
    dataset = DetectionDataset(
        session.train.dataset.index,
        transforms_of(session.config, "val_dataloader"),
        seed=session.seed,
        in_channels=session.image_spec.in_channels,
    )
    joined = joined_images(session)
    fullest = np.argsort(-training_boxes(dataset.index), kind="stable")
    fullest = fullest[: min(count, DIFFERENT_IMAGES) + joined - 1]
    samples = [dataset[SampleKey(0, 0, int(number))] for number in fullest]
    full = [_with_boxes_of(samples[i : i + joined]) for i in range(len(samples))]
    collate = BatchImageCollateFunction(scales=[size], seed=session.seed)
    return collate(list(itertools.islice(itertools.cycle(full), count)))


def joined_images(session: Session) -> int:
    """How many images' boxes one training image may get: 4 of a mosaic, twice that by mixup."""
    mosaic = any(stage.mosaic for stage in session.plan.stages)
    mixup = any(stage.mixup for stage in session.plan.stages)
    return (4 if mosaic else 1) * (2 if mixup else 1)


def training_boxes(index: DatasetIndex) -> np.ndarray:
    """(N,) int64: boxes of each image, crowd regions left out."""
    kept = np.concatenate([[0], np.cumsum(~index.iscrowd)])
    return kept[index.offsets[1:]] - kept[index.offsets[:-1]]


def _with_boxes_of(samples: list[Sample]) -> Sample:
    """The first sample with the boxes of all; their places do not matter here."""
    first = samples[0]
    boxes = [sample.boxes_xyxy * _scale(sample.size, first.size) for sample in samples]
    return Sample(
        first.canvas,
        np.concatenate(boxes).astype(np.float32),
        np.concatenate([sample.labels for sample in samples]),
        np.concatenate([sample.area for sample in samples]),
        image_id=first.image_id,
        orig_size=first.orig_size,
        path=first.path,
        key=first.key,
        scale=first.scale,
        mean=first.mean,
        std=first.std,
    )


def _scale(old: tuple[int, int], new: tuple[int, int]) -> np.ndarray:
    h, w = new[0] / old[0], new[1] / old[1]
    return np.array([w, h, w, h], np.float32)
