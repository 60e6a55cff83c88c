"""`detrkit resume`: continues a run where it stopped."""

from __future__ import annotations

from typing import Annotated

import typer

from detrkit.cli.options import Data, Device, JsonOut, Plugins
from detrkit.cli.processes import (
    RESTARTS,
    AutoResume,
    Devices,
    MaxRestarts,
    Nproc,
    run_in_processes,
)
from detrkit.cli.train_options import Accumulate, Cache, Workers


def resume(
    run: Annotated[
        str, typer.Argument(metavar="RUN|CKPT", help="Folder of a run, or a checkpoint in it.")
    ],
    data: Data = None,
    device: Device = None,
    devices: Devices = None,
    nproc: Nproc = None,
    workers: Workers = None,
    cache: Cache = None,
    accumulate: Accumulate = None,
    auto_resume: AutoResume = False,
    max_restarts: MaxRestarts = RESTARTS,
    plugin: Plugins = None,
    json: JsonOut = False,
) -> None:
    """Continue a run exactly where it stopped.

    The result is the same as if it had never stopped, on a CPU bit for bit (as long as the
    number of threads is the same).
    Settings come from the checkpoint; --data, --device, --workers and --cache say what is
    elsewhere on this machine. The number of devices may be another than before as long as they
    can share the batch; on fewer of them --accumulate makes it fit.
    """
    numbers = run_in_processes(
        devices, nproc, device=device, auto_resume=auto_resume, max_restarts=max_restarts
    )

    from detrkit.cli import console
    from detrkit.cli.train import report
    from detrkit.engine.distributed.meeting import meet
    from detrkit.engine.training import resume as continue_run
    from detrkit.registry import load_plugin

    with meet() as place:
        for file in plugin or ():
            load_plugin(file)
        result = continue_run(
            run, data=data, device=device, workers=workers, cache=cache, accumulate=accumulate,
            console=console.err, devices=numbers, fall_back=auto_resume,
        )  # fmt: skip
    if place.rank == 0:
        report(result, json)
