"""`detrkit tune`: fine-tunes weights on a data set."""

from __future__ import annotations

from typing import Annotated, Optional

import typer

from detrkit.cli.options import ConfigArg, Data, Device, JsonOut, Output, Plugins, Updates, Weights
from detrkit.cli.processes import (
    RESTARTS,
    AutoResume,
    Devices,
    MaxRestarts,
    Nproc,
    run_in_processes,
)
from detrkit.cli.train import (
    LR,
    Accumulate,
    Amp,
    Batch,
    Cache,
    CacheSize,
    Epochs,
    Loggers,
    Seed,
    Size,
    ValFraction,
    Workers,
)
from detrkit.cli.train import run as _run

# Typer reads annotations at run time, on Python 3.10 as well.
# ruff: noqa: UP045

ClassMapFile = Annotated[
    Optional[str],
    typer.Option(
        "--class-map",
        metavar="FILE",
        help="Lines `my class: their class` (a name, a number or null), where names do not tell.",
        show_default=False,
    ),
]


def tune(
    cfg: ConfigArg,
    weights: Weights,
    data: Data = None,
    class_map: ClassMapFile = None,
    val_fraction: ValFraction = None,
    epochs: Epochs = None,
    batch: Batch = None,
    accumulate: Accumulate = None,
    size: Size = None,
    lr: LR = None,
    amp: Amp = None,
    device: Device = None,
    devices: Devices = None,
    nproc: Nproc = None,
    seed: Seed = None,
    workers: Workers = None,
    cache: Cache = None,
    cache_size: CacheSize = None,
    logger: Loggers = None,
    output: Output = None,
    auto_resume: AutoResume = False,
    max_restarts: MaxRestarts = RESTARTS,
    update: Updates = None,
    plugin: Plugins = None,
    json: JsonOut = False,
) -> None:
    """Fine-tune weights (a file or URL) on a data set.

    Rows of the class heads are copied by class name (a `tvmonitor` is a `tv`); what was loaded
    and what was not is printed. Weights of 80 classes are taken for COCO's, of 365 or 366 for
    those of Objects365.
    """
    from detrkit.engine.derive import TrainFlags, parse_batch

    images = parse_batch(batch)
    numbers = run_in_processes(
        devices, nproc, device=device, auto_resume=auto_resume, max_restarts=max_restarts
    )
    flags = TrainFlags(
        data=data,
        val_fraction=val_fraction,
        epochs=epochs,
        batch=None if images == "auto" else images,
        accumulate=accumulate,
        size=size,
        lr=lr,
        amp=amp,
        device=device,
        seed=seed,
        workers=workers,
        cache=cache,
        cache_size=cache_size,
        tune=weights,
        class_map=class_map,
        loggers=tuple(logger or ()),
    )
    _run(
        cfg,
        flags,
        update or [],
        plugin,
        output,
        json,
        numbers,
        auto_resume,
        auto_batch=images == "auto",
    )
