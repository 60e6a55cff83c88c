"""`detrkit train`: trains a detector."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, Optional

import typer

from detrkit.cli.options import ConfigArg
from detrkit.cli.processes import run_in_processes
from detrkit.cli.spread import spread
from detrkit.cli.train_options import LaunchOptions, TrainOptions

if TYPE_CHECKING:
    from detrkit.engine.run_result import RunResult

# Typer reads these at run time, on Python 3.10 as well: `Optional`, not `X | None`.
# ruff: noqa: UP045

Tune = Annotated[
    Optional[str],
    typer.Option(
        "-t", "--tune", metavar="FILE|URL", help="Start from these weights, head by class name."
    ),
]


@spread
def train(
    cfg: ConfigArg,
    options: TrainOptions,
    tune: Tune = None,
    use_amp: Annotated[bool, typer.Option("--use-amp", hidden=True)] = False,
    resume: Annotated[
        Optional[str],
        typer.Option("-r", "--resume", metavar="RUN|CKPT", help="Same as `detrkit resume`."),
    ] = None,
    test_only: Annotated[bool, typer.Option("--test-only", hidden=True)] = False,
    *,
    launch: LaunchOptions,
) -> None:
    """Train a detector.

    [bold]detrkit train quickstart[/] needs no data; [bold]detrkit train dfine_n_coco --data
    DIR[/] reads COCO, YOLO and Pascal VOC folders as they are. Everything goes to a new folder
    [bold]runs/NAME-N[/], which the last lines name.

    Several GPUs: [bold]--devices 0,1[/]. Several machines: [bold]torchrun -m detrkit train …[/]
    or Slurm's [bold]srun detrkit train …[/]. The batch is that of all devices together.
    """
    from detrkit.errors import UsageError

    if test_only:
        raise UsageError(
            "--test-only belongs to another command", hint="detrkit eval -w best.pth --data DIR"
        )
    if resume is not None:
        from detrkit.cli.resume import resume as continue_run

        return continue_run(
            resume,
            data=options.data,
            device=options.device,
            devices=options.devices,
            nproc=options.nproc,
            workers=options.workers,
            cache=options.cache,
            accumulate=options.accumulate,
            auto_resume=launch.auto_resume,
            max_restarts=launch.max_restarts,
            plugin=launch.plugin,
            json=launch.json,
        )
    if use_amp:
        launch.update = ["use_amp=True", *(launch.update or ())]
    run(cfg, options, launch, tune=tune)


def run(cfg: str, options: TrainOptions, launch: LaunchOptions, **flags_of_command: Any) -> None:
    """Starts the processes, loads the configuration, trains and prints the result.

    Args:
        cfg: file or name.
        options, launch: of the command line.
        flags_of_command: more fields of `TrainFlags`.
    """
    devices = run_in_processes(
        options.devices,
        options.nproc,
        device=options.device,
        auto_resume=launch.auto_resume,
        max_restarts=launch.max_restarts,
    )
    # what starts the processes does without torch
    import logging
    from dataclasses import asdict, replace

    from detrkit.cli import console
    from detrkit.engine.derive import load_with_flags
    from detrkit.engine.distributed.meeting import meet
    from detrkit.engine.training import train as train_run

    flags = options.flags(**flags_of_command)
    update, plugins = launch.update or [], launch.plugin or ()
    with meet() as place:
        config = load_with_flags(cfg, flags, update=update, plugins=plugins)
        if options.auto_batch:
            from detrkit.engine.batch_size import choose_batch

            choice = choose_batch(config, place.world_size)
            logging.getLogger("detrkit").info("--batch auto: %s", choice.describe())
            flags = replace(flags, batch=choice.batch, linear_rates=True)
            config = load_with_flags(cfg, flags, update=update, plugins=plugins)
        arguments = {"config": cfg, "update": update, **asdict(flags)}
        result = train_run(
            config,
            output=launch.output,
            arguments=arguments,
            console=console.err,
            devices=devices,
            auto_resume=launch.auto_resume,
        )
    if place.rank == 0:
        report(result, launch.json)


def report(result: RunResult, json: bool) -> None:
    """Prints what a run reached and where it is."""
    from detrkit.cli import console
    from detrkit.engine.observers.progress import duration

    if json:
        console.print_json("train", result.to_dict())
        return
    out = console.out
    if result.metrics:
        shown = {"AP": "AP", "AP50": "AP50", "AP75": "AP75"}
        sizes = {"APs": "small", "APm": "medium", "APl": "large"}
        best = f"best epoch {result.best_epoch + 1} of {result.epochs}"
        if result.best_metric != "AP":
            shown = {result.best_metric: result.best_metric, **shown}
            best += f" by {result.best_metric}"
        out.print(f"{best}: {_numbers(result.metrics, shown)}")
        if by_size := _numbers(result.metrics, sizes):
            out.print(f"AP by size  {by_size}")
    out.print(f"time        {duration(result.seconds)} for {result.trained} epochs")
    if result.ended_early:
        out.print(f"ended early {result.ended_early}")
    for name, path in result.files.items():
        out.print(f"{name:<11} {path}", soft_wrap=True)
    for name, link in result.links.items():
        out.print(f"{name:<11} {link}", soft_wrap=True)
    out.print(f"next        detrkit infer -w {result.best} IMAGE", soft_wrap=True)


def _numbers(metrics: Mapping[str, float], labels: Mapping[str, str]) -> str:
    """`AP 0.512  AP50 0.693`; what COCO leaves undefined (-1) is left out."""
    return "  ".join(
        f"{label} {metrics[name]:.3f}"
        for name, label in labels.items()
        if metrics.get(name, -1) >= 0
    )
