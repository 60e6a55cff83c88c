"""Hands a run to its trackers without ever waiting for them.

Each tracker works in a thread of its own, fed through a queue. One that fails says so once and is
off; one that is too slow loses points, not the training its time. Only the start (so that
packages have loaded before the loader's processes are forked) and the end wait, for a few seconds
at most.
"""

from __future__ import annotations

import contextlib
import json
import logging
import math
import queue
import re
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from detrkit.data.text import read_json
from detrkit.engine import log_names as names
from detrkit.engine.observers.base import EpochReport, LateReport, Observer, StepReport
from detrkit.engine.observers.tracker import Outcome, RunFacts, Tracker
from detrkit.engine.run_log import best_row, read_log
from detrkit.errors import DetrkitError, Interrupted
from detrkit.files import write_bytes

log = logging.getLogger("detrkit")

#: Seconds that the start of a run waits for its trackers, and the end for what is still to send.
START, END = 15.0, 30.0
#: Calls that may wait in a queue.
_WAITING = 2000
_PICTURES = (".png", ".jpg")
_OF_EPOCH = re.compile(r"^epoch_\d+_")


class Tracking(Observer):
    """Losses and rates every few steps, everything every epoch, pictures as they are drawn.

    Args:
        trackers: where to.
        run: what they are told; `kept` is filled in from `state`.
        state: file with what they need to continue after an interruption.
        table: `log.jsonl` of the run; names its best epoch at the end.
        pictures: folder whose pictures are handed on as they appear.
        final: pictures and tables that the end of a run leaves.
        every: steps between two points of a training curve; reading a loss waits for the device.
    """

    def __init__(
        self,
        trackers: Sequence[Tracker],
        run: RunFacts,
        *,
        state: Path,
        table: Path,
        pictures: Path | None = None,
        final: Sequence[Path] = (),
        every: int = 10,
    ) -> None:
        self.run, self.state, self.table, self.every = run, state, table, every
        self.pictures, self.final = pictures, final
        self._drawn = set(self._pictures())
        self._kept: dict[str, Mapping[str, str]] = _read_state(state)
        self._lock = threading.Lock()
        self._step = run.first_step
        self._workers = [_Worker(tracker) for tracker in trackers]
        for worker in self._workers:
            worker.put(self._begin)
        until = time.monotonic() + START
        for worker in self._workers:
            worker.wait(until)

    def _begin(self, tracker: Tracker) -> None:
        kept = tracker.begin(replace(self.run, kept=self._kept.get(tracker.name, {})))
        if tracker.where:
            log.info("%s: %s", tracker.name, tracker.where)
        if not kept:
            return
        with self._lock:
            self._kept[tracker.name] = dict(kept)
            text = json.dumps(self._kept, indent=2) + "\n"
            write_bytes(self.state, text.encode())

    def step(self, report: StepReport) -> None:
        """Losses, rates, gradient norm and decay, of every tenth step."""
        if report.phase != "train":
            return
        self._step = report.step
        if report.step % self.every == 0 and any(worker.on for worker in self._workers):
            self._scalars(step_values(report))

    def epoch(self, report: EpochReport) -> None:
        """Metrics and what the epoch cost, at its last step, and the pictures drawn in it."""
        self._step = report.step
        values = report.to_dict()
        self._scalars({k: v for k, v in values.items() if k.startswith(names.OF_EPOCHS)})
        for path in self._pictures():
            if path not in self._drawn:
                self._drawn.add(path)
                # one name for all epochs: TensorBoard and W&B leaf through them
                self._picture(f"batches/{_OF_EPOCH.sub('', path.stem)}", path)

    def late(self, report: LateReport) -> None:
        """The numbers, at the last step of their epoch."""
        numbers = _numbers({"epoch": report.epoch, **report.to_dict()})
        self._tell(lambda tracker: tracker.scalars(numbers, report.step))

    def end(self, error: BaseException | None) -> None:
        """Hands on what a run leaves, and waits a little for all of it to arrive."""
        best = best_row(read_log(self.table))
        values = {}
        if best is not None:
            values["best/epoch"] = best["epoch"] + 1
            values |= {f"best/{k[4:]}": v for k, v in best.items() if k.startswith("val/")}
        numbers, outcome = _numbers(values), _outcome(error)
        there = [path for path in self.final if path.is_file()]
        for path in there:
            if path.suffix in _PICTURES:
                self._picture(path.stem, path)
        files = [path for path in there if path.suffix not in _PICTURES]
        until = time.monotonic() + END
        for worker in self._workers:
            worker.put(lambda tracker: tracker.end(outcome, numbers, files), until)
        for worker in self._workers:
            worker.finish(until)

    @property
    def links(self) -> dict[str, str]:
        """Where people look at the run, by tracker."""
        return {w.tracker.name: w.tracker.where for w in self._workers if w.tracker.where}

    def _scalars(self, values: Mapping[str, Any]) -> None:
        numbers, step = _numbers(values), self._step
        self._tell(lambda tracker: tracker.scalars(numbers, step))

    def _picture(self, name: str, path: Path) -> None:
        step = self._step
        self._tell(lambda tracker: tracker.picture(name, path, step))

    def _tell(self, call: Callable[[Tracker], object]) -> None:
        for worker in self._workers:
            worker.put(call)

    def _pictures(self) -> list[Path]:
        return sorted(self.pictures.glob("*.jpg")) if self.pictures else []


def step_values(report: StepReport) -> dict[str, float]:
    """A training step's numbers by name; waits for the device once."""
    tensors = dict(report.losses)
    if report.grad_norm is not None:
        tensors[names.GRAD_NORM] = report.grad_norm
    read = torch.stack([value.detach().float() for value in tensors.values()]).tolist()
    values = dict(zip(tensors, read, strict=True))
    found = {names.LOSS: sum(values[term] for term in report.losses)}
    for name, value in values.items():
        found[name if name == names.GRAD_NORM else names.loss_name(name)] = value
    found[names.LR] = report.lr
    found |= names.lr_names(report.lrs)
    if report.ema_decay is not None:
        found[names.EMA_DECAY] = report.ema_decay
    return found


class _Worker:
    """The thread of one tracker."""

    def __init__(self, tracker: Tracker) -> None:
        self.tracker, self.on = tracker, True
        self._calls: queue.Queue[Callable[[Tracker], object] | None] = queue.Queue(_WAITING)
        self._dropped = False
        self._thread = threading.Thread(target=self._work, name=tracker.name, daemon=True)
        self._thread.start()

    def put(self, call: Callable[[Tracker], object], until: float = 0.0) -> None:
        """Has the tracker do something as soon as it can; waits for room in the queue `until`."""
        if not self.on:
            return
        try:
            self._calls.put(call, timeout=max(until - time.monotonic(), 0.0))
        except queue.Full:
            if not self._dropped:
                self._dropped = True
                log.warning("%s is too slow for this run: points are left out", self.tracker.name)

    def wait(self, until: float) -> bool:
        """Whether all that was put so far is done before the time has come."""
        done = threading.Event()
        self.put(lambda _: done.set(), until)
        while self.on and time.monotonic() < until:
            if done.wait(0.05):
                return True
        return done.is_set() or not self.on

    def finish(self, until: float) -> None:
        """Waits once more, then lets the thread go."""
        if not self.wait(until):
            log.warning("%s did not take everything in %.0f s", self.tracker.name, END)
        self.on = False
        with contextlib.suppress(queue.Full):
            self._calls.put_nowait(None)
        self._thread.join(0.1)

    def _work(self) -> None:
        while (call := self._calls.get()) is not None:
            if not self.on:
                continue
            try:
                call(self.tracker)
            except Exception as error:
                self.on = False
                reason = error.message if isinstance(error, DetrkitError) else _first_line(error)
                log.warning("%s is off from here on: %s", self.tracker.name, reason)


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:300]}" if lines else type(error).__name__


def _outcome(error: BaseException | None) -> Outcome:
    if error is None:
        return "finished"
    return "interrupted" if isinstance(error, (Interrupted, KeyboardInterrupt)) else "failed"


def _numbers(values: Mapping[str, Any]) -> dict[str, float]:
    """The finite numbers of a mapping."""
    return {
        name: float(value)
        for name, value in values.items()
        if isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    }


def _read_state(path: Path) -> dict[str, Mapping[str, str]]:
    """What trackers kept; a file that cannot be read counts as none."""
    if not path.is_file():
        return {}
    try:
        content = read_json(path)
    except DetrkitError as error:
        log.warning("%s; trackers begin new runs", error.message)
        return {}
    if not isinstance(content, dict):
        return {}
    return {str(k): dict(v) for k, v in content.items() if isinstance(v, dict)}
