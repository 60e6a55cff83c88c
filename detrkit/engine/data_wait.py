"""How long the training stands still because the next batch is not there yet."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

import torch

from detrkit.phases import phase

Item = TypeVar("Item")


class DataWait:
    """Measures the waits of a loop over batches.

    On a CPU that is the time the loop spends in the loader. A GPU has work queued while the loop
    already asks for the next batch, so there it is the time between two of its events, at the end
    of a step and after the next batch: how long the GPU itself had nothing to do. Reading that
    does not wait for the GPU; a wait is counted once both events have passed.

    Args:
        device: that trains.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._seconds = 0.0
        self._open: deque[tuple[Any, Any]] = deque()

    def over(self, batches: Iterable[Item]) -> Iterator[Item]:
        """The same batches, each wait measured."""
        iterator = iter(batches)
        while True:
            before = self._mark()
            try:
                with phase("data"):
                    batch = next(iterator)
            except StopIteration:
                return
            self._open.append((before, self._mark()))
            yield batch

    def take(self) -> float:
        """Seconds of the waits since the last call that can be told by now."""
        while self._open and self._passed(self._open[0][1]):
            self._seconds += self._between(*self._open.popleft())
        seconds, self._seconds = self._seconds, 0.0
        return seconds

    def _mark(self) -> Any:
        if self._device.type != "cuda":
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record(torch.cuda.current_stream(self._device))
        return event

    @staticmethod
    def _passed(mark: Any) -> bool:
        return isinstance(mark, float) or bool(mark.query())

    @staticmethod
    def _between(before: Any, after: Any) -> float:
        if isinstance(before, float):
            return float(after - before)
        return float(before.elapsed_time(after)) / 1000
