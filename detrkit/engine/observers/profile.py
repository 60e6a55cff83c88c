"""`--profile N`: a trace of N steps, and a table of where their time goes."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch.profiler import ProfilerActivity, profile

from detrkit.engine.observers.base import Observer, StepReport
from detrkit.files import write_atomically
from detrkit.phases import PHASES, phase_of

log = logging.getLogger("detrkit")

#: Steps before the profile: the first ones choose kernels and fill the loader's queues.
WARM_UP = 3
#: Rows of the table of operations.
_ROWS = 40


class StepProfile(Observer):
    """Profiles the steps behind the first few of a run.

    Writes `trace.json.gz` (for chrome://tracing or ui.perfetto.dev) and `table.txt`. Evaluation
    is not part of it: all steps are of one epoch, fewer where no epoch has so many.

    Args:
        folder: where both go.
        steps: how many.
        device: that trains.
        console: shows the table of the parts; None: nowhere.
    """

    def __init__(
        self, folder: Path, steps: int, device: torch.device, console: Console | None = None
    ) -> None:
        self.folder = folder
        self.steps = steps
        self.device = device
        self.console = console
        self._seen = 0
        self._seconds = 0.0
        self._profile: Any = None

    def step(self, report: StepReport) -> None:
        """Starts behind the step `WARM_UP`, stops `steps` later or at the end of the epoch."""
        if report.phase != "train" or self.steps <= 0:
            return
        self._seen += 1
        last = report.batch + 1 == report.batches
        fits = report.batch + self.steps < report.batches
        if self._profile is not None:
            self._seconds += report.seconds
            if last or self._seen == WARM_UP + self.steps:
                self._finish(self._seen - WARM_UP)
        elif self._seen >= WARM_UP and not last and (fits or report.batch == 0):
            self._seen = WARM_UP
            activities = [ProfilerActivity.CPU]
            if self.device.type == "cuda":
                activities.append(ProfilerActivity.CUDA)
            self._profile = profile(activities=activities)
            self._profile.start()

    def close(self) -> None:
        """Keeps what there is of a run that ends early."""
        if self._profile is not None and self._seen > WARM_UP:
            self._finish(self._seen - WARM_UP)
        elif self.steps > 0:
            log.warning(
                "nothing was profiled: no epoch has two steps or more behind the first %d", WARM_UP
            )

    def _finish(self, steps: int) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        self._profile.stop()
        finished, self._profile, self.steps = self._profile, None, 0
        averages = finished.key_averages()
        rows = phase_rows(averages, steps, self._seconds)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            finished.export_chrome_trace(str(self.folder / "trace.json.gz"))
            order = "self_cuda_time_total" if self.device.type == "cuda" else "self_cpu_time_total"
            text = f"{_as_text(rows)}\n{averages.table(sort_by=order, row_limit=_ROWS)}\n"
            write_atomically(
                self.folder / "table.txt", lambda file: file.write(text.encode("utf-8"))
            )
        except OSError as error:  # a profile is not worth a training run
            log.warning("the profile cannot be written to %s: %s", self.folder, error)
            return
        if self.console is not None:
            self.console.print(_table(rows, steps))
        log.info("profile of %d steps: %s", steps, self.folder)


Row = tuple[str, float, float]


def phase_rows(averages: Any, steps: int, seconds: float) -> list[Row]:
    """(part, milliseconds per step, share of the step), in the order of a step.

    On a GPU these are times of the host, which runs ahead; the trace shows the kernels.

    Args:
        averages: `key_averages()` of the profile.
        steps: that it holds.
        seconds: that they took together.
    """
    spent = {phase_of(event.key): event.cpu_time_total / 1e3 for event in averages}
    whole = max(seconds * 1e3, 1e-9)
    rows = [(name, spent[name] / steps, spent[name] / whole) for name in PHASES if name in spent]
    rest = whole - sum(spent[name] for name, _, _ in rows if name != "match")
    rows.append(("other", max(rest, 0.0) / steps, max(rest, 0.0) / whole))
    return [*rows, ("step", whole / steps, 1.0)]


def _as_text(rows: list[Row]) -> str:
    lines = [f"{_label(name):<12}{ms:>10.2f} ms{share:>8.1%}" for name, ms, share in rows]
    return "\n".join(lines)


def _label(name: str) -> str:
    return f"  {name}" if name == "match" else name


def _table(rows: list[Row], steps: int) -> Table:
    table = Table("part", title=f"one step, mean of {steps}", title_justify="left")
    table.add_column("ms", justify="right")
    table.add_column("share", justify="right")
    for name, ms, share in rows:
        table.add_row(_label(name), f"{ms:.2f}", f"{share:.1%}", end_section=name == "other")
    return table
