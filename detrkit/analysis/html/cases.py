"""Single boxes, pictures and faults, with thumbnails where there are pictures."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import PurePath

import numpy as np

from detrkit.analysis.findings import Findings
from detrkit.analysis.statistics import owners_of
from detrkit.analysis.suspicious import Reason, Suspect
from detrkit.data.index import DatasetIndex
from detrkit.drawing.thumbnails import WHITE, Thumbnails
from detrkit.report import Cell, Column, Html, Thumbnail, details, gallery, join, table, tag

#: Pictures per class, and classes that get them.
_EXAMPLES, _EXAMPLE_CLASSES = 4, 100
#: Cases in the table of faults; JSON has all.
_FAULTS = 200


def suspicious(findings: Findings, top: int, pictures: Thumbnails | None) -> Iterable[Html]:
    found = findings.suspicious
    yield table(
        [Column("reason"), Column("count", True), Column("meaning")],
        [(reason.code, count, reason.meaning) for reason, count in found.counts.items()],
        caption="How many of each kind",
    )
    for reason in Reason:
        worst = found.of(reason)[:top]
        if not worst:
            continue
        yield tag("h3", reason.code)
        if pictures is not None:
            yield gallery(
                _suspect_picture(findings, suspect, pictures)
                for suspect in worst
                if suspect.box_xyxy is not None
            )
        yield table(
            [
                Column("score", True),
                Column("split"),
                Column("file"),
                Column("where"),
                Column("class"),
                Column("box: x1, y1, x2, y2"),
                Column("detail"),
            ],
            [
                (
                    Cell(f"{s.score:.2f}", s.score),
                    s.split,
                    s.file,
                    s.where,
                    s.class_name,
                    ", ".join(f"{v:g}" for v in s.box_xyxy) if s.box_xyxy else "–",
                    s.detail,
                )
                for s in worst
            ],
            caption=f"{reason.code}: {reason.meaning}",
        )


def _suspect_picture(findings: Findings, suspect: Suspect, pictures: Thumbnails) -> Thumbnail:
    assert suspect.box_xyxy is not None
    assert suspect.image is not None
    assert suspect.class_name is not None
    label = findings.class_map.index_of_name[suspect.class_name]
    where = f"{PurePath(suspect.file).name}, {suspect.where}"
    marks = [(suspect.box_xyxy, findings.class_map.colors[label])]
    if suspect.other_xyxy is not None:
        marks.append((suspect.other_xyxy, WHITE))
    return Thumbnail(
        pictures.crop(suspect.split, suspect.image, marks),
        join([tag("strong", suspect.class_name), f" {where}: {suspect.detail}"]),
        f"{suspect.class_name} in {where}",
    )


def duplicates(findings: Findings, top: int, pictures: Thumbnails | None) -> Iterable[Html]:
    found = findings.duplicates
    if not found.groups:
        if found.looked_at_pictures:
            yield tag("p", "No picture occurs twice.")
        return
    if not found.looked_at_pictures:
        yield tag("p", "By file names only; --images compares the pictures.")
    yield table(
        [Column("images of"), Column("that are also in"), Column("images", True)],
        [(b, a, count) for (a, b), count in found.leaks.items()],
        caption="Pictures in two splits",
        sortable=False,
    )
    yield table(
        [Column("why"), Column("splits"), Column("pictures", True), Column("files")],
        [
            (
                ", ".join(sign.value for sign in group.signs),
                ", ".join(group.splits),
                len(group.copies),
                join(tag("div", f"{c.split}: {c.file} ({c.boxes} boxes)")
                     for c in group.copies[:8]),
            )
            for group in found.groups[: max(top, 50)]
        ],
        caption=f"{found.groups_count:,} groups of pictures that are the same",
    )  # fmt: skip
    if pictures is not None:
        for number, group in enumerate(found.groups[:top], start=1):
            yield tag("h3", f"Group {number}: {', '.join(sign.value for sign in group.signs)}")
            yield gallery(
                Thumbnail(
                    pictures.whole(c.split, c.image),
                    f"{c.split}: {PurePath(c.file).name}",
                    f"{PurePath(c.file).name} of {c.split}",
                )
                for c in group.copies[:6]
            )


def faults(findings: Findings) -> Iterable[Html]:
    counts = findings.faults.counts
    yield table(
        [Column("fault"), Column("count", True), Column("policy")],
        [(kind.what, count, kind.policy.value) for kind, count in counts.items()],
        caption="What was wrong on reading, and what was done",
    )
    cases = list(findings.faults)[:_FAULTS]
    if cases:
        more = len(findings.faults) - len(cases)
        yield details(
            f"The first {len(cases)} cases" if more else "All cases",
            table(
                [Column("file"), Column("where"), Column("fault"), Column("detail")],
                [(f.file, f.where, f.kind.what, f.detail) for f in cases],
                caption=f"Faults; --json lists {more} more" if more else "Faults",
            ),
        )


def examples(
    findings: Findings, parts: Mapping[str, DatasetIndex], pictures: Thumbnails
) -> Iterable[Html]:
    rng = np.random.default_rng(0)
    classes = sorted(enumerate(findings.together.classes), key=lambda item: -item[1].boxes)
    split, index = next(iter(parts.items()))
    owners = owners_of(index)
    for label, about in classes[:_EXAMPLE_CLASSES]:
        rows = np.flatnonzero((index.labels == label) & ~index.iscrowd)
        chosen = np.sort(rng.choice(rows, min(len(rows), _EXAMPLES), replace=False))
        if not len(chosen):
            continue
        yield tag("h3", about.name)
        yield gallery(
            Thumbnail(
                pictures.crop(
                    split,
                    int(owners[row]),
                    [(index.boxes_xyxy[row].tolist(), index.class_map.colors[label])],
                ),
                PurePath(index.paths[int(owners[row])]).name,
                about.name,
            )
            for row in chosen.tolist()
        )
