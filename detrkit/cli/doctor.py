"""`detrkit doctor`: says what will go wrong before the first step."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Optional

import typer

from detrkit.cli.options import Data, Device, JsonOut, Output, Plugins, Updates
from detrkit.cli.train_options import (
    Amp,
    Batch,
    Cache,
    CacheSize,
    ClassMapFile,
    Epochs,
    Seed,
    Size,
    ValFraction,
    Workers,
)

if TYPE_CHECKING:
    from detrkit.engine.doctor.report import Report, Section

# Typer reads these at run time, on Python 3.10 as well.
# ruff: noqa: UP045

_STYLES = {"ok": "green", "note": "cyan", "warning": "bold yellow", "problem": "bold red"}


def doctor(
    cfg: Annotated[
        Optional[str],
        typer.Argument(
            metavar="CFG",
            help="A YAML file, or a name that `detrkit models` lists; none: the machine only.",
        ),
    ] = None,
    data: Data = None,
    weights: Annotated[
        Optional[str],
        typer.Option(
            "-w", "--weights", metavar="FILE|URL", help="Weights that the run would start from."
        ),
    ] = None,
    class_map: ClassMapFile = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="Only read: no measured steps, no decoded images.")
    ] = False,
    overfit: Annotated[
        bool,
        typer.Option("--overfit", help="Also learn one batch by heart: the proof of the wiring."),
    ] = False,
    steps: Annotated[
        Optional[int], typer.Option(min=1, metavar="N", help="Steps of --overfit, at most.")
    ] = None,
    fix: Annotated[
        bool,
        typer.Option(
            "--fix", help="Write a cleaned copy of the annotations (COCO) to a new folder."
        ),
    ] = False,
    val_fraction: ValFraction = None,
    epochs: Epochs = None,
    batch: Batch = None,
    size: Size = None,
    amp: Amp = None,
    device: Device = None,
    seed: Seed = None,
    workers: Workers = None,
    cache: Cache = None,
    cache_size: CacheSize = None,
    output: Output = None,
    update: Updates = None,
    plugin: Plugins = None,
    json: JsonOut = False,
) -> None:
    """Look at the machine, a config, its data and weights; measure what a run will take.

    [bold]detrkit doctor[/] looks at the machine, [bold]detrkit doctor CFG --data DIR[/] at
    everything; flags mean what they mean for [bold]train[/].

    Exit codes: 0 nothing stands in the way, 3 config, 4 data, 5 weights, 1 the machine.
    """
    from detrkit.cli import console
    from detrkit.engine.doctor.environment import Environment
    from detrkit.engine.doctor.report import Report
    from detrkit.errors import UsageError

    report = Report()
    if cfg is None:
        given = [data, weights, batch, size, epochs, *(update or ())]
        if overfit or fix or any(value is not None for value in given):
            raise UsageError("doctor: which config?", hint="detrkit doctor CFG --data DIR …")
        from detrkit.engine.doctor.environment import examine_environment

        sections = iter([examine_environment(Environment())])
    else:
        from detrkit.engine.derive import TrainFlags, parse_batch
        from detrkit.engine.doctor.examine import Request, examine
        from detrkit.engine.doctor.overfit import STEPS

        number = parse_batch(batch)
        flags = TrainFlags(
            data=data,
            val_fraction=val_fraction,
            epochs=epochs,
            batch=None if number == "auto" else number,
            size=size,
            amp=amp,
            device=device,
            seed=seed,
            workers=workers,
            cache=cache,
            cache_size=cache_size,
            tune=weights,
            class_map=class_map,
        )
        sections = examine(
            Request(
                config=cfg,
                flags=flags,
                update=update or (),
                plugins=plugin or (),
                auto_batch=number == "auto",
                quick=quick,
                overfit=(steps or STEPS) if overfit else None,
                fix=fix,
                output=output,
            )
        )
    for section in sections:
        report.sections.append(section)
        if not json:
            _print(section, brief=cfg is not None and section.name == "environment")
    if json:
        console.print_json("doctor", report.to_dict())
    else:
        _print_summary(report)
    if report.exit_code:
        raise typer.Exit(report.exit_code)


def _print(section: Section, *, brief: bool = False) -> None:
    """Prints a section; `brief` tells only what is not well, and how much is."""
    from rich.text import Text

    from detrkit.cli.console import out

    out.print(Text(section.name, style="bold"))
    shown = [check for check in section.checks if not brief or check.status.value != "ok"]
    if brief and (well := len(section.checks) - len(shown)):
        out.print(f"  [green]{'ok':8}[/] {well} checks; `detrkit doctor` alone lists them")
    names = [check.code.removeprefix(f"{section.name}.") for check in shown]
    width = max(map(len, names), default=0)
    for name, check in zip(names, shown, strict=True):
        status = check.status.value
        line = Text(f"  {status:8} ", style=_STYLES[status])
        line.append(f"{name:{width}}  ", style="dim").append(check.text, style="default")
        out.print(line, soft_wrap=True)
        indent = " " * (width + 15)
        for detail in check.details:
            out.print(Text(f"{indent}{detail}", style="dim"), soft_wrap=True)
        if check.hint and status != "ok":
            out.print(Text(f"{indent}hint: {check.hint}", style="cyan"), soft_wrap=True)
    out.print()


def _print_summary(report: Report) -> None:
    from detrkit.cli.console import out
    from detrkit.engine.doctor.report import Status
    from detrkit.words import count

    problems, warnings = report.count(Status.PROBLEM), report.count(Status.WARNING)
    if problems:
        text = f"{count(problems, 'problem')}, {count(warnings, 'warning')}"
    elif warnings:
        text = f"nothing stands in the way; {count(warnings, 'warning')}"
    else:
        text = "nothing stands in the way"
    out.print(text, style="bold")
