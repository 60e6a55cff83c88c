"""`detrkit weights`: looks into weight files and writes them in other forms."""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Optional

import typer

from detrkit.cli.options import JsonOut, WeightsConfig

if TYPE_CHECKING:
    from detrkit.engine.conversion.convert import Written
    from detrkit.engine.weights_info import WeightsInfo

# Typer reads annotations at run time, on Python 3.10 as well.
# ruff: noqa: UP045

Source = Annotated[
    str,
    typer.Argument(
        metavar="FILE",
        help="A checkpoint, a .safetensors file, a folder of Hugging Face transformers, a URL, or "
        "hf://organisation/name.",
    ),
]
Out = Annotated[Path, typer.Option("-o", "--output", metavar="PATH", help="Where to write.")]


class Form(str, Enum):
    """What `convert` writes."""

    authors = "authors"
    hf = "hf"
    safetensors = "safetensors"


def weights() -> None:
    """Look into weight files, strip and convert them."""


def inspect(
    file: Source,
    config: Annotated[
        Optional[str],
        typer.Option(
            "-c",
            "--config",
            metavar="CFG",
            help="Compare with the model of this config, tensor by tensor.",
        ),
    ] = None,
    json: JsonOut = False,
) -> None:
    """Say what a weight file holds: model, classes, training state; what fits a config."""
    from detrkit.cli.console import print_json
    from detrkit.engine.weights_info import inspect_weights

    info = inspect_weights(file, config)
    if json:
        print_json("weights", info.to_dict())
    else:
        _print_info(info)


def strip(
    file: Source,
    output: Out,
    config: WeightsConfig = None,
    trust: Annotated[
        bool,
        typer.Option(
            "--trust",
            help="Run the Python code inside the file, if there is any. Only for files from people "
            "you trust.",
        ),
    ] = False,
    json: JsonOut = False,
) -> None:
    """Keep only what inference needs: the averaged weights, config and class names."""
    from detrkit.engine.conversion.convert import strip as strip_file

    _report(strip_file(file, output, config=config, trusted=trust), json)


def convert(
    file: Source,
    output: Out,
    to: Annotated[
        Form,
        typer.Option(
            help="authors: a .pth for detrkit and the authors' code. hf: a folder for Hugging Face "
            "transformers. safetensors: one file without code, by the authors' names."
        ),
    ],
    config: WeightsConfig = None,
    lossy: Annotated[
        bool,
        typer.Option("--lossy", help="From transformers: leave out what the authors' model lacks."),
    ] = False,
    json: JsonOut = False,
) -> None:
    """Convert between the authors' names, Hugging Face transformers and safetensors.

    What transformers' model cannot represent exactly is refused, with the reason. `--to hf`
    compares the answers of both models before it writes.
    """
    from detrkit.engine.conversion.convert import convert as convert_file

    _report(convert_file(file, output, to.value, config=config, lossy=lossy), json)


#: The commands of the group.
COMMANDS: dict[str, Callable[..., None]] = {
    "inspect": inspect,
    "strip": strip,
    "convert": convert,
}


def _report(written: Written, json: bool) -> None:
    from detrkit.cli.console import out, print_json

    if json:
        print_json("weights", written.to_dict())
        return
    model = f" of {written.config}" if written.config else ""
    out.print(
        f"{written.path}: {written.tensors} tensors{model}, {_megabytes(written.bytes)}",
        markup=False,
        soft_wrap=True,
    )
    if written.difference is not None:
        out.print(f"both models answer alike: difference {written.difference:.1e} at most")


def _print_info(info: WeightsInfo) -> None:
    from rich.table import Table

    from detrkit.cli.console import out

    rows = [
        ("file", f"{info.path}, {_megabytes(info.bytes)}"),
        ("holds", ", ".join(info.contents)),
        *((f"  {p.name}", f"{p.tensors} tensors, {p.numbers:,} numbers") for p in info.parts),
        ("config", _config_of(info)),
        ("classes", _classes_of(info)),
    ]
    if info.image_size:
        rows.append(("image size", "{} x {} (height x width)".format(*info.image_size)))
    if info.epoch:
        rows.append(("epochs", str(info.epoch)))
    if info.metrics:
        numbers = [f"{k} {v:.3f}" for k, v in info.metrics.items() if isinstance(v, float)]
        rows.append(("metrics", ", ".join(numbers)))
    if info.date:
        rows.append(("written", f"{info.date}" + f", detrkit {info.version}" * bool(info.version)))
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for row in rows:
        table.add_row(*row)
    out.print(table, markup=False)
    if info.report is not None:
        out.print()
        out.print(_comparison(info.report.by_group()))
        out.print(info.report.describe(most=12), markup=False, soft_wrap=True)


def _config_of(info: WeightsInfo) -> str:
    if info.config:
        return info.config
    if not info.candidates:
        return "none; no config of the catalogue has these tensors"
    if len(info.candidates) == 1:
        return f"none; the tensors are those of {info.candidates[0]}"
    return f"none; the tensors fit {', '.join(info.candidates)}, which answer differently"


def _classes_of(info: WeightsInfo) -> str:
    if info.classes is None:
        return "none: these weights have no score heads"
    names = ", ".join(info.class_names[:6]) + (", …" if len(info.class_names) > 6 else "")
    if info.class_source == "file":
        return f"{info.classes}: {names}"
    if info.class_source:
        return f"{info.classes}, without names; by their number those of {info.class_source}"
    return f"{info.classes}, without names"


def _comparison(groups: dict[str, dict[str, int]]) -> Any:
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    table.add_column("part")
    for title in ("loaded", "missing", "unexpected", "other shape"):
        table.add_column(title, justify="right")
    for group, counts in groups.items():
        table.add_row(group, *(str(n) for n in counts.values()))
    return table


def _megabytes(count: int) -> str:
    return f"{count / 1e6:.1f} MB"
