"""The report on an evaluation as one HTML file: what went wrong, where, and why.

The numbers are those of `metrics.json`, and come from the same objects.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from PIL import Image

from detrkit.data.index import DatasetIndex
from detrkit.eval_report.cases import Gallery, detector_errors, label_errors
from detrkit.eval_report.curves import calibration, confusion, curves, errors, sizes_and_densities
from detrkit.eval_report.false_detections import false_detections
from detrkit.eval_report.numbers import classes, coco_numbers, headline
from detrkit.eval_report.remarks import on_negatives, remarks
from detrkit.eval_report.setting import Setting, costs, settings
from detrkit.files import write_bytes
from detrkit.json_output import write_json
from detrkit.metrics import EvaluationReport, Negatives
from detrkit.report import Page, drawing, figures, notices, prose, tag

__all__ = ["Setting", "report", "write"]


def write(
    folder: Path,
    found: EvaluationReport,
    subject: str,
    numbers: Mapping[str, Any],
    index: DatasetIndex,
    *,
    negatives: Negatives | None = None,
    curves_over_epochs: Image.Image | None = None,
) -> tuple[Path, Path]:
    """Writes `metrics.json` and `report.html` into a folder, each of them whole or not at all.

    Args:
        folder: exists.
        found, index, negatives, curves_over_epochs: as in `report`.
        subject: the weights, or the file of detections.
        numbers: content of `metrics.json`.

    Returns:
        The page and the numbers.

    Raises:
        DetrkitError: a file cannot be written.
    """
    page = report(
        found,
        Setting.of(subject, numbers),
        index,
        folder,
        negatives,
        curves_over_epochs,
    ).encode()
    files = folder / "report.html", folder / "metrics.json"
    write_json(files[1], "eval", numbers)
    write_bytes(files[0], page)
    return files


def report(
    found: EvaluationReport,
    setting: Setting,
    index: DatasetIndex,
    folder: Path,
    negatives: Negatives | None = None,
    curves_over_epochs: Image.Image | None = None,
) -> Page:
    """The page.

    Args:
        found: by the evaluation.
        setting: what was evaluated, where and how fast.
        index: of the data set, whose images are shown where they are readable.
        folder: where the page will lie; links to the images start there.
        negatives: images without targets that were looked at as well.
        curves_over_epochs: of the training run whose end this is.
    """
    confidence, gallery = found.confusion.confidence, Gallery(found, index, folder)
    page = Page(setting.title, setting.subtitle)
    page.add("Overview", headline(found, setting), coco_numbers(found.metrics))
    empty = None if negatives is None else negatives.to_dict(found.yolo.confidence)
    noticed = [*setting.remarks, *remarks(found)]
    if empty is not None:
        noticed += on_negatives(empty)
    page.add(
        "What stands out",
        notices((r.level, r.code, prose(r.text), "") for r in noticed)
        if noticed
        else tag("p", "Nothing stands out."),
    )
    page.add(
        "Classes",
        *classes(found),
        lead=f"Precision, recall, F1 and counts at confidence {confidence:.3f}, which is best for "
        "the mean F1, and IoU 0.5; each class's own best threshold in the last columns.",
    )
    page.add("Curves", *curves(found), lead="At IoU 0.5. Means are over classes with boxes.")
    page.add(
        "Types of error",
        *errors(found.tide),
        lead="How many points of AP50 each type of error costs, as TIDE counts them: by how much "
        "AP50 would rise if only that type were repaired.",
    )
    page.add(
        "Confusion",
        *confusion(found.confusion),
        lead=f"Rows are what is annotated, columns what is detected, at confidence "
        f"{confidence:.3f}. A row's shares are of the boxes of its class; in the last row, of all "
        "detections on background.",
    )
    page.add("Size and density", *sizes_and_densities(found.breakdown))
    page.add("Calibration", *calibration(found.calibration))
    page.add("Worst errors", *detector_errors(gallery), lead=gallery.lead)
    page.add(
        "Labels to check",
        *label_errors(gallery),
        lead="Errors that may be those of the labels, likeliest first: the surer the detector and "
        "the more often it is right about such objects elsewhere. None is known to be wrong.",
    )
    if negatives is not None and empty is not None:
        page.add(
            "False detections",
            *false_detections(negatives, empty, folder),
            lead=f"What is detected in images in which there is nothing to find ({empty['source']})"
            ": from each score on how often, and in how many of them.",
        )
    if curves_over_epochs is not None:
        alt = "Losses, metrics and learning rates over the epochs; results.csv has the numbers"
        caption = "Over the epochs; the numbers are in results.csv."
        page.add("Training", figures([(drawing(curves_over_epochs, alt), caption)]))
    page.add("Speed and size", *costs(setting))
    page.add("Configuration and environment", *settings(setting))
    return page
