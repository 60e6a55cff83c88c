"""Where text goes: results to stdout, logs and progress to stderr, plain when not a terminal.

With `NO_COLOR` or `CI` set a terminal counts as none: no colours, no moving bars, no control
characters, only lines. With `--json` a command calls `print_json` once and prints
nothing else on stdout.
"""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.text import Text

from detrkit.json_output import json_text

#: Width of tables in a file or a pipe, where no terminal limits it.
PLAIN_WIDTH = 160


class _Console(Console):
    """A console that leaves a closed pipe to `app.main`; rich would exit with code 1."""

    def on_broken_pipe(self) -> None:
        raise BrokenPipeError


#: Whether every terminal is taken for a file; None: a look decides.
_TERMINAL = False if os.environ.get("NO_COLOR") or os.environ.get("CI") else None

#: Results. Print tables and text with `out.print`.
out = _Console(
    force_terminal=_TERMINAL,
    width=None if sys.stdout and sys.stdout.isatty() else PLAIN_WIDTH,
    highlight=False,
)

#: Logs, progress, errors.
err = _Console(
    stderr=True,
    force_terminal=_TERMINAL,
    width=None if sys.stderr and sys.stderr.isatty() else PLAIN_WIDTH,
    highlight=False,
)

_STYLES = {
    logging.DEBUG: ("debug", "dim"),
    logging.INFO: ("", ""),
    logging.WARNING: ("warning", "bold yellow"),
    logging.ERROR: ("error", "bold red"),
    logging.CRITICAL: ("error", "bold red"),
}


class _RichHandler(logging.Handler):
    """`warning: text` on stderr; plain text for information."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            label, style = _STYLES.get(record.levelno, ("", ""))
            say(label, record.getMessage(), style)
        except BrokenPipeError:
            raise
        except Exception:
            self.handleError(record)


def say(label: str, message: str, style: str) -> None:
    """Prints `label: message` on stderr, the label in `style`; never wraps or reads markup."""
    line = Text(f"{label}: ", style=style) if label else Text()
    err.print(line.append(message, style="" if label else style), soft_wrap=True)


#: Consoles of the progress bars that are shown now.
_bars: list[Console] = []


def setup_logging(*, verbose: bool = False, quiet: bool = False) -> None:
    """Shows the log of detrkit on stderr: information and above.

    Args:
        verbose: details as well (`-v`).
        quiet: warnings and errors only (`-q`).
    """
    logger = logging.getLogger("detrkit")
    for handler in [h for h in logger.handlers if isinstance(h, _RichHandler)]:
        logger.removeHandler(handler)
    logger.addHandler(_RichHandler())
    logger.setLevel(logging.DEBUG if verbose else logging.WARNING if quiet else logging.INFO)
    logger.propagate = False


@contextmanager
def progress_bar(
    what: str, *, quiet: bool = False, rate: str | None = None
) -> Iterator[Callable[[int, int | None], None] | None]:
    """A bar on stderr while something runs; its value is the callback for (done, total).

    Args:
        what: is being done.
        quiet: show none; nor is one shown where stderr is no terminal. The value is None then.
        rate: unit of what is done, "FPS", to show how many there are per second.
    """
    if quiet or not err.is_terminal:
        yield None
        return
    from rich.progress import Progress, TextColumn

    columns = [*Progress.get_default_columns()]
    if rate is not None:
        columns += [TextColumn("{task.completed:.0f}"), TextColumn("{task.fields[rate]}")]
    started = time.monotonic()
    with Progress(*columns, console=err, transient=True, redirect_stdout=False) as bar:
        task = bar.add_task(what, total=None, rate="")

        def update(done: int, total: int | None) -> None:
            speed = done / max(time.monotonic() - started, 1e-9)
            bar.update(task, completed=done, total=total, rate=f"{speed:.1f} {rate}")

        _bars.append(bar.console)
        try:
            yield update
        finally:
            _bars.pop()


def say_result(line: str) -> None:
    """Prints a line on stdout; above the bar, where both are on the terminal."""
    place = _bars[-1] if _bars and out.is_terminal else out
    place.print(line, markup=False, highlight=False, soft_wrap=True)


def print_json(kind: str, payload: Mapping[str, Any]) -> None:
    """Writes one JSON object to stdout: that of `json_text`."""
    text = json_text(kind, payload, getattr(sys.stdout, "encoding", None) or "ascii")
    sys.stdout.write(text + "\n")
