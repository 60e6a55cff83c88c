"""Counts false detections on images without targets, in the background of the next epoch.

After an epoch its weights (those that were evaluated) are written to `oa_candidates/`; a thread
loads them into a model of its own and runs it over `eval_negatives` while training goes on. The
numbers arrive one epoch later and are logged for the epoch that they are of. The last epoch's are
awaited.

Training is not touched: the thread draws no random numbers, computes in one CPU thread of its own
(on a GPU in a stream of its own) and leaves the number of threads of the training alone. What
goes wrong in it is a warning, not the end of the run. Only the main process of several has one.
"""

from __future__ import annotations

import logging
import math
import threading
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as NotYet
from contextlib import nullcontext
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from detrkit.data.index import DatasetIndex
from detrkit.engine.checkpoint import Checkpoint
from detrkit.engine.interrupt import InterruptGuard
from detrkit.engine.oa_candidates import CandidateFiles, Waiting
from detrkit.engine.observers.base import LateReport, Observer
from detrkit.engine.over_activation import find_false_detections
from detrkit.engine.runtime import PostProcessor, TorchRuntime
from detrkit.engine.state import TrainState
from detrkit.errors import DetrkitError
from detrkit.metrics import FalseDetections
from detrkit.structures import ClassMap, ImageSpec

log = logging.getLogger("detrkit")

#: Seconds between two looks at whether the user wants to stop.
_LOOK = 0.2


@dataclass(frozen=True)
class _Pending:
    """An epoch whose numbers are being made."""

    of: Waiting
    result: Future[FalseDetections | None]


class OverActivationWatch:
    """Evaluates on negatives beside the training.

    Args:
        index: the images.
        files: keeps the weights, and decides about `best_oa.pth`.
        postprocessor, class_map, image_spec: of the run.
        device: of the run.
        threshold: score from which on a detection counts.
        epochs: planned.
        observers: are told the numbers.
    """

    def __init__(
        self,
        index: DatasetIndex,
        files: CandidateFiles,
        postprocessor: PostProcessor,
        class_map: ClassMap,
        image_spec: ImageSpec,
        *,
        device: torch.device,
        threshold: float,
        epochs: int,
        observers: Sequence[Observer] = (),
    ) -> None:
        self.index, self.files, self.observers = index, files, observers
        self.postprocessor, self.class_map, self.image_spec = postprocessor, class_map, image_spec
        self.device, self.threshold, self.epochs = device, threshold, epochs
        self._guard: InterruptGuard | None = None
        self._runtime: TorchRuntime | None = None
        self._worker: ThreadPoolExecutor | None = None
        self._stream: Any = None
        self._closing = threading.Event()
        self._waiting: list[Waiting] = []
        self._pending: list[_Pending] = []
        self._told: set[str] = set()

    def begin(self, state: TrainState, guard: InterruptGuard) -> None:
        """Takes over what an earlier part of the run has left; it is counted after this epoch.

        Not at once: the loader's processes are forked first, which threads at work disturb.
        """
        self._guard = guard
        try:
            self._waiting = self.files.begin(state.epoch, state.best_value)
        except (DetrkitError, OSError) as error:
            log.warning("best_oa.pth: %s", _reason(error))

    def epoch(self, model: nn.Module, snapshot: Checkpoint) -> None:
        """Tells the numbers of the epoch before, and begins to count for the one that has ended.

        Args:
            model: the one that was evaluated, to be copied once.
            snapshot: of the epoch, complete.
        """
        self._collect()
        try:
            step = int(snapshot.position.get("step", 0))
            self._waiting.append(self.files.add(snapshot.stripped(), step))
            worker = self._worker or self._start(model)
        except Exception as error:  # a full disk, no memory for the copy
            self._warn(snapshot.last_epoch, error)
            return
        for each in self._waiting:
            self._pending.append(_Pending(each, worker.submit(self._count, each.path)))
        self._waiting = []

    def finish(self) -> None:
        """Waits for the last numbers."""
        self._collect()
        for pending in self._pending:
            log.warning(
                "stopped before the false detections of epoch %d were counted", pending.of.epoch + 1
            )
        if not self._pending:
            self.files.clear()

    def close(self) -> None:
        """Ends the thread; what it has not finished is left for a resumed run."""
        self._closing.set()
        if self._worker is not None:
            self._worker.shutdown(wait=True, cancel_futures=True)

    # -- the thread ---------------------------------------------------------------------------

    def _start(self, model: nn.Module) -> ThreadPoolExecutor:
        self._runtime = TorchRuntime(
            deepcopy(model).requires_grad_(False),
            self.postprocessor,
            self.class_map,
            self.image_spec,
            device=self.device,
        )
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)  # the copy is made in the training's stream
            self._stream = torch.cuda.Stream(self.device)
        worker = ThreadPoolExecutor(1, thread_name_prefix="over-activation")
        if "OpenMP" in torch.__config__.parallel_info():
            # The number is one of the calling thread, and the default of threads to come. So the
            # training's own stays, and the default is set back.
            threads = torch.get_num_threads()
            worker.submit(_use_one_thread).result()
            torch.set_num_threads(threads)
        self._worker = worker
        return worker

    def _count(self, path: Path) -> FalseDetections | None:
        """In the thread: one set of weights over all images; None when it is to end."""
        assert self._runtime is not None
        on_gpu = self.device.type == "cuda"
        with torch.cuda.stream(self._stream) if on_gpu else nullcontext():
            self._runtime.model.load_state_dict(Checkpoint.load(path).weights)
            return find_false_detections(
                self._runtime,
                self.index,
                batch=8 if on_gpu else 1,
                ahead=on_gpu,
                stop=self._closing.is_set,
            )

    # -- the numbers --------------------------------------------------------------------------

    def _collect(self) -> None:
        """Waits for what is pending and tells it; until the user wants to stop."""
        while self._pending:
            first = self._pending[0]
            try:
                found = first.result.result(timeout=_LOOK)
            except NotYet:
                if self._guard is not None and self._guard.requested:
                    return
                continue
            except Exception as error:
                self._give_up(first, error)
            else:
                if found is not None:
                    self._tell(first, found)
            del self._pending[0]

    def _tell(self, pending: _Pending, found: FalseDetections) -> None:
        for path, reason in found.broken.items():
            if path not in self._told:
                self._told.add(path)
                log.warning("eval_negatives: %s; left out", reason)
        try:
            numbers = found.at(self.threshold).values
            if not all(map(math.isfinite, numbers.values())):
                raise DetrkitError("scores are not finite")
        except DetrkitError as error:
            self._give_up(pending, error)
            return
        report = LateReport(pending.of.epoch, self.epochs, pending.of.step, numbers)
        for observer in self.observers:
            observer.late(report)
        try:
            self.files.settle(pending.of.path, numbers)
        except (DetrkitError, OSError) as error:
            log.warning("best_oa.pth: %s", _reason(error))

    def _give_up(self, pending: _Pending, error: Exception) -> None:
        self._warn(pending.of.epoch, error)
        self.files.drop(pending.of.path)

    def _warn(self, epoch: int, error: Exception) -> None:
        log.warning(
            "epoch %d: false detections were not counted: %s; the run goes on",
            epoch + 1,
            _reason(error),
        )


def _use_one_thread() -> None:
    torch.get_num_threads()  # a thread takes the default over when it first asks
    torch.set_num_threads(1)


def _reason(error: Exception) -> str:
    if isinstance(error, DetrkitError):
        return error.message
    return f"{type(error).__name__}: {next(iter(str(error).splitlines()), '')}"
