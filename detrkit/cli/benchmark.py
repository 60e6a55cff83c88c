"""`detrkit benchmark`: latency, throughput, memory, start and AP of detectors, side by side."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer

from detrkit.cli.options import Data, Device, InputSize, JsonOut, Provider, Split, Threads

# Typer reads annotations at run time, on Python 3.10 as well.
# ruff: noqa: UP045


def benchmark(
    inputs: Annotated[
        list[str],
        typer.Argument(
            metavar="INPUT",
            help="Checkpoints and exported files; names of the catalogue (random weights). "
            "NAME=PATH names one; PATH+half, PATH+compile, PATH+provider=openvino set options "
            "of one. The others are compared with the first.",
            show_default=False,
        ),
    ],
    batches: Annotated[
        str, typer.Option("--batches", metavar="N,N…", help="Images per call.")
    ] = "1",
    includes: Annotated[
        str,
        typer.Option(
            metavar="model|all",
            help="What is timed: from prepared input to detections; or all from pictures in "
            "memory, with resizing, normalising and data transfer.",
        ),
    ] = "model",
    data: Data = None,
    split: Split = None,
    size: InputSize = None,
    half: Annotated[
        bool, typer.Option("--half", help="16 bits, where a file does not fix its own format.")
    ] = False,
    compiled: Annotated[
        bool, typer.Option("--compile", help="Let PyTorch compile checkpoints.")
    ] = False,
    provider: Provider = None,
    threads: Threads = None,
    device: Device = None,
    seconds: Annotated[
        float, typer.Option(min=0, help="Timed calls per candidate and batch size.")
    ] = 5.0,
    rounds: Annotated[int, typer.Option(min=1, help="Turns that these are shared out to.")] = 10,
    repeats: Annotated[
        Optional[int],
        typer.Option(min=1, help="Timed calls per turn, instead of --seconds.", show_default=False),
    ] = None,
    layers: Annotated[
        bool,
        typer.Option(
            "--layers", help="Where the time of each goes: by layer and by kind of operation."
        ),
    ] = False,
    depth: Annotated[
        Optional[int],
        typer.Option(min=1, help="How deep --layers goes; default 2.", show_default=False),
    ] = None,
    markdown: Annotated[
        Optional[Path],
        typer.Option(
            "--markdown", metavar="FILE", help="Write the tables as Markdown.", show_default=False
        ),
    ] = None,
    json: JsonOut = False,
) -> None:
    """Measure speed and memory of detectors, side by side.

    Each has a process of its own; they take turns, A B A B, so that what slows
    the machine slows all alike. Ratios come with a 95 % interval from a bootstrap
    over the turns: where it holds 1, the difference may be chance.

    With --data each file's AP is measured as well, by the same evaluation as `eval`.
    """  # fmt: skip
    from detrkit.cli.benchmark_tables import markdown_text, tables
    from detrkit.cli.console import err, out, print_json, progress_bar, say
    from detrkit.engine.benchmarking import Plan, parse
    from detrkit.engine.benchmarking import benchmark as measure
    from detrkit.engine.derive import parse_size
    from detrkit.errors import UsageError
    from detrkit.files import make_folder, write_bytes

    try:
        sizes = [int(number) for number in batches.split(",")]
    except ValueError:
        raise UsageError(
            f"--batches {batches}: expected numbers", hint="e.g. --batches 1,8"
        ) from None
    if split is not None and data is None:
        raise UsageError("--split is a part of --data, which is not given")
    if depth is not None and not layers:
        raise UsageError("--depth is a part of --layers, which is not given")
    candidates = parse(inputs, half=half, compiled=compiled, provider=provider)
    plan = Plan(
        batches=sorted(set(sizes)),
        rounds=rounds,
        seconds=seconds,
        repeats=repeats,
        warm_up=min(1.0, seconds),
        threads=threads,
        device=device,
        size=parse_size(size) if size else None,
        includes=includes,
        data=data,
        split=split,
        depth=(depth or 2) if layers else None,
    )
    if markdown is not None:  # what cannot be written is said at once, not after the work
        make_folder(markdown.parent)
    with progress_bar("taking turns", quiet=json) as progress:
        found = measure(candidates, plan, progress)
    if markdown is not None:
        write_bytes(markdown, markdown_text(found).encode("utf-8", "replace"))
    if json:
        print_json("benchmark", {**found.to_dict(), "markdown": markdown})
        return
    for number, part in enumerate(tables(found)):
        if number:
            out.print()
        out.print(part, soft_wrap=isinstance(part, str), markup=False)
    for text in found.warnings:
        say("warning", text, "bold yellow")
    if markdown is not None:
        err.print(f"tables in {markdown}", markup=False, soft_wrap=True)
