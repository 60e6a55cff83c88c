"""Faults of a data set as checks: one for each kind, with counts, examples and what to do."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from detrkit.data.faults import Fault, FaultKind, FaultReport, Policy
from detrkit.data.index import DatasetIndex
from detrkit.engine.doctor.report import Check, Status
from detrkit.errors import DataError
from detrkit.words import share

#: A part of which more than this share of the images or of the boxes is left out is spoilt: the
#: exit code is 4. A hundredth of it is worth a warning.
SPOILT = 0.1
WORTH_A_WARNING = 0.01

#: Examples that are shown of each kind.
EXAMPLES = 3

#: What to do, where it is not told by what was done.
HINTS: Mapping[str, str] = {
    "BAD_ANNOTATION_FILE": "repair or remove the file; its image is not trained on",
    "REPAIRED_PATH": "nothing to do here; other programs need the right path in the file",
    "MISSING_SPLIT": "correct the path in data.yaml, or remove the line",
    "LABEL_WITHOUT_IMAGE": "copy the images that belong to these labels, or remove the labels",
    "MISSING_IMAGE": "copy the images to where the annotations say, or name their folder",
    "CORRUPT_IMAGE": "copy the images again, or leave them out: --fix",
    "DUPLICATE_IMAGE_ID": "remove the second entry; --fix does",
    "SIZE_MISMATCH": "were the images resized after annotating? then look whether boxes still fit: "
    "`detrkit train` draws its first batches to batches/",
    "EXIF_ROTATION": "nothing to do here; --fix writes boxes for the upright image",
    "IMAGE_WITHOUT_LABELS": "background is fine if these images really show nothing",
    "UNKNOWN_KEY": "correct the key in the annotation file",
    "WRONG_TYPE": "correct the value in the annotation file; --fix leaves the entry out",
    "UNKNOWN_IMAGE": "were images removed from the list? --fix removes their boxes as well",
    "UNKNOWN_CLASS": "declare the class (`names:` in data.yaml, `categories` in COCO), or correct "
    "the ids: are they counted from 0 or from 1?",
    "NOT_FINITE": "look how the annotations were exported; --fix leaves the box out",
    "EMPTY_BOX": "a click without a drag, or corners exchanged; --fix leaves the box out",
    "OUTSIDE": "annotated at another image size? --fix leaves the box out",
    "CLIPPED": "harmless where it is a few pixels; --fix writes the clipped boxes",
    "DUPLICATE_ANNOTATION_ID": "harmless here; --fix writes ids that are unique",
    "SKIPPED_WITH_IMAGE": "see the images that were skipped",
    "REPEATED_BOX": "harmless; --fix leaves the second one out",
    "RENAMED_IMAGE": "nothing to do here",
    "CROWD_REGION": "nothing to do here",
    "POLYGON": "nothing to do: boxes are what is trained on",
    "CLASS_WITHOUT_BOXES": "remove the class from the list, or annotate it",
}

#: Kinds that cost images, and kinds that cost boxes.
_COSTS_IMAGES = frozenset({"MISSING_IMAGE", "CORRUPT_IMAGE", "BAD_ANNOTATION_FILE"})
_COSTS_BOXES = frozenset(
    {
        *("UNKNOWN_KEY", "WRONG_TYPE", "UNKNOWN_IMAGE", "UNKNOWN_CLASS", "NOT_FINITE"),
        *("EMPTY_BOX", "OUTSIDE", "SKIPPED_WITH_IMAGE"),
    }
)


def fault_checks(parts: Mapping[str, DatasetIndex], root: Path | None = None) -> list[Check]:
    """A check for each kind of fault in the parts of a data set, the worst policy first.

    Args:
        parts: {"train": …, "val": …}.
        root: the data set's folder; files in it are named relative to it.
    """
    order = [Policy.SKIP, Policy.FIX, Policy.KEEP]
    kinds = {kind for part in parts.values() for kind in part.faults.counts}
    kinds -= {FaultKind.CLASS_WITHOUT_BOXES}  # `data.classes` says that better
    ordered = sorted(
        kinds, key=lambda kind: (order.index(kind.policy), list(FaultKind).index(kind))
    )
    return [_of_kind(kind, parts, root) for kind in ordered]


def _of_kind(kind: FaultKind, parts: Mapping[str, DatasetIndex], root: Path | None) -> Check:
    by_part = {name: part.faults.counts.get(kind, 0) for name, part in parts.items()}
    cases = list(dict.fromkeys(f for part in parts.values() for f in part.faults if f.kind is kind))
    total = FaultReport.merge(part.faults for part in parts.values()).counts[kind]
    where = ", ".join(f"{n:,} in {name}" for name, n in by_part.items() if n)
    text = f"{total:,} × {kind.what}"
    if len(parts) > 1 and sum(by_part.values()) == total:
        text += f": {where}"
    classes = Counter(name for f in cases if (name := _class_of(f)))
    if classes:
        shown = [f"{name} {number:,}" for name, number in classes.most_common(5)]
        more = f", {len(classes) - 5} more classes" if len(classes) > 5 else ""
        text += f" ({', '.join(shown)}{more})"
    worst = max(_cost(kind, group) for group in _groups(parts))
    status = Status.WARNING if worst >= WORTH_A_WARNING or _is_serious(kind) else Status.NOTE
    return Check(
        f"data.{kind.name.lower()}",
        status,
        text,
        HINTS.get(kind.name, ""),
        details=tuple(_example(f, root) for f in cases[:EXAMPLES]),
        values={
            "kind": kind.name.lower(),
            "policy": kind.policy.value,
            "count": total,
            "parts": by_part,
            "classes": dict(classes),
        },
    )


def _is_serious(kind: FaultKind) -> bool:
    return kind.name in ("MISSING_SPLIT", "LABEL_WITHOUT_IMAGE", "UNKNOWN_CLASS")


@dataclass(frozen=True)
class _Group:
    """Parts that were read as one, and their faults."""

    name: str
    faults: FaultReport
    images: int
    boxes: int

    def kept(self, kind: FaultKind) -> int:
        """Images or boxes that are left, whichever a kind of fault costs."""
        return self.images if kind.name in _COSTS_IMAGES else self.boxes


def _groups(parts: Mapping[str, DatasetIndex]) -> list[_Group]:
    """A part that was held out of another has the faults of both."""
    found: dict[int, list[tuple[str, DatasetIndex]]] = {}
    for name, part in parts.items():
        found.setdefault(id(part.faults), []).append((name, part))
    return [
        _Group(
            " and ".join(name for name, _ in group),
            group[0][1].faults,
            sum(len(part) for _, part in group),
            sum(part.num_boxes for _, part in group),
        )
        for group in found.values()
    ]


def _cost(kind: FaultKind, group: _Group) -> float:
    """Share of the images or boxes that a kind of fault costs."""
    if kind.name not in _COSTS_IMAGES | _COSTS_BOXES:
        return 0.0
    lost = group.faults.counts.get(kind, 0)
    return lost / max(group.kept(kind) + lost, 1)


def _class_of(fault: Fault) -> str:
    """Of which class a faulty box is; empty where the fault is not about one box."""
    if fault.kind is FaultKind.UNKNOWN_CLASS:
        return fault.detail
    return fault.label


def _example(fault: Fault, root: Path | None) -> str:
    file = fault.file
    if root is not None and Path(file).is_relative_to(root):
        file = str(Path(file).relative_to(root))
    place = f"{file}: {fault.where}" if fault.where else file
    return f"{place}: {fault.detail}" if fault.detail else place


def skipped_check(parts: Mapping[str, DatasetIndex]) -> Check:
    """How much is left out altogether; a problem where that spoils training or its numbers."""
    values: dict[str, Any] = {}
    words, worst = [], 0.0
    for group in _groups(parts):
        for what, kinds, kept in (
            ("images", _COSTS_IMAGES, group.images),
            ("boxes", _COSTS_BOXES, group.boxes),
        ):
            lost = sum(n for kind, n in group.faults.counts.items() if kind.name in kinds)
            values[f"{group.name}.{what}"] = {"left_out": lost, "kept": kept}
            if lost:
                worst = max(worst, lost / max(lost + kept, 1))
                words.append(f"{share(lost, lost + kept)} of the {what} of {group.name}")
    if not words:
        return Check("data.skipped", Status.OK, "nothing is left out", values=values)
    text = f"left out: {', '.join(words)}"
    if worst > SPOILT:
        return Check(
            "data.skipped",
            Status.PROBLEM,
            f"{text}; more than {100 * SPOILT:.0f} % spoils training or its scores",
            "see the faults above; correct the annotations",
            values=values,
            exit_code=DataError.exit_code,
        )
    status = Status.WARNING if worst >= WORTH_A_WARNING else Status.NOTE
    return Check("data.skipped", status, text, values=values)
