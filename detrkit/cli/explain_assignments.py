"""`detrkit explain assignments`: which query is matched to which box, over a training."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Optional

import typer

from detrkit.cli.explain_options import FigureOptions
from detrkit.cli.options import Data, Device, PassSize, Split, Updates, WeightsConfig
from detrkit.cli.spread import spread

if TYPE_CHECKING:
    from rich.table import Table

    from detrkit.explain.assignments import Assignments

# Typer reads annotations at run time, on Python 3.10 as well.
# ruff: noqa: UP045


@spread
def assignments(
    run: Annotated[
        list[str],
        typer.Argument(
            metavar="RUN|FILE…",
            help="The folder of a run, or its checkpoints. --update checkpoint_freq=1 lets a "
            "training keep each epoch's.",
            show_default=False,
        ),
    ],
    data: Data = None,
    split: Split = None,
    config: WeightsConfig = None,
    images: Annotated[
        int, typer.Option(min=1, metavar="N", help="At most so many images, evenly spread.")
    ] = 32,
    raw: Annotated[
        bool,
        typer.Option("--raw", help="The weights that are trained, not the averaged ones."),
    ] = False,
    pictures: Annotated[
        int, typer.Option(min=0, help="Images that are drawn: those whose pairs change most.")
    ] = 3,
    batch: PassSize = 8,
    device: Device = None,
    update: Updates = None,
    *,
    figures: FigureOptions,
) -> None:
    """Draw how the matching of queries and boxes changes from checkpoint to checkpoint.

    The criterion of the run matches a fixed set of images: DN-DETR's instability
    score, the share of boxes that another query answers for, how far the decoder
    layers agree, and the quality of the pairs.

    In two-stage detectors the number of a query is a rank that changes with every
    step: a query counts as the same where it starts from the same place of the
    encoder's maps ("by place"). The longer the gap between two checkpoints, the more
    changes. Without --data the run's validation set is used.
    """
    import logging

    from detrkit.cli.console import err, out, print_json, progress_bar
    from detrkit.engine.evaluation import measured_index
    from detrkit.engine.weights import open_detector
    from detrkit.explain import assignments as assign
    from detrkit.explain.assignments import moments_of
    from detrkit.explain.decoder_trace import decoder_of
    from detrkit.explain.numbers import write_csv, write_npz

    inches = figures.inches
    moments = moments_of(run, averaged=not raw)
    if len(moments) == 1:
        logging.getLogger("detrkit").warning(
            "%s is the only checkpoint: nothing to compare; a training with --update "
            "checkpoint_freq=1 keeps each epoch's",
            moments[0].path,
        )
    last = open_detector(moments[-1].path, config)
    decoder_of(last.model)
    index, name = measured_index(
        moments[-1].path, last.class_map, last.config.with_updates(update or ()), data, split
    )
    with progress_bar("matching", quiet=figures.json) as progress:
        found = assign(
            run, index, config=config, images=images, averaged=not raw, device=device,
            batch=batch, progress=progress,
        )  # fmt: skip
    folder = figures.folder("assignments")
    files = figures.save(found.figure(inches), folder, "assignments")
    for number, image in enumerate(found.restless(pictures), 1):
        files += figures.save(found.image_figure(image, inches), folder, f"pairs-{number}")
    files.append(write_csv(folder / "assignments.csv", found.rows()))
    files.append(write_npz(folder / "assignments.npz", found.arrays()))
    if figures.json:
        print_json(
            "assignments",
            {"output": folder, "files": files, "data": name, **found.to_dict()},
        )
        return
    out.print(
        f"{name}: {len(found.truth.paths)} images, {len(found.truth.labels)} boxes; "
        f"{found.outputs[-1]} of {'the trained' if raw else 'the averaged'} weights\n",
        markup=False,
        soft_wrap=True,
    )
    out.print(_table(found), markup=False)
    err.print(f"figures and numbers in {folder}", markup=False, soft_wrap=True)


def _table(found: Assignments) -> Table:
    """The last layer, moment by moment."""
    from rich.table import Table

    titles = {
        "epochs": "epoch",
        "checkpoint": "checkpoint",
        "instability": "IS by number",
        "instability_by_place": "IS by place",
        "changed": "changed %",
        "mean_iou": "IoU",
        "mean_score": "score",
    }
    table = Table(box=None, pad_edge=False)
    for key, title in titles.items():
        table.add_column(title, justify="left" if key == "checkpoint" else "right")
    for row in found.rows()[len(found.outputs) - 1 :: len(found.outputs)]:
        table.add_row(*(_cell(key, row[key]) for key in titles))
    return table


def _cell(key: str, value: Optional[float | str]) -> str:
    if value is None:
        return ""
    if key == "changed":
        return f"{100 * float(value):.0f}"
    return f"{value:.2f}" if isinstance(value, float) else str(value)
