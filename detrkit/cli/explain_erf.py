"""`detrkit explain erf`: how far a layer sees."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Optional

import typer

from detrkit.cli.explain_options import (
    DetectorOptions,
    FigureOptions,
    LayerNames,
    ListLayers,
    Sources,
    print_layers,
)
from detrkit.cli.spread import spread

if TYPE_CHECKING:
    from detrkit.explain.receptive_field import ReceptiveFields

# Typer reads annotations at run time, on Python 3.10 as well.
# ruff: noqa: UP045


@spread
def erf(
    options: DetectorOptions,
    source: Sources = None,
    *,
    layer: LayerNames = None,
    layers: ListLayers = False,
    images: Annotated[
        Optional[int],
        typer.Option(
            min=1,
            metavar="N",
            help="How many; 20 of normal noise without SOURCE, with it all pictures.",
            show_default=False,
        ),
    ] = None,
    seed: Annotated[int, typer.Option("--seed", help="Of the noise.")] = 0,
    figures: FigureOptions,
) -> None:
    """Effective receptive fields: which pixels the central cell of a layer depends on.

    With the area that holds 20, 30, 50 and 99 % of it, as in the papers on large kernels. Measured
    on pictures, or without SOURCE on noise. By default of what leaves the backbone and the encoder.
    """
    from itertools import chain, islice

    from detrkit.cli.explain_work import Work
    from detrkit.explain.receptive_field import receptive_field

    work = Work("erf", options, figures)
    if layers:
        print_layers(work.detector, work.json)
        return
    opened = islice(work.pictures(source or ()), images)
    first = next(opened, None) if source else None
    if source and first is None:
        work.end()  # says what could not be read
        return
    fields = receptive_field(
        work.detector,
        images or 20 if first is None else (image.input for image in chain([first], opened)),
        layers=layer or ("backbone", "encoder"),
        seed=seed,
    )
    folder = work.place()
    files = figures.save(fields.figure(work.inches), folder, "erf")
    fields.save_table(folder / "erf.csv")
    fields.save_numbers(folder / "erf.npz")
    if not work.json:
        _print_table(fields)
    work.end(figures=files, **fields.to_dict())


def _print_table(fields: ReceptiveFields) -> None:
    from rich.table import Table

    from detrkit.cli.console import out
    from detrkit.explain.receptive_field import THRESHOLDS

    table = Table(box=None, pad_edge=False)
    table.add_column("layer", no_wrap=True)
    for threshold in THRESHOLDS:
        table.add_column(f"r {threshold:.0%}", justify="right")
    for threshold in THRESHOLDS:
        table.add_column(f"of P {threshold:.0%}", justify="right")
    for field in fields.fields:
        parts = [
            part for logarithmic in (True, False)
            for part in field.rectangles(logarithmic=logarithmic)
        ]  # fmt: skip
        table.add_row(field.layer, *(f"{part.area:.1%}" for part in parts))
    out.print(table, markup=False)
