"""`detrkit compare`: runs, reports and detections side by side, and what of it is chance."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer

from detrkit.cli.options import Data, JsonOut, Split

if TYPE_CHECKING:
    from detrkit.engine.comparison import Comparison

# Typer reads annotations at run time, on Python 3.10 as well.
# ruff: noqa: UP045


def compare(
    inputs: Annotated[
        list[str],
        typer.Argument(
            metavar="INPUT",
            help="Folders of runs; folders or metrics.json of `eval -o`; COCO results files "
            "with --data. NAME=PATH names one. The first is the baseline.",
            show_default=False,
        ),
    ],
    data: Data = None,
    split: Split = None,
    output: Annotated[
        Optional[Path],
        typer.Option(
            "-o",
            "--output",
            "--output-dir",
            metavar="DIR",
            help="Write compare.html, curves.png, metrics.csv, classes.csv, table.md, table.tex "
            "and compare.json into this folder.",
            show_default=False,
        ),
    ] = None,
    samples: Annotated[
        int, typer.Option(min=0, help="Draws of images for the intervals; 0: no intervals.")
    ] = 1000,
    seed: Annotated[int, typer.Option(min=0, help="Of the draws.")] = 0,
    json: JsonOut = False,
) -> None:
    """Compare runs and reports: numbers, differences, classes, curves.

    Where detections and ground truth are known (runs keep the detections of their
    best epoch, `eval -o DIR --predictions-out DIR/predictions.json` those of any
    weights), AP gets 95 % intervals by a bootstrap over the images, paired between
    the models, and each difference the verdict whether it may be chance.

    Without --data each is measured on the data that it names.
    """
    from detrkit.cli.console import err, out, print_json, progress_bar
    from detrkit.errors import UsageError
    from detrkit.files import make_folder

    if len(inputs) < 2:
        raise UsageError(
            "a comparison needs at least two", hint="detrkit compare runs/a-1 runs/b-1"
        )
    if split is not None and data is None:
        raise UsageError("--split is a part of --data, which is not given")
    if output is not None:  # what cannot be written is said at once, not after the work
        make_folder(output)

    import logging

    from detrkit.cli.compare_tables import tables
    from detrkit.engine.comparison import compare as compare_entries
    from detrkit.engine.comparison import read_entries

    entries = read_entries(inputs, data, split)
    with progress_bar("drawing images", quiet=json) as progress:
        found = compare_entries(entries, samples, seed, progress)
    for note in found.notes:
        logging.getLogger("detrkit").warning("%s", note)
    payload = {**found.to_dict(), "output": output}
    if output is not None:
        _write(found, output)
    if json:
        print_json("compare", payload)
        return
    for number, part in enumerate(tables(found)):
        if number:
            out.print()
        out.print(part, soft_wrap=isinstance(part, str), markup=False)
    if output is not None:
        err.print(f"all of it in {output / 'compare.html'}, and as tables beside it",
                  markup=False, soft_wrap=True)  # fmt: skip


def _write(found: Comparison, folder: Path) -> None:
    """All files of `-o`."""
    from detrkit.engine.comparison import tables
    from detrkit.engine.comparison.page import page
    from detrkit.engine.curves import RunCurves, draw_curves
    from detrkit.files import write_atomically, write_bytes
    from detrkit.json_output import write_json

    runs = [RunCurves(m.name, m.entry.rows) for m in found.models if m.entry.rows]
    curves = draw_curves(runs) if runs else None
    contents = {
        "metrics.csv": tables.metrics_csv(found),
        "classes.csv": tables.classes_csv(found),
        "table.md": tables.markdown(found),
        "table.tex": tables.latex(found),
    }
    for name, text in contents.items():
        write_bytes(folder / name, text.encode("utf-8", "replace"))
    write_json(folder / "compare.json", "compare", found.to_dict())
    if curves is not None:
        write_atomically(folder / "curves.png", lambda file: curves.save(file, format="PNG"))
    write_bytes(folder / "compare.html", page(found, curves).encode())
