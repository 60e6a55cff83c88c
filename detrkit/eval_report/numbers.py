"""The evaluation in numbers: tiles, COCO's twelve, classes."""

from __future__ import annotations

from collections.abc import Iterable

from detrkit.eval_report.setting import Setting
from detrkit.metrics import EvaluationReport, Metrics
from detrkit.metrics.coco import METRIC_MEANINGS, shown
from detrkit.report import Cell, Column, Html, bars, figures, table, tiles
from detrkit.report.cells import cell

#: Classes in the chart; the table has all.
_CHARTED = 20


def headline(found: EvaluationReport, setting: Setting) -> Html:
    """What one asks first."""
    metrics, row = found.metrics, found.yolo.overall
    at = f"at confidence {found.yolo.confidence:.3f}" if found.yolo.confidence is not None else ""
    values = [
        ("AP", shown(metrics["AP"]), "IoU 0.50–0.95"),
        ("AP50", shown(metrics["AP50"]), ""),
        ("AP75", shown(metrics["AP75"]), ""),
        ("precision", shown(row.precision), at),
        ("recall", shown(row.recall), at),
        ("F1", shown(row.f1), at),
        ("images", f"{metrics.images:,}", f"{metrics.boxes:,} boxes to find"),
        ("detections", f"{metrics.detections:,}", "of any score"),
    ]
    if setting.speed is not None:
        speed = setting.speed
        values.append(("ms per image", f"{speed['total']:.1f}", f"on {speed['device']}"))
    return tiles(values)


def number(value: float) -> Cell:
    """Of a metric; -1, nothing to count, is a dash."""
    return Cell(shown(value), value)


def coco_numbers(metrics: Metrics) -> Html:
    """COCO's twelve and what they mean."""
    return table(
        [Column("metric"), Column("value", True), Column("meaning")],
        [(name, number(metrics[name]), meaning) for name, meaning in METRIC_MEANINGS.items()],
        caption="COCO's numbers",
        sortable=False,
    )


def classes(found: EvaluationReport) -> Iterable[Html]:
    """Of each class."""
    rows = list(zip(found.metrics.classes, found.yolo.classes, strict=True))
    known = sorted((r for r in rows if r[0].boxes), key=lambda r: -r[0].boxes)[:_CHARTED]
    known.sort(key=lambda r: r[0].ap)
    some = f" of the {_CHARTED} classes with most boxes" if len(rows) > _CHARTED else ""
    if len(known) > 1:
        chart = bars(
            [coco.name for coco, _ in known],
            {"AP": [round(coco.ap, 3) for coco, _ in known]},
            title=f"AP{some}",
        )
        yield figures([(chart, f"AP{some}, lowest first.")])
    yield table(
        [
            Column("class"),
            Column("images", True, "with a box of it"),
            Column("boxes", True, "to find"),
            Column("AP", True),
            Column("AP50", True),
            Column("AP75", True),
            Column("AR100", True),
            Column("precision", True),
            Column("recall", True),
            Column("F1", True),
            Column("true", True),
            Column("false", True),
            Column("missed", True),
            Column("best conf.", True, "the threshold with the greatest F1 of this class"),
            Column("best F1", True),
        ],
        [
            (
                coco.name, coco.images, coco.boxes, number(coco.ap), number(coco.ap50),
                number(coco.ap75), number(coco.ar100), number(yolo.precision),
                number(yolo.recall), number(yolo.f1), yolo.true, yolo.false, yolo.missed,
                Cell("–", -1.0) if yolo.best_confidence is None
                else cell(yolo.best_confidence, "{:.3f}"),
                number(yolo.best_f1),
            )
            for coco, yolo in sorted(rows, key=lambda r: -r[0].boxes)
        ],
        caption="Classes",
    )  # fmt: skip
