"""What the commands of `detrkit explain` have in common: options, layers, folders, figures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer

from detrkit.cli.options import Device, InputSize, JsonOut, Weights, WeightsConfig

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from detrkit.engine.predictor import Predictor

# Typer reads these at run time, on Python 3.10 as well: `Optional`, not `X | None`.
# ruff: noqa: UP045

#: `SOURCE…`; empty where `--layers` is all that is wanted: `checked_sources` says so.
Sources = Annotated[
    Optional[list[str]],
    typer.Argument(metavar="SOURCE…", help="Images, folders, patterns in quotes ('shots/*.jpg')."),
]


class Format(str, Enum):
    """How figures are written."""

    png = "png"
    svg = "svg"
    pdf = "pdf"


#: `--format svg --format pdf`; `formats or DEFAULT_FORMATS`.
Formats = Annotated[
    Optional[list[Format]],
    typer.Option(
        "--format",
        help="png by default; svg and pdf for a paper, their text stays text; repeatable.",
    ),
]
DEFAULT_FORMATS = (Format.png,)

Width = Annotated[
    str,
    typer.Option(
        "--width", metavar="column|page|INCHES", help="Of a figure: 3.35 in, 6.9 in, or a number."
    ),
]
OutputFolder = Annotated[
    Optional[Path],
    typer.Option(
        "-o",
        "--output",
        "--output-dir",
        metavar="DIR",
        help="Where to write; explain/NAME by default, and a new number where that exists.",
    ),
]
#: `--layers`: lists what `--layer` takes; `print_layers` does it.
ListLayers = Annotated[
    bool, typer.Option("--layers", help="List the layers by name, kind and shape, and end.")
]
#: `--layer NAME`, repeatable; `detrkit.explain.layers.choose` reads it.
LayerNames = Annotated[
    Optional[list[str]],
    typer.Option(
        "--layer",
        metavar="NAME",
        help="A name of `--layers`, a pattern ('backbone.stages.*'), or backbone, encoder, "
        "decoder; repeatable.",
    ),
]
#: `--detection N`, repeatable.
ChosenDetections = Annotated[
    Optional[list[int]],
    typer.Option(
        "--detection", min=0, metavar="N", help="This detection only; 0 is the best. Repeatable."
    ),
]


@dataclass
class DetectorOptions:
    """The detector that is explained."""

    weights: Weights
    config: WeightsConfig = None
    size: InputSize = None
    device: Device = None

    def open(self) -> Predictor:
        """Reads the weights.

        Raises:
            DetrkitError: as `detrkit.api.load`, and for a size that no model takes.
        """
        from detrkit.api import load
        from detrkit.engine.derive import parse_size

        size = parse_size(self.size) if self.size else None
        return load(self.weights, config=self.config, device=self.device, size=size)


@dataclass
class FigureOptions:
    """How figures look and where they go."""

    formats: Formats = None
    width: Width = "page"
    output: OutputFolder = None
    json: JsonOut = False

    @property
    def inches(self) -> float:
        """`--width` in inches.

        Raises:
            UsageError: it is no width.
        """
        from detrkit.explain.figures.style import parse_width

        return parse_width(self.width)

    def folder(self, subject: str) -> Path:
        """A new folder: `explain/<subject>`, or `--output`; numbered where that is taken."""
        from detrkit.engine.run_dir import RunDirectory

        return RunDirectory.create(subject, self.output or Path("explain") / subject).path

    def save(self, figure: Figure, folder: Path, name: str) -> list[Path]:
        """Writes a figure in every format that was asked for.

        Args:
            figure: to write.
            folder: where.
            name: of the files, without an ending.
        """
        from detrkit.explain.figures.style import save

        kinds = dict.fromkeys(self.formats or DEFAULT_FORMATS)
        return [save(figure, folder / f"{name}.{kind.value}") for kind in kinds]


def checked_sources(sources: Sequence[str] | None) -> list[str]:
    """The sources.

    Raises:
        UsageError: there are none.
    """
    from detrkit.errors import UsageError

    if not sources:
        raise UsageError("no SOURCE: which images?", hint="give files, folders or patterns")
    return list(sources)


def print_layers(detector: Predictor, json: bool) -> None:
    """Lists the layers of a detector, or prints them as JSON."""
    from rich.table import Table

    from detrkit.cli.console import out, print_json
    from detrkit.explain.layers import list_layers

    layers = list_layers(detector)
    if json:
        print_json("layers", {"layers": [layer.to_dict() for layer in layers]})
        return
    table = Table(box=None, pad_edge=False)
    for title in ("layer", "kind", "shape"):
        table.add_column(title, no_wrap=True)
    for layer in layers:
        table.add_row(layer.name, layer.kind, " x ".join(map(str, layer.shape)))
    out.print(table, markup=False)
