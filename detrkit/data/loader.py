"""Batches in an order that is a function of (seed, epoch), so that a run can resume anywhere."""

from __future__ import annotations

import logging
import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.process import BaseProcess
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader as TorchLoader
from torch.utils.data import Sampler
from torch.utils.data.dataloader import _MultiProcessingDataLoaderIter

from detrkit.data.collate import BatchImageCollateFunction, PixelBatch
from detrkit.data.dataset import DetectionDataset
from detrkit.data.sample import Sample, SampleKey
from detrkit.data.sampling import EpochOrder, InOrder, Shuffled, repeat_numbers
from detrkit.data.workers import WorkerLost, shared_memory_room, shielded, start_worker, unheard
from detrkit.errors import DetrkitError, UsageError
from detrkit.registry import MODULES
from detrkit.structures import Batch

logger = logging.getLogger("detrkit")

Collate = Callable[[Sequence[Sample]], Batch]


class BatchSchedule(Sampler[list[SampleKey]]):
    """Which images make up each batch of an epoch, on one of several ranks.

    Training: batch k holds the same images for every number of ranks, which share it in equal
    parts, the last one of an epoch as equally as possible. Every rank gets the same number of
    batches, and in each of them at least `least` images, so that no rank waits for another for
    ever; where there are too few, images are repeated.

    Evaluation: every image exactly once; the ranks take turns batch by batch. One may get none.

    Args:
        count: images in the data set.
        batch_size: images per batch and rank.
        shuffle: random order, new in every epoch.
        seed: of that order.
        drop_last: leave an incomplete last batch out, unless it is the only one.
        rank: this process.
        world_size: number of processes.
        training: share every batch; default as `shuffle`. False: take turns.
        least: images that a rank needs in a batch, in training.
        images: another order than `shuffle` says, perhaps with images that come several times.

    Attributes:
        count: images per epoch.
    """

    def __init__(
        self,
        count: int,
        batch_size: int,
        *,
        shuffle: bool,
        seed: int = 0,
        drop_last: bool = False,
        rank: int = 0,
        world_size: int = 1,
        training: bool | None = None,
        least: int = 1,
        images: EpochOrder | None = None,
    ) -> None:
        if batch_size < 1:
            raise UsageError(f"the batch size must be at least 1, got {batch_size}")
        self.images = images or (Shuffled(count, seed) if shuffle else InOrder(count))
        self.count = len(self.images)
        self.batch_size = batch_size
        self.drop_last = drop_last
        self.rank = rank
        self.world_size = world_size
        self.training = shuffle if training is None else training
        self.least = min(least, batch_size)
        self.epoch = 0
        self.start = 0

    @property
    def step_size(self) -> int:
        """Images that belong together: of all ranks in training, of one in evaluation."""
        return self.batch_size * (self.world_size if self.training else 1)

    def order(self, epoch: int) -> np.ndarray:
        """All image numbers in the order of `epoch`."""
        return self.images.order(epoch)

    def batches(self, epoch: int) -> list[np.ndarray]:
        """Image numbers of every batch of this rank in `epoch`."""
        order = self.order(epoch)
        return [order[places] for places in self._places()]

    def _places(self) -> list[np.ndarray]:
        """Places in the order of an epoch that make up every batch of this rank."""
        every, size = np.arange(self.count), self.step_size
        steps = [every[i * size : (i + 1) * size] for i in range(self._steps())]
        if not self.training:
            return steps[self.rank :: self.world_size]
        return [self._share(places) for places in steps]

    def _share(self, places: np.ndarray) -> np.ndarray:
        needed = self.world_size * self.least
        if len(places) < needed:
            places = np.resize(places, needed)  # repeats from the start
        return np.array_split(places, self.world_size)[self.rank]

    def _steps(self) -> int:
        """Batches of an epoch on all ranks together."""
        if self.drop_last and self.count >= self.step_size:
            return self.count // self.step_size
        return math.ceil(self.count / self.step_size)

    def __len__(self) -> int:
        """Batches per epoch on this rank, wherever iteration starts."""
        if self.training:
            return self._steps()
        return len(range(self.rank, self._steps(), self.world_size))

    def __iter__(self) -> Iterator[list[SampleKey]]:
        order = self.order(self.epoch)
        repeats = repeat_numbers(order)
        for step, places in enumerate(self._places()):
            if step >= self.start:
                yield [
                    SampleKey(self.epoch, step, int(order[place]), int(repeats[place]))
                    for place in places
                ]


class Loader:
    """Batches of a data set.

    What is loaded depends on (seed, epoch, step): not on the number of workers, and not on where
    iteration starts.

    Attributes:
        dataset: where samples come from.
        collate: makes batches of them.
        device: where the batches are.
        schedule: which samples make up which batch.
        batch_size: images per batch.
    """

    def __init__(
        self,
        dataset: DetectionDataset,
        schedule: BatchSchedule,
        collate: Collate,
        *,
        num_workers: int = 0,
        pin_memory: bool = False,
        device: torch.device | str = "cpu",
        prefetch: int = 2,
    ) -> None:
        self.dataset = dataset
        self.schedule = schedule
        self.collate = collate
        self.batch_size = schedule.batch_size
        self.num_workers = num_workers
        self.prefetch = prefetch
        self.device = device
        options: dict[str, Any] = {}
        if num_workers:
            # Epoch and step travel with the sample key, so workers may outlive an epoch.
            options = {
                "persistent_workers": True,
                "prefetch_factor": prefetch,
                "worker_init_fn": start_worker,
            }
        with _any_number_of_workers():
            self._loader: TorchLoader[Sample] = TorchLoader(
                dataset,
                batch_sampler=schedule,
                collate_fn=getattr(collate, "gather", collate),
                num_workers=num_workers,
                pin_memory=pin_memory,
                # Its own generator: starting an epoch must not move the global random state, which
                # a checkpoint restores.
                generator=torch.Generator(),
                **options,
            )

    @property
    def epoch(self) -> int:
        """The epoch that iteration gives."""
        return self.schedule.epoch

    def set_epoch(self, epoch: int, start_batch: int = 0) -> None:
        """Chooses the epoch and the first batch; what lies before it is not loaded."""
        self.schedule.epoch = epoch
        self.schedule.start = start_batch
        self.dataset.epoch = epoch

    def __len__(self) -> int:
        """Batches per epoch on this rank, wherever iteration starts."""
        return len(self.schedule)

    def __iter__(self) -> Iterator[Batch]:
        _ = self.dataset.broken  # shared with the workers, so it must exist before they do
        try:
            for batch in self._batches():
                yield batch.finish(self.device) if isinstance(batch, PixelBatch) else batch
        except DetrkitError as error:
            raise _unwrapped(error) from error
        except (RuntimeError, ConnectionError, EOFError) as error:
            # the last two: a worker died between sending a batch and handing over its memory
            lost = WorkerLost.among(self._workers())
            known = self._out_of_shared_memory(error, lost) or lost
            if known is None:
                raise
            raise known from error
        finally:
            self.dataset.report_broken()

    def _out_of_shared_memory(self, error: Exception, lost: WorkerLost | None) -> UsageError | None:
        """What to say when workers find no room for their batches; None: it is something else."""
        bus_error = lost is not None and lost.signal == "SIGBUS"
        if "shared memory" not in str(error) and not bus_error:
            return None
        room = shared_memory_room()
        side = max(getattr(self.collate, "scales", None) or [(640, 640)])
        needed = self.num_workers * self.prefetch * self.batch_size * side[0] * side[1] * 3
        return UsageError(
            f"no room for the batches of loader processes: they pass through /dev/shm, which has "
            f"{room >> 20} MiB; {self.num_workers} workers with batches of {self.batch_size} "
            f"images keep up to {needed >> 20} MiB there",
            hint="fewer --workers, a smaller --batch, or more room: "
            "docker run --shm-size=4g (or --ipc=host)",
        )

    def _workers(self) -> Sequence[BaseProcess]:
        """The loader processes, which torch keeps from one epoch to the next."""
        return getattr(getattr(self._loader, "_iterator", None), "_workers", ())

    def close(self) -> None:
        """Ends the loader processes, which hold memory and every open file of this one, at once.

        They would last until the loader is collected as garbage. Iterating starts new ones.
        """
        iterator, self._loader._iterator = self._loader._iterator, None
        if isinstance(iterator, _MultiProcessingDataLoaderIter):
            iterator._shutdown_workers()

    def _batches(self) -> Iterator[PixelBatch | Batch]:
        if self.num_workers:
            # Transforms import it when they first need it: forked workers have it from here.
            import torchvision.transforms.v2  # noqa: F401  # see above

        with _any_number_of_workers(), shielded(), unheard():
            return iter(self._loader)


def build_loader(
    dataset: DetectionDataset,
    *,
    batch_size: int,
    shuffle: bool,
    seed: int = 0,
    num_workers: int = 0,
    drop_last: bool = False,
    collate: Collate | None = None,
    rank: int = 0,
    world_size: int = 1,
    pin_memory: bool = False,
    device: torch.device | str = "cpu",
    training: bool | None = None,
    least: int = 1,
    images: EpochOrder | None = None,
) -> Loader:
    """A loader for one rank.

    Args:
        dataset: its `seed` is set to `seed`, and so is the collate function's.
        batch_size: images per batch on this rank.
        shuffle: random order, new in every epoch.
        seed: of order, augmentation and sizes.
        num_workers: loader processes; 0 loads in this one.
        drop_last: leave an incomplete last batch out, unless it is the only one.
        collate: makes batches; None stacks the images as they are.
        rank: this process.
        world_size: number of processes.
        pin_memory: page-locked batches, for copying to a GPU.
        device: where batches are made float: bytes travel to a GPU four times faster.
        training, least: how ranks share the images, see `BatchSchedule`.
        images: another order of the images than `shuffle` says.

    Raises:
        UsageError: a batch size below 1.
    """
    dataset.seed = seed
    collate = collate or BatchImageCollateFunction()
    if isinstance(collate, BatchImageCollateFunction):
        collate.seed = seed
    schedule = BatchSchedule(
        len(dataset),
        batch_size,
        shuffle=shuffle,
        seed=seed,
        drop_last=drop_last,
        rank=rank,
        world_size=world_size,
        training=training,
        least=least,
        images=images,
    )
    return Loader(
        dataset,
        schedule,
        collate,
        num_workers=num_workers,
        pin_memory=pin_memory,
        device=device,
    )


@MODULES.register("DataLoader", family="data", inject=("dataset", "collate_fn"))
def data_loader(
    dataset: DetectionDataset,
    collate_fn: Collate | None = None,
    total_batch_size: int | None = None,
    batch_size: int | None = None,
    num_workers: int = 0,
    shuffle: bool = False,
    drop_last: bool = False,
    pin_memory: bool = False,
    seed: int = 0,
    rank: int = 0,
    world_size: int = 1,
) -> Loader:
    """A loader as the authors' files describe it.

    Args:
        dataset: the data set.
        collate_fn: makes batches.
        total_batch_size: images per step over all ranks.
        batch_size: images per step on one rank; give one of the two.
        num_workers, shuffle, drop_last, pin_memory, seed, rank, world_size: as in
            `build_loader`.

    Raises:
        UsageError: no batch size, both, or one that the ranks cannot share evenly.
    """
    if (total_batch_size is None) == (batch_size is None):
        raise UsageError("a data loader needs either `total_batch_size` or `batch_size`")
    if total_batch_size is not None:
        if total_batch_size % world_size:
            raise UsageError(
                f"total_batch_size {total_batch_size} cannot be shared by {world_size} processes",
                hint=f"use a multiple of {world_size}",
            )
        batch_size = total_batch_size // world_size
    assert batch_size is not None
    return build_loader(
        dataset,
        batch_size=batch_size,
        shuffle=shuffle,
        seed=seed,
        num_workers=num_workers,
        drop_last=drop_last,
        collate=collate_fn,
        rank=rank,
        world_size=world_size,
        pin_memory=pin_memory,
    )


@contextmanager
def _any_number_of_workers() -> Iterator[None]:
    """The number of workers is the user's to choose, also above that of the cores."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="This DataLoader will create")
        yield


def _unwrapped(error: DetrkitError) -> DetrkitError:
    """An error of a worker arrives as the text of its traceback; its last line is ours."""
    if not error.message.startswith("Caught "):
        return error
    last = error.message.strip().splitlines()[-1]
    return type(error)(last.partition(": ")[2] or last)
