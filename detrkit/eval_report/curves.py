"""Curves, types of error, confusions, and recall by size and density."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

from detrkit.eval_report.numbers import number
from detrkit.metrics import EvaluationReport
from detrkit.metrics.average_precision import RECALLS
from detrkit.metrics.breakdown import Breakdown
from detrkit.metrics.calibration import SHOWN, Calibration
from detrkit.metrics.coco import shown
from detrkit.metrics.confusion import Confusion
from detrkit.metrics.curves import CONFIDENCES
from detrkit.metrics.tide import MEANINGS, Tide
from detrkit.report import Column, Html, bars, figures, lines, matrix, table
from detrkit.report.cells import cell

#: Classes that get curves of their own, and those in the matrix.
_CURVES, _MATRIX = 40, 30
#: Of the confidences, so many apart are drawn.
_EVERY = 10

Floats = npt.NDArray[np.float64]


def curves(found: EvaluationReport) -> Iterable[Html]:
    """Precision over recall, and all three over the confidence."""
    counted = found.curves
    known = np.flatnonzero(counted.known)
    if not len(known):
        return
    names = found.confusion.names
    drawn = known[np.argsort(-counted.boxes[known], kind="stable")][:_CURVES]
    x = CONFIDENCES[::_EVERY].tolist()
    confidence = found.confusion.confidence

    def per_class(values: Floats) -> dict[str, Floats]:
        return {names[k]: values[k] for k in drawn.tolist()} if len(known) > 1 else {}

    def mean(values: Floats) -> Floats:
        return np.asarray(values[known].mean(0), np.float64)

    some = f" of the {_CURVES} classes with most boxes" if len(known) > _CURVES else ""
    thin = f" Thin lines: single classes{some}; the pointer names them." if len(known) > 1 else ""
    precision, recall, f1 = (
        getattr(counted, name)[:, ::_EVERY] for name in ("precision", "recall", "f1")
    )
    pr = lines(
        RECALLS.tolist(),
        {"mean": mean(found.metrics.precision_50)},
        thin=per_class(found.metrics.precision_50),
        title="Precision over recall",
        x_axis="recall",
        y_axis="precision",
    )
    over_confidence = lines(
        x,
        {"precision": mean(precision), "recall": mean(recall), "F1": mean(f1)},
        title="Precision, recall and F1 over the confidence",
        x_axis="confidence",
        y_axis="mean over classes",
        mark=(confidence, f"{confidence:.3f}"),
    )
    f1_chart = lines(
        x,
        {"mean": mean(f1)},
        thin=per_class(f1),
        title="F1 over the confidence",
        x_axis="confidence",
        y_axis="F1",
        mark=(confidence, f"{confidence:.3f}"),
    )
    area = shown(found.metrics["AP50"])
    best = f"best mean F1 {shown(found.yolo.overall.f1)} at confidence {confidence:.3f}"
    yield figures(
        [
            (pr, f"Precision over recall, COCO's envelope; the mean's area is AP50 {area}.{thin}"),
            (over_confidence, f"Precision, recall and F1 over the confidence; {best}."),
            (f1_chart, f"F1 over the confidence.{thin}"),
        ]
    )


def errors(found: Tide) -> Iterable[Html]:
    """TIDE's types."""
    cost = {"points of AP50": [round(value, 2) for value in found.cost.values()]}
    chart = bars(list(found.cost), cost, title="AP50 lost by type of error", unit=" points")
    words = "classes that are detected but annotated nowhere count as 0"
    yield figures([(chart, f"AP50 is {found.ap:.1f} as TIDE counts it: {words}.")])
    rows: list[tuple[str, object, object, str]] = [
        (name, found.counts[name], cell(found.cost[name], "{:.2f}"), meaning)
        for name, meaning in MEANINGS.items()
    ]
    rows += [
        ("FalsePos", "", cell(found.false_positives, "{:.2f}"), "all false detections"),
        ("FalseNeg", "", cell(found.false_negatives, "{:.2f}"), "all boxes not found"),
    ]
    columns = [Column("error"), Column("count", True), Column("AP50 lost", True), Column("meaning")]
    yield table(columns, rows, caption="Types of error", sortable=False)


def confusion(found: Confusion) -> Iterable[Html]:
    """The matrix, and what is confused most."""
    counts, count = found.counts, len(found.names)
    if not counts.any():
        return
    wrong = counts.sum(0) + counts.sum(1) - 2 * counts.diagonal()
    chosen = np.sort(np.argsort(-wrong[:count], kind="stable")[:_MATRIX])
    order = np.append(chosen, count)
    shares = counts / np.maximum(counts.sum(1), 1)[:, None]
    names = [found.names[k] for k in chosen.tolist()]
    chart = matrix(
        [*names, "background"],
        shares[np.ix_(order, order)],
        columns=[*names, "missed"],
        title="Annotated classes against detected ones",
        tooltips="{a} → {b}: {v}",
    )
    some = f" The {_MATRIX} classes with most errors." if count > _MATRIX else ""
    yield figures([(chart, f"Shares in percent.{some}")])
    yield table(
        [Column("class"), Column("taken for"), Column("boxes", True), Column("share", True)],
        [
            (true, said, n, cell(100 * n / max(int(counts[found.names.index(true)].sum()), 1),
                                 "{:.1f} %"))
            for true, said, n in found.greatest(20)
        ],
        caption="Most confused, with the share of the boxes of the class",
    )  # fmt: skip


def sizes_and_densities(found: Breakdown) -> Iterable[Html]:
    """Where boxes are missed."""
    sizes = [row for row in found.sizes if row.boxes]
    crowds = [row for row in found.densities if row.images]
    by_size = bars(
        [f"{row.name}, {row.sides} px" for row in sizes],
        {
            f"at confidence {found.confidence:.3f}": [round(row.recall, 3) for row in sizes],
            "at any": [round(row.recall_at_any, 3) for row in sizes],
        },
        title="Recall by size of the box",
    )
    by_density = bars(
        [row.span for row in crowds],
        {
            name: [round(max(value, 0.0), 3) for value in values]
            for name, values in (
                ("recall", [row.recall for row in crowds]),
                ("precision", [row.precision for row in crowds]),
            )
        },
        title="Recall and precision by boxes in the image",
    )
    yield figures(
        [
            (by_size, "Recall by size, the root of the annotated area, at IoU 0.5."),
            (by_density, "Recall and precision by how many boxes the image has, at IoU 0.5 and "
             f"confidence {found.confidence:.3f}."),
        ]
    )  # fmt: skip
    yield table(
        [
            Column("size"), Column("side, px"), Column("boxes", True), Column("found", True),
            Column("recall", True), Column("at any score", True),
        ],
        [
            (row.name, row.sides, row.boxes, row.found, number(row.recall),
             number(row.recall_at_any))
            for row in found.sizes
        ],
        caption="Recall by size",
        sortable=False,
    )  # fmt: skip
    yield table(
        [
            Column("boxes per image"), Column("images", True), Column("boxes", True),
            Column("found", True), Column("false", True), Column("recall", True),
            Column("precision", True),
        ],
        [
            (row.span, row.images, row.boxes, row.found, row.false, number(row.recall),
             number(row.precision))
            for row in crowds
        ],
        caption="Recall and precision by boxes in the image",
        sortable=False,
    )  # fmt: skip


def calibration(found: Calibration) -> Iterable[Html]:
    """Scores against how often they are right."""
    rows = [
        (part, part.score, part.precision)
        for part in found.bins
        if part.score is not None and part.precision is not None
    ]
    if not rows:
        return
    chart = bars(
        [f"{part.low:.1f}–{part.high:.1f}" for part, *_ in rows],
        {
            "precision": [round(precision, 3) for *_, precision in rows],
            "mean score": [round(score, 3) for _, score, _ in rows],
        },
        title="Precision against score",
    )
    words = f"Expected calibration error {shown(found.ece)}, from score {SHOWN} on "
    yield figures([(chart, f"Equal bars would be perfect. {words}{shown(found.ece_shown)}.")])
    yield table(
        [
            Column("scores"), Column("detections", True), Column("mean score", True),
            Column("precision", True),
        ],
        [
            (f"{part.low:.1f}–{part.high:.1f}", part.detections, number(score), number(precision))
            for part, score, precision in rows
        ],
        caption="Scores, and the share of detections that is right",
        sortable=False,
    )  # fmt: skip
