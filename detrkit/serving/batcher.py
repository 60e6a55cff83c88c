"""Dynamic batching: images of different requests share a forward pass."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field

from torch import Tensor

from detrkit.structures import Detections

log = logging.getLogger("detrkit")

#: Called after each forward pass with the number of images and the seconds it took.
OnBatch = Callable[[int, float], None]


class QueueFull(Exception):
    """No more images are taken now."""


@dataclass(slots=True)
class _Job:
    image: Tensor
    found: Future[Detections] = field(default_factory=Future)
    arrived: float = field(default_factory=time.monotonic)


class Batcher:
    """Collects images for threads that run the model.

    A batch leaves when it is full, when its first image has waited for `wait` seconds, or when no
    other image is on its way: somebody who asks alone never waits. While all workers compute,
    images gather by themselves.

    Args:
        predict: the model: images (C, H, W) -> their detections.
        size: images per batch, at most.
        wait: seconds that an image waits for others that are announced.
        capacity: images that wait, at most.
        workers: batches at a time.
        on_batch: is told of every batch.
    """

    def __init__(
        self,
        predict: Callable[[Sequence[Tensor]], list[Detections]],
        *,
        size: int = 8,
        wait: float = 0.005,
        capacity: int = 64,
        workers: int = 1,
        on_batch: OnBatch | None = None,
    ) -> None:
        self.size, self.wait, self.capacity = size, wait, capacity
        #: Of the latest forward pass; None where it was good.
        self.failure: Exception | None = None
        self._predict = predict
        self._on_batch = on_batch
        self._queue: deque[_Job] = deque()
        self._announced = 0
        self._closed = False
        self._changed = threading.Condition()
        self._collecting = threading.Lock()  # workers fill one batch after the other
        self._workers = [
            threading.Thread(target=self._work, name=f"model-{i}", daemon=True)
            for i in range(workers)
        ]
        for worker in self._workers:
            worker.start()

    @property
    def waiting(self) -> int:
        """Images in the queue."""
        return len(self._queue)

    @contextmanager
    def announced(self) -> Iterator[None]:
        """While entered, an image is on its way: being decoded."""
        with self._changed:
            self._announced += 1
        try:
            yield
        finally:
            with self._changed:
                self._announced -= 1
                self._changed.notify_all()

    def submit(self, images: Sequence[Tensor]) -> list[Future[Detections]]:
        """Puts images into the queue, all or none; a cancelled one is not computed.

        Raises:
            QueueFull: there is no room for so many, or the batcher was closed.
        """
        jobs = [_Job(image) for image in images]
        with self._changed:
            if len(self._queue) + len(jobs) > self.capacity:
                self._queue = deque(job for job in self._queue if not job.found.cancelled())
            if self._closed or len(self._queue) + len(jobs) > self.capacity:
                raise QueueFull
            self._queue.extend(jobs)
            self._changed.notify_all()
        return [job.found for job in jobs]

    def close(self) -> None:
        """Takes no more images, computes those that wait, and ends the workers."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        for worker in self._workers:
            worker.join()

    def _work(self) -> None:
        while (jobs := self._next_batch()) is not None:
            if jobs:
                self._run(jobs)

    def _next_batch(self) -> list[_Job] | None:
        """None: closed, and nothing is left."""
        with self._collecting, self._changed:
            while not self._queue:
                if self._closed:
                    return None
                self._changed.wait()
            leave = self._queue[0].arrived + self.wait
            while self._announced and 0 < len(self._queue) < self.size and not self._closed:
                left = leave - time.monotonic()
                if left <= 0:
                    break
                self._changed.wait(left)
            jobs: list[_Job] = []
            while self._queue and len(jobs) < self.size:
                job = self._queue.popleft()
                if job.found.set_running_or_notify_cancel():
                    jobs.append(job)
            return jobs

    def _run(self, jobs: Sequence[_Job]) -> None:
        """One forward pass; where it fails, one for each image, so that one cannot harm others."""
        started = time.perf_counter()
        try:
            found = self._predict([job.image for job in jobs])
        except Exception as error:
            if len(jobs) > 1:
                log.warning("a batch of %d failed (%s): its images alone", len(jobs), error)
                for job in jobs:
                    self._run([job])
            else:
                self.failure = error
                jobs[0].found.set_exception(error)
            return
        self.failure = None
        if self._on_batch is not None:
            self._on_batch(len(jobs), time.perf_counter() - started)
        for job, detections in zip(jobs, found, strict=True):
            job.found.set_result(detections)
