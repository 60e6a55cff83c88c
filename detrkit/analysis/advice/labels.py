"""Labels that are missing, double, or named twice."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator

from detrkit.analysis.advice.kinds import Advice, Severity
from detrkit.analysis.advice.words import command, counted, percent
from detrkit.analysis.findings import Findings
from detrkit.analysis.suspicious import Reason
from detrkit.data.faults import FaultKind

_SKIPPED_BOXES = (
    FaultKind.UNKNOWN_CLASS,
    FaultKind.UNKNOWN_IMAGE,
    FaultKind.WRONG_TYPE,
    FaultKind.UNKNOWN_KEY,
    FaultKind.NOT_FINITE,
    FaultKind.EMPTY_BOX,
    FaultKind.OUTSIDE,
)
_SKIPPED_IMAGES = (
    FaultKind.MISSING_IMAGE,
    FaultKind.CORRUPT_IMAGE,
    FaultKind.BAD_ANNOTATION_FILE,
)


def nothing_to_learn(findings: Findings) -> Iterator[Advice]:
    """No box trains."""
    split = findings.train or findings.together
    if not split.boxes:
        crowds = f"; its {split.crowds} crowd regions do not train" if split.crowds else ""
        yield Advice("no-boxes", Severity.WARNING, f"`{split.name}` holds no boxes{crowds}.")


def left_out(findings: Findings) -> Iterator[Advice]:
    """Annotations and images that the reader had to skip."""
    counts = findings.faults.counts
    boxes = {kind: counts[kind] for kind in _SKIPPED_BOXES if kind in counts}
    skipped = sum(boxes.values())
    if skipped:
        share = skipped / (skipped + findings.together.boxes + findings.together.crowds)
        kinds = ", ".join(f"{count} x {kind.what.split(',')[0]}" for kind, count in boxes.items())
        yield Advice(
            "annotations-left-out",
            Severity.WARNING if share > 0.01 else Severity.NOTE,
            f"{counted(skipped, 'annotation')} ({percent(share)}) cannot be used: {kinds}. "
            "Where their objects are in the pictures, they train as background.",
            f"{command(findings)} --json lists each with its file and line",
        )
    images = {kind: counts[kind] for kind in _SKIPPED_IMAGES if kind in counts}
    if images:
        lost = counts.get(FaultKind.SKIPPED_WITH_IMAGE, 0)
        kinds = ", ".join(f"{count} x {kind.what.split(',')[0]}" for kind, count in images.items())
        yield Advice(
            "images-left-out",
            Severity.WARNING,
            f"{counted(sum(images.values()), 'image')} cannot be used: {kinds}"
            + (f"; {counted(lost, 'box')} with them." if lost else "."),
        )


def label_errors(findings: Findings) -> Iterator[Advice]:
    """Boxes on boxes."""
    counts, boxes = findings.suspicious.counts, max(findings.together.boxes, 1)
    for reason, code, meaning in (
        (
            Reason.DUPLICATE,
            "duplicate-boxes",
            "The matcher asks for two detections of one object, and evaluation counts one of the "
            "two as missed.",
        ),
        (
            Reason.CONFLICT,
            "label-conflicts",
            "One object with two classes: whatever the model answers, it is wrong once. If your "
            "classes do not exclude each other, this is meant.",
        ),
    ):
        count = counts.get(reason, 0)
        if count:
            other = "another class" if reason is Reason.CONFLICT else "the same class"
            yield Advice(
                code,
                Severity.WARNING if count > 0.005 * boxes else Severity.HINT,
                f"{counted(count, 'box')} ({percent(count / boxes)}) "
                f"{'lies' if count == 1 else 'lie'} on an earlier box of {other} with an IoU of "
                f"0.95 or more. {meaning}",
                f"{command(findings)} --json lists them under `suspicious`",
            )


def similar_names(findings: Findings) -> Iterator[Advice]:
    """Class names that differ in spelling only."""
    groups: defaultdict[str, list[str]] = defaultdict(list)
    for name in findings.class_map.names:
        groups[_plain(name)].append(name)
    for names in groups.values():
        if len(names) > 1:
            shown = ", ".join(f"`{name}`" for name in names)
            yield Advice(
                "similar-names",
                Severity.WARNING if len(set(names)) < len(names) else Severity.HINT,
                f"{shown} are {len(names)} classes; are they one?",
            )


def backgrounds(findings: Findings) -> Iterator[Advice]:
    """Images without boxes."""
    split = findings.train or findings.together
    share = split.empty_images / max(split.images, 1)
    if share > 0.5 and split.boxes and findings.train:
        yield Advice(
            "backgrounds",
            Severity.HINT,
            f"{percent(share)} of the images of `{split.name}` hold no object. Some teach what "
            "is not an object; more than half mostly cost time.",
        )
    forgotten = findings.faults.counts.get(FaultKind.IMAGE_WITHOUT_LABELS, 0)
    if forgotten:
        yield Advice(
            "images-without-labels",
            Severity.HINT,
            f"{counted(forgotten, 'image')} without an annotation file "
            f"{'counts' if forgotten == 1 else 'count'} as background. If the labels were "
            "forgotten, training punishes finding their objects.",
            "an empty label file says that an image is meant to be empty",
        )


def _plain(name: str) -> str:
    """What is left of a name without case, spaces, punctuation and a plural's s."""
    return re.sub(r"[\W_]+", "", name.casefold()).removesuffix("s") or name
