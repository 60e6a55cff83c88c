"""Options that say on how many devices a command runs, and the start of its processes."""

from __future__ import annotations

import re
import sys
from typing import Annotated, Optional

import typer

# Typer reads these at run time, on Python 3.10 as well: `Optional`, not `X | None`.
# ruff: noqa: UP045

Devices = Annotated[
    Optional[str],
    typer.Option("--devices", metavar="0,1", help="GPUs to run on, one process each."),
]
Nproc = Annotated[
    Optional[int],
    typer.Option(
        "--nproc",
        metavar="N",
        help="Processes on this machine: the first N GPUs, or with --device cpu.",
    ),
]
AutoResume = Annotated[
    bool,
    typer.Option(
        "--auto-resume",
        help="Continue the run that this command began; after a crash start again.",
    ),
]
MaxRestarts = Annotated[
    int,
    typer.Option(
        "--max-restarts",
        metavar="N",
        min=0,
        help="With --auto-resume: how often in a row without a new checkpoint between.",
    ),
]

#: Default of `--max-restarts`.
RESTARTS = 3


def run_in_processes(
    devices: str | None,
    nproc: int | None,
    *,
    device: str | None = None,
    auto_resume: bool = False,
    max_restarts: int = RESTARTS,
) -> list[int] | None:
    """Starts this command in processes where that is asked for, and exits with their code.

    In a process that was started so, by `torchrun` or by `srun`, it only reads the numbers.

    Args:
        devices: of `--devices`.
        nproc: of `--nproc`.
        device: of `--device`.
        auto_resume: start again after a crash, up to `max_restarts` times in a row.

    Returns:
        The numbers of `--devices`.

    Raises:
        UsageError: the options contradict each other.
    """
    import os

    from detrkit.cli.app import settings
    from detrkit.engine.distributed.launch import WATCHED, Launcher
    from detrkit.engine.distributed.lifeline import hold_lifeline
    from detrkit.engine.distributed.place import find_place
    from detrkit.errors import UsageError

    numbers = _device_numbers(devices) if devices is not None else None
    if numbers is not None and device not in (None, "cuda"):
        raise UsageError(f"--devices {devices} and --device {device}: give one of them")
    if nproc is not None and nproc < 1:
        raise UsageError(f"--nproc must be at least 1, got {nproc}")
    if numbers is not None and nproc is not None and len(numbers) != nproc:
        raise UsageError(f"--nproc {nproc}, but --devices names {len(numbers)}")
    if os.environ.get(WATCHED):
        hold_lifeline()
        return numbers
    processes = nproc or len(numbers or [0])
    place = find_place()
    if place.world_size > 1:
        if nproc is not None and nproc != place.local_world_size:
            raise UsageError(
                f"--nproc {nproc}, but {place.local_world_size} of {place.world_size} processes "
                "were started on this machine",
                hint="torchrun and srun start the processes: leave --nproc out",
            )
        return numbers
    if processes == 1 and not auto_resume:
        return numbers
    command = [sys.executable, "-m", "detrkit", *settings.arguments]
    raise typer.Exit(Launcher(command, processes, max_restarts if auto_resume else 0).run())


def _device_numbers(text: str) -> list[int]:
    """`0,2` -> [0, 2]."""
    from detrkit.errors import UsageError

    if not re.fullmatch(r"\s*\d+(\s*,\s*\d+)*\s*", text):
        raise UsageError(
            f"--devices {text}: expected the numbers of GPUs",
            hint="e.g. --devices 0,1; on a CPU: --device cpu --nproc 2",
        )
    numbers = [int(part) for part in text.split(",")]
    if len(set(numbers)) < len(numbers):
        raise UsageError(f"--devices {text} names a GPU twice")
    return numbers
