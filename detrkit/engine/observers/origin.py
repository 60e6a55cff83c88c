"""`verbose_type: origin`: lines in the form that the authors' repositories print.

    Epoch: [3/72]  [ 100/1848]  eta: 0:12:01  lr: 0.000250  loss: 31.2 (33.9)  …  time: 0.41

Numbers of steps and epochs count from 0. A loss is followed by its mean over the epoch; the value
itself is the median of the last 20 steps. Printed are the sum and the terms of the last decoder
layer; log.jsonl has all of them.
"""

from __future__ import annotations

import time
from collections import deque
from datetime import timedelta

import torch
from rich.console import Console
from torch import Tensor

from detrkit.engine import log_names as names
from detrkit.engine.observers.base import EpochReport, LateReport, Observer, StepReport

#: Steps whose median is shown.
_WINDOW = 20


class OriginLines(Observer):
    """Writes plain lines to the console it is given (stderr on the command line).

    Args:
        console: where to.
        print_freq: steps between two lines within an epoch; its last step always has one.
            0: no such lines.
    """

    def __init__(self, console: Console, print_freq: int) -> None:
        self.console, self.print_freq = console, print_freq
        self._phase: tuple[str, int] | None = None

    def step(self, report: StepReport) -> None:
        """Collects, and prints where a line is due."""
        now = time.perf_counter()
        if (report.phase, report.epoch) != self._phase:
            self._start(report, now)
        self._steps += 1
        self._waited += report.wait_seconds
        if report.losses:
            self._collect(report)
        is_last = report.batch + 1 == report.batches
        if self.print_freq and (report.batch % self.print_freq == 0 or is_last):
            self._print_step(report, now)

    def _start(self, report: StepReport, now: float) -> None:
        self._phase, self._started, self._steps = (report.phase, report.epoch), now, 0
        self._waited = 0.0
        self._terms: list[str] = []
        self._recent: deque[Tensor] = deque(maxlen=_WINDOW)
        self._sum: Tensor | None = None
        self._counted = 0

    def _collect(self, report: StepReport) -> None:
        """Keeps the sum and the shown terms, on the device: reading would wait for it."""
        shown = [name for name in report.losses if names.loss_name(name) == f"train/{name}"]
        if shown != self._terms:
            self._terms, self._sum, self._counted = shown, None, 0
            self._recent.clear()
        every = [value.detach().float() for value in report.losses.values()]
        chosen = [report.losses[name].detach().float() for name in shown]
        values = torch.stack([torch.stack(every).sum(), *chosen])
        self._recent.append(values)
        self._sum = values if self._sum is None else self._sum + values
        self._counted += 1

    def _print_step(self, report: StepReport, now: float) -> None:
        seconds = (now - self._started) / max(self._steps - 1, 1)
        left = timedelta(seconds=int(seconds * (report.batches - report.batch - 1)))
        train = report.phase == "train"
        width = len(str(report.batches))
        parts = [
            f"Epoch: [{report.epoch}/{report.epochs}]" if train else "Test:",
            f"[{report.batch:{width}d}/{report.batches}]",
            f"eta: {left}",
        ]
        if train:
            parts.append(f"lr: {report.lr:.6f}")
        if self._sum is not None:
            medians = torch.stack(tuple(self._recent)).median(0).values.tolist()
            means = (self._sum / self._counted).tolist()
            parts += [
                f"{name}: {median:.4f} ({mean:.4f})"
                for name, median, mean in zip(["loss", *self._terms], medians, means, strict=True)
            ]
        if self._steps > 1:
            parts.append(f"time: {seconds:.4f}")
        if train:
            parts.append(f"data: {self._waited / self._steps:.4f}")
        if report.data is not None and report.data.images.is_cuda:
            parts.append(f"max mem: {torch.cuda.max_memory_allocated() / 2**20:.0f}")
        self._line("  ".join(parts))

    def epoch(self, report: EpochReport) -> None:
        """Time, averages, metrics and the best epoch so far."""
        total = timedelta(seconds=int(report.train_seconds))
        self._line(f"Epoch: [{report.epoch}/{report.epochs}] Total time: {total}")
        losses = [
            f"{name}: {value:.4f}"
            for name, value in report.losses.items()
            if names.loss_name(name) == f"train/{name}"
        ]
        self._line("  ".join(["Averaged stats:", f"lr: {report.lr:.6f}", *losses]))
        if report.metrics:
            metrics = [f"{name}: {value:.4f}" for name, value in report.metrics.items()]
            self._line("  ".join(["Test:", *metrics]))
        if report.best_value is not None:
            best = f"'{report.best_metric}': {report.best_value:.4f}"
            self._line(f"best_stat: {{'epoch': {report.best_epoch}, {best}}}")

    def late(self, report: LateReport) -> None:
        """The metrics of an epoch that came later."""
        metrics = [f"{name}: {value:.4f}" for name, value in report.metrics.items()]
        self._line("  ".join([f"Negatives: [{report.epoch}/{report.epochs}]", *metrics]))

    def _line(self, text: str) -> None:
        self.console.print(text, markup=False, highlight=False, soft_wrap=True)
