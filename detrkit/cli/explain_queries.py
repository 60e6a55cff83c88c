"""`detrkit explain queries`: what each query does, over data with objects and without."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Optional

import typer

from detrkit.cli.explain_options import DetectorOptions, FigureOptions
from detrkit.cli.options import Conf, Data, PassSize, Split, Updates
from detrkit.cli.spread import spread

if TYPE_CHECKING:
    from detrkit.explain.over_activation import OverActivationMaps
    from detrkit.explain.queries import QueryStatistics

# Typer reads annotations at run time, on Python 3.10 as well.
# ruff: noqa: UP045

#: Queries in the table.
_SHOWN = 10


@spread
def queries(
    options: DetectorOptions,
    data: Data = None,
    split: Split = None,
    negatives: Annotated[
        Optional[str],
        typer.Option(
            "--negatives",
            metavar="DIR",
            help="Images in which there is nothing to find: map where false detections sit. "
            "Alone, or with --data.",
            show_default=False,
        ),
    ] = None,
    conf: Conf = 0.3,
    limit: Annotated[
        Optional[int],
        typer.Option(
            min=1, metavar="N", help="At most so many images, evenly spread.", show_default=False
        ),
    ] = None,
    slots: Annotated[int, typer.Option(min=1, help="Single queries that are drawn.")] = 20,
    batch: PassSize = 8,
    update: Updates = None,
    *,
    figures: FigureOptions,
) -> None:
    """Draw where queries look and what they answer, over a data set.

    Where they start, which sizes each level finds, how many of them detect anything
    and how many cover the true boxes; queries.csv has a row for each.

    --negatives maps false detections on images without targets: their places,
    classes, levels, and the worst images.
    Without --data the validation set that the weights were trained with is used.
    """
    from detrkit.cli.console import progress_bar
    from detrkit.data.negatives import open_negatives
    from detrkit.engine.evaluation import measured_index
    from detrkit.explain import over_activation
    from detrkit.explain import queries as answers_of_queries
    from detrkit.explain.decoder_trace import decoder_of
    from detrkit.explain.layers import network, torch_runtime

    inches = figures.inches
    detector = options.open()
    runtime = torch_runtime(detector)
    decoder_of(network(detector))
    found: QueryStatistics | None = None
    false: OverActivationMaps | None = None
    how: dict[str, Any] = {"conf": conf, "limit": limit, "batch": batch}
    empty = None
    if negatives is not None:
        empty = open_negatives(negatives, detector.class_map, key="--negatives")
    if data is not None or empty is None:
        cfg = runtime.config.with_updates(update or ()) if runtime.config is not None else None
        index, _ = measured_index(options.weights, detector.class_map, cfg, data, split)
        runtime.class_map = index.class_map
        with progress_bar("detecting", quiet=figures.json) as progress:
            found = answers_of_queries(detector, index, **how, progress=progress)
    if empty is not None:
        with progress_bar("detecting on negatives", quiet=figures.json) as progress:
            false = over_activation(detector, empty, **how, progress=progress)
    folder = figures.folder("queries")
    files = _write(folder, found, false, inches, slots, figures)
    _tell(folder, files, found, false, figures.json)


def _write(
    folder: Path,
    found: QueryStatistics | None,
    false: OverActivationMaps | None,
    inches: float,
    slots: int,
    figures: FigureOptions,
) -> list[Path]:
    """All files."""
    from detrkit.explain.numbers import write_csv, write_npz

    files: list[Path] = []
    if found is not None:
        files += figures.save(found.figure(inches), folder, "queries")
        files += figures.save(found.slots_figure(inches, slots), folder, "slots")
        files.append(write_csv(folder / "queries.csv", found.rows()))
        files.append(write_npz(folder / "queries.npz", found.arrays()))
    if false is not None:
        files += figures.save(false.figure(inches), folder, "over_activation")
        files.append(write_csv(folder / "over_activation.csv", false.rows()))
        files.append(write_npz(folder / "over_activation.npz", false.arrays()))
    return files


def _tell(
    folder: Path,
    files: list[Path],
    found: QueryStatistics | None,
    false: OverActivationMaps | None,
    json: bool,
) -> None:
    from detrkit.cli.console import err, out, print_json

    if json:
        print_json(
            "queries",
            {
                "output": folder,
                "files": files,
                "data": found.to_dict() if found else None,
                "negatives": false.to_dict() if false else None,
            },
        )
        return
    if found is not None:
        _print_queries(found)
    if false is not None:
        at = false.negatives.found.at(false.conf)
        out.print(
            f"{at.images} images without targets: {at.fppi:.2f} false detections per image from "
            f"{false.conf:g} on, {100 * at.clean_rate:.0f} % of the images without any",
            soft_wrap=True,
        )
    err.print(f"figures and numbers in {folder}", markup=False, soft_wrap=True)


def _print_queries(found: QueryStatistics) -> None:
    from rich.table import Table

    from detrkit.cli.console import out

    used = int((found.usage > 0).sum())
    out.print(
        f"{found.images} images: {int(found.usage.sum())} detections from {found.conf:g} on, made "
        f"by {used} of {found.queries} queries (Gini {found.inequality:.2f}); 90 % of them by the "
        f"first {found.needed(0.9)}, 99 % by the first {found.needed(0.99)}",
        soft_wrap=True,
    )
    if len(found.first_answer):
        proposals, answers = (
            100 * found.coverage(first)[-1] for first in (found.first_proposal, found.first_answer)
        )
        out.print(
            f"{len(found.first_answer)} true boxes: {proposals:.1f} % have a proposal at IoU 0.5, "
            f"{answers:.1f} % an answer of their class",
            soft_wrap=True,
        )
    table = Table(box=None, pad_edge=False)
    columns = {"query": "query", "detections": "detections", "mean_score": "mean score",
               "mean_cx": "cx", "mean_cy": "cy", "mean_w": "w", "mean_h": "h",
               "top_class": "class", "top_class_share": "share"}  # fmt: skip
    for key, title in columns.items():
        table.add_column(title, justify="left" if key == "top_class" else "right")
    for row in found.rows()[:_SHOWN]:
        table.add_row(*(_cell(row[key]) for key in columns))
    out.print(table, markup=False)


def _cell(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:.3f}" if isinstance(value, float) else str(value)
