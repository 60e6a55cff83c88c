"""Progress for people: a live bar in a terminal, one line per epoch kept, plain lines elsewhere."""

from __future__ import annotations

import time

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar
from rich.text import Text

from detrkit.engine.observers.base import EpochReport, LateReport, Observer, StepReport
from detrkit.words import count


class Progress(Observer):
    """Writes to the console it is given (stderr on the command line).

    `waits` is the share of the training time that was spent waiting for data.

    Args:
        console: where to.
        every: seconds between two readings of the loss for the live bar; reading waits for the
            device.
        plain_every: seconds between two lines within an epoch where no terminal shows a bar.
        print_freq: steps between them instead; 0: no such lines.
    """

    def __init__(
        self,
        console: Console,
        every: float = 0.5,
        plain_every: float = 60.0,
        print_freq: int | None = None,
    ) -> None:
        self.console = console
        self.live = console.is_terminal and not console.is_dumb_terminal
        self.every = every
        self.plain_every = plain_every
        self.print_freq = print_freq
        self._bar: Bar | None = None
        self._task: TaskID | None = None
        self._phase: tuple[str, int] | None = None
        self._read = 0.0
        self._window = [0.0, 0.0]
        self._epoch_started = time.monotonic()
        self._seconds: list[float] = []
        self._header: tuple[str, ...] = ()

    def step(self, report: StepReport) -> None:
        """Moves the bar."""
        now = time.monotonic()
        phase = (report.phase, report.epoch)
        if phase != self._phase:
            self._phase, self._read = phase, 0.0 if self.live else now
            self._window = [0.0, 0.0]
        self._window[0] += report.seconds
        self._window[1] += report.wait_seconds
        if self.live:
            self._move(report, now)
        elif report.phase == "train" and self._is_due(report, now):
            self._read = now
            loss = sum(float(value) for value in report.losses.values())
            self.console.print(
                f"epoch {report.epoch + 1}/{report.epochs}  "
                f"batch {report.batch + 1}/{report.batches}  loss {loss:.3f}  {self._wait()}",
                highlight=False,
            )

    def _is_due(self, report: StepReport, now: float) -> bool:
        """Whether a line within an epoch is to be printed."""
        if self.print_freq is None:
            return now - self._read >= self.plain_every
        return self.print_freq > 0 and (report.batch + 1) % self.print_freq == 0

    def _move(self, report: StepReport, now: float) -> None:
        if self._bar is None:
            self._bar = Bar(
                TextColumn("{task.description}"),
                BarColumn(bar_width=30),
                MofNCompleteColumn(),
                TimeRemainingColumn(),
                TextColumn("{task.fields[note]}"),
                console=self.console,
                transient=True,
            )
            self._task = self._bar.add_task("", note="")
            self._bar.start()
        assert self._task is not None
        word = (
            f"epoch {report.epoch + 1}/{report.epochs}" if report.phase == "train" else "evaluate"
        )
        if self._bar.tasks[0].description != word:
            self._bar.reset(self._task, description=word, total=report.batches, note="")
        self._bar.update(self._task, completed=report.batch + 1, total=report.batches)
        if report.phase == "train" and now - self._read >= self.every:
            self._read = now
            loss = sum(float(value) for value in report.losses.values())
            self._bar.update(
                self._task, note=f"loss {loss:.3f}  lr {report.lr:.2e}  {self._wait()}"
            )

    def _wait(self) -> str:
        """The share of the time since the last reading that was spent waiting for batches."""
        (seconds, waited), self._window = self._window, [0.0, 0.0]
        return f"waits for data {min(waited / max(seconds, 1e-9), 1.0):.0%}"

    def epoch(self, report: EpochReport) -> None:
        """Prints the line that stays."""
        self._stop()
        shown = tuple(dict.fromkeys(("AP", "AP50", report.best_metric)))
        if shown != self._header:
            self._header = shown
            columns = "".join(f"{name:>10}" for name in shown)
            self.console.print(f"   epoch      loss{columns}      time   left  waits", style="dim")
        seconds = report.train_seconds + report.eval_seconds
        self._seconds = [*self._seconds[-4:], seconds]
        left = sum(self._seconds) / len(self._seconds) * (report.epochs - report.epoch - 1)
        line = Text(f"{report.epoch + 1:>4}/{report.epochs:<4}")
        line.append(f"{report.losses.get('loss', float('nan')):>9.3f}")
        for name in shown:
            value = report.metrics.get(name)
            line.append(f"{value:>10.3f}" if value is not None else f"{'-':>10}")
        line.append(f"{duration(seconds):>10}{duration(left):>7}{report.data_wait:>7.0%}")
        if report.is_best:
            line.append("  best", style="green")
        if report.skipped_steps:
            line.append(f"  {count(report.skipped_steps, 'step')} skipped", style="yellow")
        self.console.print(line)

    def late(self, report: LateReport) -> None:
        """Prints a line of its own."""
        self.console.print(report.describe(), style="dim", highlight=False)

    def _stop(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def close(self) -> None:
        """Removes the bar."""
        self._stop()


def duration(seconds: float) -> str:
    """`0:07`, `12:30`, `3:02:11`."""
    total = round(seconds)
    hours, rest = divmod(total, 3600)
    minutes, seconds_left = divmod(rest, 60)
    if hours:
        return f"{hours}:{minutes:02d}:{seconds_left:02d}"
    return f"{minutes}:{seconds_left:02d}"
