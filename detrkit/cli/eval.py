"""`detrkit eval`: COCO's numbers of weights on a data set, in all and per class."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer

from detrkit.cli.options import Data, Device, InputSize, JsonOut, Updates, Weights
from detrkit.cli.processes import Devices, Nproc, run_in_processes

if TYPE_CHECKING:
    from detrkit.metrics import Metrics

# Typer reads annotations at run time, on Python 3.10 as well.
# ruff: noqa: UP045


def eval(
    weights: Weights,
    data: Data = None,
    split: Annotated[
        Optional[str],
        typer.Option(
            metavar="train|val|test",
            help="Part of --data; val by default, else test.",
            show_default=False,
        ),
    ] = None,
    config: Annotated[
        Optional[str],
        typer.Option(
            "-c",
            "--config",
            metavar="CFG",
            help="For weights that carry no config and are not recognised; or for its data.",
            show_default=False,
        ),
    ] = None,
    backend: Annotated[
        str, typer.Option(help="hotcoco, or pycocotools as a cross-check.")
    ] = "hotcoco",
    predictions_out: Annotated[
        Optional[Path],
        typer.Option(
            "--predictions-out",
            metavar="FILE.json",
            help="Write all detections as COCO results.",
            show_default=False,
        ),
    ] = None,
    batch: Annotated[int, typer.Option(min=1, help="Images per forward pass.")] = 8,
    size: InputSize = None,
    device: Device = None,
    devices: Devices = None,
    nproc: Nproc = None,
    update: Updates = None,
    json: JsonOut = False,
) -> None:
    """Measure weights on a data set: AP and AR as COCO counts them, per class as well.

    Without --data the validation set that the weights were trained with is used.
    """  # fmt: skip
    numbers = run_in_processes(devices, nproc, device=device)

    from detrkit.cli.console import err, out, print_json, progress_bar
    from detrkit.engine.derive import parse_size
    from detrkit.engine.distributed.group import together
    from detrkit.engine.distributed.meeting import meet
    from detrkit.engine.evaluation import evaluate_weights
    from detrkit.engine.evaluator import write_predictions

    with (
        meet() as place,
        together(device, numbers),
        progress_bar("evaluating", quiet=json or place.rank > 0) as progress,
    ):
        evaluation = evaluate_weights(
            weights, data=data, split=split, config=config, update=update or (), device=device,
            batch=batch, size=parse_size(size) if size else None,
            backend=backend, progress=progress,  # type: ignore[arg-type]
        )  # fmt: skip
    if place.rank > 0:
        return
    result, about = evaluation.result, evaluation.data
    metrics = result.metrics
    if predictions_out is not None:
        predictions_out.parent.mkdir(parents=True, exist_ok=True)
        write_predictions(predictions_out, result.detections)
    if json:
        print_json(
            "eval",
            {
                "weights": weights,
                "data": about,
                **metrics.to_dict(),
                "broken": result.broken,
                "images_per_second": round(result.images_per_second, 2),
                "predictions": predictions_out,
            },
        )
        return
    out.print(f"{weights} on {about}: {metrics.images} images, {metrics.boxes} boxes\n",
              markup=False, soft_wrap=True)  # fmt: skip
    out.print(_number_table(metrics))
    out.print()
    out.print(_class_table(metrics))
    err.print(f"{result.images_per_second:.1f} images/s, counted by {metrics.backend}")
    if predictions_out is not None:
        err.print(f"detections in {predictions_out}", markup=False, soft_wrap=True)


def _number_table(metrics: Metrics) -> object:
    from rich.table import Table

    from detrkit.metrics.coco import METRIC_MEANINGS

    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(style="bold")
    table.add_column(justify="right")
    table.add_column(style="dim")
    for name, value in metrics.values.items():
        table.add_row(name, _shown(value), METRIC_MEANINGS[name])
    return table


def _class_table(metrics: Metrics) -> object:
    from rich.markup import escape
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    table.add_column("class")
    for title in ("images", "boxes", "AP", "AP50", "AP75", "APs", "APm", "APl", "AR100"):
        table.add_column(title, justify="right")
    for row in metrics.classes:
        numbers = (row.ap, row.ap50, row.ap75, row.ap_small, row.ap_medium, row.ap_large, row.ar100)
        table.add_row(
            escape(row.name), str(row.images), str(row.boxes), *(_shown(n) for n in numbers)
        )
    return table


def _shown(value: float) -> str:
    """-1, COCO's "nothing to count", is a dash."""
    return "–" if value < 0 else f"{value:.3f}"
