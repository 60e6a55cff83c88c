"""What stands out in an evaluation, in sentences."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import PurePath

from detrkit.metrics import EvaluationReport
from detrkit.metrics.calibration import SHOWN
from detrkit.metrics.schema import OverActivationJson
from detrkit.metrics.tide import MEANINGS
from detrkit.metrics.worst import LABEL_ERRORS
from detrkit.words import count

#: Groups of fewer boxes say nothing.
_BOXES = 20
#: Differences of shares from which they are worth a sentence.
_GAP = 0.1
#: Of 1; from this score on an error of the labels is likely enough to look at.
_LIKELY = 0.5


@dataclass(frozen=True)
class Remark:
    """A sentence.

    Attributes:
        level: "warning", "hint" or "note".
        code: its name.
        text: what was found; code between backticks.
    """

    level: str
    code: str
    text: str


def remarks(found: EvaluationReport) -> Iterable[Remark]:
    """The greatest loss, and what is far from what one would expect."""
    if found.yolo.confidence is None:
        yield Remark("warning", "no-boxes", "There are no boxes to find: nothing can be measured.")
        return
    yield from _never_found(found)
    yield from _greatest_loss(found)
    yield from _threshold(found)
    yield from _sizes(found)
    yield from _background(found)
    yield from _scores(found)
    yield from _labels(found)


def on_negatives(found: OverActivationJson) -> Iterable[Remark]:
    """What is detected in images without targets, and what was not looked at."""
    if found["broken"]:
        number = count(len(found["broken"]), "image")
        yield Remark(
            "warning", "unreadable-negatives",
            f"{number} without targets could not be read, e.g. "
            f"`{PurePath(found['broken'][0]).name}`; what is counted is counted on the others.",
        )  # fmt: skip
    level = next((x for x in found["levels"] if x["threshold"] == found["confidence"]), None)
    if level is not None and 1 - level["clean_rate"] >= _GAP:
        most = ", ".join(f"`{row['name']}`" for row in found["classes"][:3])
        yield Remark(
            "hint",
            "over-activation",
            f"In {level['images_with_detections']:,} of {count(found['images'], 'image')} without "
            f"targets something is detected at confidence {level['threshold']:.3f}"
            + (f", mostly {most}" if most else "")
            + ": "
            "images of that kind among the training images (`train --negatives`) unteach it.",
        )


def _never_found(found: EvaluationReport) -> Iterable[Remark]:
    names = [row.name for row in found.yolo.classes if row.boxes and not row.true]
    if names:
        shown = ", ".join(f"`{name}`" for name in names[:8]) + (", …" if len(names) > 8 else "")
        number = count(len(names), "class")
        text = f"Not one box is found of {number} at the threshold: {shown}"
        yield Remark("warning", "never-found", text)


def _greatest_loss(found: EvaluationReport) -> Iterable[Remark]:
    tide = found.tide
    name = max(tide.cost, key=lambda kind: tide.cost[kind])
    if tide.cost[name] > 0:
        yield Remark(
            "note",
            "greatest-loss",
            f"Of all types of error `{name}`, {MEANINGS[name]}, costs most: "
            f"{tide.cost[name]:.1f} points of AP50.",
        )


def _threshold(found: EvaluationReport) -> Iterable[Remark]:
    sizes = found.breakdown.sizes
    boxes = sum(row.boxes for row in sizes)
    gap = sum(row.found_at_any - row.found for row in sizes) / max(boxes, 1)
    if gap >= _GAP:
        yield Remark(
            "hint",
            "below-threshold",
            f"Another {100 * gap:.0f} % of the boxes are detected, but with scores below "
            f"{found.breakdown.confidence:.3f}: a lower threshold finds them, with more false "
            "detections.",
        )


def _sizes(found: EvaluationReport) -> Iterable[Remark]:
    rows = [row for row in found.breakdown.sizes if row.boxes >= _BOXES]
    if not rows:
        return
    worst = min(rows, key=lambda row: row.recall)
    total = sum(row.found for row in rows) / sum(row.boxes for row in rows)
    if total - worst.recall >= _GAP:
        yield Remark(
            "hint",
            "size",
            f"Of the {worst.name} boxes, {worst.sides} pixels, {100 * worst.recall:.0f} % are "
            f"found; of all, {100 * total:.0f} %.",
        )


def _background(found: EvaluationReport) -> Iterable[Remark]:
    empty = found.yolo.background
    if empty.images and empty.images_with_detections / empty.images >= _GAP:
        yield Remark(
            "hint",
            "background",
            f"In {empty.images_with_detections:,} of {count(empty.images, 'image')} without boxes "
            "something is detected.",
        )


def _scores(found: EvaluationReport) -> Iterable[Remark]:
    error = found.calibration.ece_shown
    if error >= _GAP:
        shown = [part for part in found.calibration.bins if part.low >= SHOWN]
        gap = sum(part.detections * ((part.score or 0) - (part.precision or 0)) for part in shown)
        yield Remark(
            "hint",
            "scores",
            f"Scores are {'higher' if gap > 0 else 'lower'} than the share of detections that is "
            f"right, by {error:.2f} on average from score {SHOWN} on: they are no probabilities.",
        )


def _labels(found: EvaluationReport) -> Iterable[Remark]:
    likely = sum(int((found.worst[kind].scores >= _LIKELY).sum()) for kind in LABEL_ERRORS)
    if likely:
        yield Remark(
            "hint",
            "labels",
            f"{count(likely, 'label')} may be wrong or missing (score {_LIKELY} or more): see "
            "`Labels to check`.",
        )
