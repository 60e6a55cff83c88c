"""What `detrkit eval` prints of an evaluation."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from rich.console import Group
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from detrkit import words
from detrkit.metrics import EvaluationReport, Metrics
from detrkit.metrics.calibration import SHOWN
from detrkit.metrics.coco import METRIC_MEANINGS, shown
from detrkit.metrics.over_activation import THRESHOLDS
from detrkit.metrics.schema import ModelJson, OverActivationJson, SpeedJson
from detrkit.metrics.tide import MEANINGS
from detrkit.metrics.yolo_table import YoloRow, YoloTable

#: So many classes are shown where nobody asks for all.
CLASSES = 20


def summary(report: EvaluationReport) -> Iterator[Any]:
    """The twelve numbers, the operating point, and the classes with most boxes."""
    yield number_table(report.metrics)
    yield operating_point(report.yolo)
    yield class_table(report.metrics, CLASSES)


def everything(
    report: EvaluationReport, speed: SpeedJson | None, model: ModelJson | None
) -> Iterator[Any]:
    """All tables, all classes."""
    yield number_table(report.metrics)
    yield operating_point(report.yolo)
    yield class_table(report.metrics, None)
    yield yolo_table(report.yolo)
    yield confusion_table(report)
    yield tide_table(report)
    yield size_table(report)
    yield density_table(report)
    yield calibration_table(report)
    if speed is not None:
        yield speed_line(speed)
    if model is not None:
        yield model_line(model)


def number_table(metrics: Metrics) -> Table:
    """COCO's twelve and what they mean."""
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(style="bold")
    table.add_column(justify="right")
    table.add_column(style="dim")
    for name, meaning in METRIC_MEANINGS.items():
        table.add_row(name, shown(metrics[name]), meaning)
    return table


def operating_point(table: YoloTable) -> str:
    """Precision, recall and F1 in one line."""
    row = table.overall
    if table.confidence is None:
        return "no boxes: no best confidence"
    return (
        f"precision {shown(row.precision)}, recall {shown(row.recall)}, F1 {shown(row.f1)} "
        f"at confidence {table.confidence:.3f}, the best for F1 (IoU 0.5, means over classes)"
    )


def class_table(metrics: Metrics, limit: int | None) -> Group:
    """COCO's numbers of the classes; those with most boxes where there are more than `limit`."""
    rows = list(enumerate(metrics.classes))
    if limit is not None and len(rows) > limit:
        rows = sorted(sorted(rows, key=lambda r: -r[1].boxes)[:limit])
    table = _table("class", "images", "boxes", "AP", "AP50", "AP75", "APs", "APm", "APl", "AR100")
    for _, row in rows:
        numbers = (row.ap, row.ap50, row.ap75, row.ap_small, row.ap_medium, row.ap_large, row.ar100)
        table.add_row(escape(row.name), str(row.images), str(row.boxes), *map(shown, numbers))
    left = len(metrics.classes) - len(rows)
    return _section("", table, f"and {left} classes with fewer boxes: --full" if left else "")


def yolo_table(found: YoloTable) -> Group:
    """Precision, recall, F1 and mAP of all classes together and of each."""
    table = _table(
        "class", "images", "boxes", "true", "false", "missed", "precision", "recall", "F1",
        "mAP50", "mAP75", "mAP50-95", "best conf.", "best F1",
    )  # fmt: skip
    for row in (found.overall, *found.classes):
        table.add_row(*yolo_cells(row), end_section=row is found.overall)
    empty = found.background
    return _section(
        f"YOLO metrics, IoU 0.5, confidence {_confidence(found.confidence)}",
        table,
        f"{empty.images} images without boxes, {empty.detections} detections in "
        f"{empty.images_with_detections} of them",
    )


def yolo_cells(row: YoloRow) -> Sequence[str]:
    """A row as text."""
    counts = (row.images, row.boxes, row.true, row.false, row.missed)
    numbers = (row.precision, row.recall, row.f1, row.map50, row.map75, row.map50_95)
    best = (_confidence(row.best_confidence), shown(row.best_f1))
    return (escape(row.name), *map(str, counts), *map(shown, numbers), *best)


def confusion_table(report: EvaluationReport) -> Group:
    """The most frequent confusions."""
    found = report.confusion
    table = _table("class", "taken for", "boxes")
    for true, said, count in found.greatest():
        table.add_row(escape(true), escape(said), str(count))
    return _section(
        f"Most confused, IoU 0.5, confidence {found.confidence:.3f}",
        table,
        f"{found.counts[-1].sum()} detections on background, {found.counts[:, -1].sum()} boxes "
        "missed; the whole matrix: --json",
    )


def tide_table(report: EvaluationReport) -> Group:
    """What each type of error costs."""
    found = report.tide
    table = _table("error", "count", "AP50 lost", "")
    table.columns[-1].justify = "left"
    for name, meaning in MEANINGS.items():
        table.add_row(name, str(found.counts[name]), f"{found.cost[name]:.2f}", meaning)
    table.add_row("FalsePos", "", f"{found.false_positives:.2f}", "all false detections")
    table.add_row("FalseNeg", "", f"{found.false_negatives:.2f}", "all boxes not found")
    return _section(f"TIDE's error types, of AP50 {found.ap:.1f}", table)


def size_table(report: EvaluationReport) -> Group:
    """Recall by size."""
    found = report.breakdown
    table = _table("size", "side", "boxes", "found", "recall", "at any score")
    for row in found.sizes:
        table.add_row(
            row.name, row.sides, str(row.boxes), str(row.found), shown(row.recall),
            shown(row.recall_at_any),
        )  # fmt: skip
    title = f"Recall by size, IoU 0.5, confidence {found.confidence:.3f}"
    return _section(title, table)


def density_table(report: EvaluationReport) -> Group:
    """Recall and precision by boxes per image."""
    table = _table("boxes per image", "images", "boxes", "found", "false", "recall", "precision")
    for row in report.breakdown.densities:
        if row.images:
            counts = (row.images, row.boxes, row.found, row.false)
            table.add_row(row.span, *map(str, counts), shown(row.recall), shown(row.precision))
    return _section("By boxes in the image", table)


def calibration_table(report: EvaluationReport) -> Group:
    """Scores against how often they are right."""
    found = report.calibration
    table = _table("scores", "detections", "mean score", "precision")
    for part in found.bins:
        if part.score is not None and part.precision is not None:
            table.add_row(
                f"{part.low:.1f}–{part.high:.1f}", str(part.detections), shown(part.score),
                shown(part.precision),
            )  # fmt: skip
    title = f"Calibration: ECE {shown(found.ece)}, from score {SHOWN} on {shown(found.ece_shown)}"
    return _section(title, table)


def negatives_table(found: OverActivationJson) -> Group:
    """False detections where there is nothing to find."""
    table = _table("score from", "detections", "per image", "images with any", "clean images")
    for level in found["levels"]:
        best = " (best F1)" if level["threshold"] == found["confidence"] else ""
        table.add_row(
            f"{level['threshold']:.3g}{best}", str(level["detections"]), f"{level['fppi']:.3f}",
            str(level["images_with_detections"]), f"{100 * level['clean_rate']:.1f} %",
        )  # fmt: skip
    note = f"highest score {found['max_score']:.3f}, of an image on average "
    note += f"{found['mean_max_score']:.3f}"
    if found["classes"]:
        most = [f"{row['detections']} {row['name']}" for row in found["classes"][:5]]
        note += f"; from {THRESHOLDS[0]} on: {', '.join(most)}"
        note += ", …" if len(found["classes"]) > len(most) else ""
    if found["broken"]:
        note += f"; {words.count(len(found['broken']), 'image')} could not be read"
    images = words.count(found["images"], "image")
    title = f"False detections on {images} without targets ({found['source']})"
    return _section(title, table, note)


def speed_line(speed: SpeedJson) -> str:
    """Milliseconds per image."""
    return (
        f"{speed['total']:.1f} ms per image ({speed['fps']:.1f} FPS) on {speed['device']}, batch "
        f"{speed['batch']}: preprocessing {speed['preprocess']:.1f}, model {speed['model']:.1f}, "
        f"postprocessing {speed['postprocess']:.1f}"
    )


def model_line(model: ModelJson) -> str:
    """Size, parameters and operations, as far as known."""
    parts = []
    if model["file_bytes"] is not None:
        parts.append(f"{model['file_bytes'] / 1e6:.1f} MB on disk")
    if model["parameters"] is not None:
        parts.append(f"{model['parameters'] / 1e6:.2f} M parameters")
    if model["flops"] is not None:
        height, width = model["input"][2:]
        parts.append(f"{model['flops'] / 1e9:.2f} GFLOPs at {height}x{width}")
    if model["flops"] is None:
        parts.append("FLOPs not counted: the file is no checkpoint")
    return ", ".join(parts)


def _confidence(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def _table(first: str, *numbers: str) -> Table:
    """Text in the first column, numbers in the others."""
    table = Table(box=None, pad_edge=False)
    table.add_column(first)
    for name in numbers:
        table.add_column(name, justify="right")
    return table


def _section(title: str, table: Table, note: str = "") -> Group:
    """A table with a line above and below, which may be longer than its rows."""
    above = [Text(title, style="bold")] if title else []
    below = [Text(note, style="dim")] if note else []
    return Group(*above, table, *below)
