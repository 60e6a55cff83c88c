"""`detrkit eval`: what weights, or a file of detections, are worth on a data set."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Optional

import typer

from detrkit.cli.options import Data, Device, InputSize, JsonOut, PassSize, Split, Updates
from detrkit.cli.processes import Devices, Nproc, run_in_processes

if TYPE_CHECKING:
    from detrkit.data.index import DatasetIndex
    from detrkit.metrics import EvaluationReport, Negatives
    from detrkit.metrics.schema import ModelJson, SpeedJson

# Typer reads annotations at run time, on Python 3.10 as well.
# ruff: noqa: UP045


@dataclass(frozen=True)
class _Wanted:
    """What is to be printed and written."""

    full: bool
    output: Path | None
    predictions: Path | None
    review: Path | None
    fiftyone: str | None
    json: bool

    def check(self) -> None:
        """Before anything is measured: what cannot be written, or is missing, is said at once."""
        from detrkit.engine.fiftyone_export import require_name
        from detrkit.files import make_folder

        if self.fiftyone is not None:
            require_name(self.fiftyone)
        files = (self.predictions, self.review)
        for folder in (self.output, *(file and file.parent for file in files)):
            if folder is not None:
                make_folder(folder)


def eval(
    weights: Annotated[
        Optional[str],
        typer.Option(
            "-w",
            "--weights",
            metavar="FILE",
            help="A checkpoint or an exported file.",
            show_default=False,
        ),
    ] = None,
    data: Data = None,
    split: Split = None,
    predictions: Annotated[
        Optional[Path],
        typer.Option(
            "--predictions",
            metavar="FILE.json",
            help="Instead of weights: detections as COCO results.",
            show_default=False,
        ),
    ] = None,
    annotations: Annotated[
        Optional[str],
        typer.Option(
            "--annotations",
            metavar="PATH",
            help="What --predictions are measured against: a COCO file; its images are not read.",
            show_default=False,
        ),
    ] = None,
    negatives: Annotated[
        Optional[str],
        typer.Option(
            "--negatives",
            metavar="DIR",
            help="Also count false detections on these images, in which there is nothing to find.",
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
        Optional[str],
        typer.Option(
            metavar="hotcoco|pycocotools|detrkit",
            help="What counts COCO's numbers; all give the same ones. hotcoco by default, detrkit "
            "where it is not installed.",
            show_default=False,
        ),
    ] = None,
    full: Annotated[
        bool,
        typer.Option("--full", help="All tables and classes; also count parameters and FLOPs."),
    ] = False,
    output: Annotated[
        Optional[Path],
        typer.Option(
            "-o",
            "--output",
            "--output-dir",
            metavar="DIR",
            help="Write report.html and metrics.json, all numbers, into this folder.",
            show_default=False,
        ),
    ] = None,
    predictions_out: Annotated[
        Optional[Path],
        typer.Option(
            "--predictions-out",
            metavar="FILE.json",
            help="Write all detections as COCO results.",
            show_default=False,
        ),
    ] = None,
    review_out: Annotated[
        Optional[Path],
        typer.Option(
            "--review-out",
            metavar="FILE.json",
            help="Write the images whose labels the model doubts as a COCO file for annotation "
            "tools, with the boxes that it would add.",
            show_default=False,
        ),
    ] = None,
    fiftyone: Annotated[
        Optional[str],
        typer.Option(
            "--fiftyone",
            metavar="NAME",
            help="Make a FiftyOne data set of boxes and detections; needs `detrkit[fiftyone]`.",
            show_default=False,
        ),
    ] = None,
    batch: PassSize = 8,
    size: InputSize = None,
    device: Device = None,
    devices: Devices = None,
    nproc: Nproc = None,
    update: Updates = None,
    json: JsonOut = False,
) -> None:
    """Measure weights, or a file of detections, on a data set.

    AP and AR as COCO counts them; precision, recall, F1 at the best confidence.

    --full adds YOLO's table, confusions, TIDE's error types, recall by size and
    density, calibration and costs. --json and metrics.json have all of it always.

    Without --data the validation set that the weights were trained with is used.
    """  # fmt: skip
    from detrkit.errors import UsageError

    if (weights is None) == (predictions is None):
        raise UsageError(
            "give either weights or a file of detections",
            hint="detrkit eval -w best.pth, or detrkit eval --predictions p.json "
            "--annotations gt.json",
        )
    wanted = _Wanted(full, output, predictions_out, review_out, fiftyone, json)
    if predictions is not None:
        ground_truth = annotations or data
        given = {
            "-c": config, "--size": size, "--devices": devices, "--nproc": nproc, "-u": update,
            "--negatives": negatives,
        }  # fmt: skip
        for flag, value in given.items():
            if value is not None:
                raise UsageError(f"{flag} is for weights, not for --predictions")
        if ground_truth is None or (annotations and data):
            raise UsageError(
                "--predictions needs one set of annotations to be measured against",
                hint="--annotations gt.json",
            )
        wanted.check()
        _of_predictions(predictions, ground_truth, split, backend, wanted)
        return
    assert weights is not None
    if annotations is not None:
        raise UsageError("--annotations goes with --predictions", hint="for weights: --data PATH")
    numbers = run_in_processes(devices, nproc, device=device)
    wanted.check()

    from detrkit.cli.console import err, out, progress_bar
    from detrkit.engine.derive import parse_size
    from detrkit.engine.distributed.group import together
    from detrkit.engine.distributed.meeting import meet
    from detrkit.engine.evaluation import evaluate_weights
    from detrkit.engine.run_dir import environment
    from detrkit.metrics.coco import checked_backend

    with (
        meet() as place,
        together(device, numbers),
        progress_bar("evaluating", quiet=json or place.rank > 0) as progress,
    ):
        evaluation = evaluate_weights(
            weights, data=data, split=split, config=config, update=update or (), device=device,
            batch=batch, size=parse_size(size) if size else None,
            backend=checked_backend(backend), cost=full or json or output is not None,
            negatives=negatives, progress=progress,
        )  # fmt: skip
    if place.rank > 0:
        return
    result = evaluation.result
    if not json:
        metrics = result.metrics
        out.print(
            f"{weights} on {evaluation.data}: {metrics.images} images, {metrics.boxes} boxes\n",
            markup=False,
            soft_wrap=True,
        )
    about = {
        "weights": weights,
        "data": evaluation.data,
        "broken": result.broken,
        "images_per_second": round(result.images_per_second, 2),
        "environment": environment(),
        "config": evaluation.config.dump() if evaluation.config is not None else None,
    }
    _tell(
        wanted, result.report, evaluation.index, weights, about, result.speed, evaluation.model,
        evaluation.negatives,
    )  # fmt: skip
    if not json:
        err.print(
            f"{result.images_per_second:.1f} images/s, reading included; counted by "
            f"{result.metrics.backend}"
        )


def _of_predictions(
    predictions: Path,
    annotations: str,
    split: str | None,
    backend: str | None,
    wanted: _Wanted,
) -> None:
    from detrkit.cli.console import out
    from detrkit.engine.run_dir import counting_environment
    from detrkit.engine.scoring import score_predictions
    from detrkit.metrics.coco import checked_backend

    scoring = score_predictions(
        predictions, annotations, split=split, backend=checked_backend(backend)
    )
    metrics = scoring.report.metrics
    if not wanted.json:
        out.print(
            f"{predictions} on {annotations}: {metrics.images} images, {metrics.boxes} boxes, "
            f"{metrics.detections} detections\n",
            markup=False,
            soft_wrap=True,
        )
    about = {
        "weights": None,
        "data": annotations,
        "rows": scoring.results.rows,
        "left_out": scoring.results.left_out,
        "environment": counting_environment(),
        "config": None,
    }
    _tell(wanted, scoring.report, scoring.index, str(predictions), about)


def _tell(
    wanted: _Wanted,
    report: EvaluationReport,
    index: DatasetIndex,
    subject: str,
    about: Mapping[str, Any],
    speed: SpeedJson | None = None,
    model: ModelJson | None = None,
    negatives: Negatives | None = None,
) -> None:
    """Writes and prints what was found.

    Args:
        wanted: of it.
        report, index: the numbers, and the data they were counted on.
        subject: the weights, or the file of detections.
        about: more keys of `metrics.json`.
        speed, model: of the model that was run.
        negatives: where false detections were counted.
    """
    from detrkit import words
    from detrkit.cli.console import err, out, print_json
    from detrkit.cli.eval_tables import everything, negatives_table, speed_line, summary
    from detrkit.engine.fiftyone_export import to_fiftyone
    from detrkit.metrics.results_file import write_results
    from detrkit.metrics.review import write_review

    truth = report.matches.truth
    files = []
    if wanted.predictions is not None:
        ids = truth.image_ids, truth.class_map.category_ids
        write_results(wanted.predictions, report.predictions, *ids)
        files.append(f"detections in {wanted.predictions}")
    if wanted.review is not None:
        review = write_review(wanted.review, report, index)
        found = ", ".join(f"{count} {kind}" for kind, count in review.counts.items())
        files.append(
            f"{words.count(review.images, 'image')} to review ({found}) in {wanted.review}"
        )
    if wanted.fiftyone is not None:
        to_fiftyone(wanted.fiftyone, report, index)
        files.append(f"FiftyOne data set {wanted.fiftyone}: fiftyone app launch {wanted.fiftyone}")
    over_activation = negatives.to_dict(report.yolo.confidence) if negatives else None
    numbers = report.to_dict(speed, model, index, over_activation)
    payload = {**about, "predictions": wanted.predictions, **numbers}
    if wanted.output is not None:
        from detrkit import eval_report  # draws, for which it needs torch

        page, file = eval_report.write(
            wanted.output, report, subject, payload, index, negatives=negatives
        )
        files += [f"report in {page}", f"all numbers in {file}"]
    if wanted.json:
        print_json("eval", payload)
        return
    parts = list(everything(report, speed, model) if wanted.full else summary(report))
    if over_activation is not None:
        parts.append(negatives_table(over_activation))
    for number, part in enumerate(parts):
        if number:
            out.print()
        out.print(part, soft_wrap=isinstance(part, str))
    if speed is not None and not wanted.full:
        err.print(speed_line(speed), soft_wrap=True)
    for line in files:
        err.print(line, markup=False, soft_wrap=True)
