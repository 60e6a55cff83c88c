"""`--profile N`: a trace of N steps, and a table of where their time goes."""

from __future__ import annotations

import logging
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import nn
from torch.profiler import ProfilerActivity, profile

from detrkit.engine.benchmarking.breakdown import Spent, shares, with_shares
from detrkit.engine.layerwise.operators import grouped, own_milliseconds, quiet_profiler
from detrkit.engine.observers.base import Observer, StepReport
from detrkit.engine.observers.profile_parts import MarkedParts, PartTimes, part_times
from detrkit.files import write_bytes
from detrkit.json_output import write_json
from detrkit.phases import PHASES, phase_of

log = logging.getLogger("detrkit")

#: Steps before the profile: the first ones choose kernels and fill the loader's queues.
WARM_UP = 3
#: Rows of the table of operations.
_ROWS = 40


class StepProfile(Observer):
    """Profiles the steps behind the first few of a run.

    Writes `trace.json.gz` (for chrome://tracing or ui.perfetto.dev), `table.txt` and the same
    numbers as `profile.json`. Evaluation is not part of it: all steps are of one epoch, fewer
    where no epoch has so many.

    Args:
        folder: where both go.
        steps: how many.
        device: that trains.
        console: shows the table of the parts; None: nowhere.
        model: whose parts are told apart; None: none.
    """

    def __init__(
        self,
        folder: Path,
        steps: int,
        device: torch.device,
        console: Console | None = None,
        model: nn.Module | None = None,
    ) -> None:
        self.folder = folder
        self.steps = steps
        self.device = device
        self.console = console
        self.model = model
        self._marks: MarkedParts | None = None
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
            quiet_profiler()
            activities = [ProfilerActivity.CPU]
            if self.device.type == "cuda":
                activities.append(ProfilerActivity.CUDA)
            if self.model is not None:
                self._marks = MarkedParts(self.model)
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
        if self._marks is not None:
            self._marks.close()
        finished, self._profile, self.steps = self._profile, None, 0
        averages = finished.key_averages()
        rows = phase_rows(averages, steps, self._seconds, part_times(finished.events()))
        operations = operations_of(averages, self.device, steps)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            finished.export_chrome_trace(str(self.folder / "trace.json.gz"))
            order = "self_cuda_time_total" if self.device.type == "cuda" else "self_cpu_time_total"
            detail = averages.table(sort_by=order, row_limit=_ROWS)
            text = "\n".join([*_as_text(rows), "", *_operation_lines(operations), "", detail, ""])
            write_bytes(self.folder / "table.txt", text.encode("utf-8"))
            numbers = _plain(rows, operations, steps, self.device)
            write_json(self.folder / "profile.json", "profile", numbers)
        except OSError as error:  # a profile is not worth a training run
            log.warning("the profile cannot be written to %s: %s", self.folder, error)
            return
        if self.console is not None:
            self.console.print(_table(rows, steps))
            self.console.print(_operation_table(operations))
        log.info("profile of %d steps: %s", steps, self.folder)


@dataclass(frozen=True, slots=True)
class Row:
    """A part of a step.

    Attributes:
        name: of the part.
        milliseconds: per step.
        share: of the step, 0 to 1.
        inside: name of the part that it is in; empty: it is one of those that add up to the step.
    """

    name: str
    milliseconds: float
    share: float
    inside: str = ""


def phase_rows(
    averages: Any, steps: int, seconds: float, parts: PartTimes | None = None
) -> list[Row]:
    """The parts of a step in their order, then what is left, then the step.

    On a GPU these are times of the host, which runs ahead; the trace shows the kernels.

    Args:
        averages: `key_averages()` of the profile.
        steps: that it holds.
        seconds: that they took together.
        parts: of the model, for forward and backward.
    """
    spent = {phase_of(event.key): event.cpu_time_total / 1e3 for event in averages}
    inner = {"forward": parts.forward, "backward": parts.backward} if parts is not None else {}
    whole = max(seconds * 1e3, 1e-9)

    def row(name: str, time: float, inside: str = "") -> Row:
        return Row(name, time / steps, time / whole, inside)

    rows: list[Row] = []
    for name in PHASES:
        if name in spent:
            rows.append(row(name, spent[name], "loss" if name == "match" else ""))
            rows += [row(part, time, name) for part, time in inner.get(name, {}).items()]
    rest = max(whole - sum(spent[each.name] for each in rows if not each.inside), 0.0)
    return [*rows, row("other", rest), row("step", whole)]


def operations_of(averages: Any, device: torch.device, steps: int) -> list[Spent]:
    """Time by kind of operation and step, forward and backward together; see `grouped`."""
    own = [event for event in averages if phase_of(event.key) is None]
    return grouped(((e.key, own_milliseconds(e, device), e.count) for e in own), steps)


def _plain(
    rows: list[Row], operations: list[Spent], steps: int, device: torch.device
) -> dict[str, Any]:
    return {
        "steps": steps,
        "device": device.type,
        "parts": [asdict(row) for row in rows],
        "operations": with_shares(operations),
    }


def _as_text(rows: list[Row]) -> list[str]:
    return [f"{_label(r):<14}{r.milliseconds:>10.2f} ms{r.share:>8.1%}" for r in rows]


def _label(row: Row) -> str:
    return f"  {row.name}" if row.inside else row.name


def _table(rows: list[Row], steps: int) -> Table:
    table = Table("part", title=f"one step, mean of {steps}", title_justify="left")
    table.add_column("ms", justify="right")
    table.add_column("share", justify="right")
    for row in rows:
        table.add_row(
            _label(row), f"{row.milliseconds:.2f}", f"{row.share:.1%}",
            end_section=row.name == "other",
        )  # fmt: skip
    return table


def _operation_lines(operations: list[Spent]) -> list[str]:
    return [
        f"{spent.name:<20}{spent.milliseconds:>10.2f} ms{part:>8.1%}   {spent.about}"
        for spent, part in zip(operations, shares(operations), strict=True)
    ]


def _operation_table(operations: list[Spent]) -> Table:
    table = Table("operations", title="of a step, forward and backward", title_justify="left")
    for title in ("ms", "share"):
        table.add_column(title, justify="right")
    table.add_column("most time in")
    for spent, part in zip(operations, shares(operations), strict=True):
        table.add_row(spent.name, f"{spent.milliseconds:.2f}", f"{part:.1%}", spent.about)
    return table
