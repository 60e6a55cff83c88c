"""The data set in numbers: tiles, splits, classes."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from detrkit.analysis.findings import Findings
from detrkit.analysis.statistics import SplitStatistics
from detrkit.report import Cell, Column, Html, bars, figures, table, tiles
from detrkit.report.cells import cell, percent, share

#: Classes in the chart; the table has all.
_CHARTED = 20


def overview(findings: Findings) -> Html:
    all_ = findings.together
    empty = f"{percent(all_.empty_images, all_.images)} of the images" if all_.images else ""
    found = findings.duplicates
    values: list[tuple[str, object, str]] = [
        ("images", f"{all_.images:,}", _per_split(findings, lambda s: s.images)),
        ("boxes", f"{all_.boxes:,}", _per_split(findings, lambda s: s.boxes)),
        ("classes", len(findings.class_map), ""),
        ("images without boxes", f"{all_.empty_images:,}", empty),
        ("boxes per image", f"{all_.objects.mean:.1f}", f"at most {all_.objects.max:.0f}")
        if all_.images
        else ("boxes per image", "–", ""),
        ("suspicious", f"{findings.suspicious.total:,}", "boxes, of all kinds"),
        (
            "surplus pictures",
            f"{sum(found.surplus.values()):,}",
            "" if found.looked_at_pictures else "by file names only",
        ),
        ("faults", f"{len(findings.faults):,}", "met on reading"),
    ]
    return tiles(values)


def _per_split(findings: Findings, of: Callable[[SplitStatistics], int]) -> str:
    if len(findings.splits) < 2:
        return ""
    return ", ".join(f"{name} {of(split):,}" for name, split in findings.splits.items())


def split_table(findings: Findings) -> Html:
    columns = [
        Column("split"),
        Column("images", True),
        Column("empty", True, "images without boxes"),
        Column("boxes", True),
        Column("crowd", True, "neither train nor count as missed"),
        Column("per image", True, "boxes, median"),
        Column("most", True, "boxes in one image"),
        Column("small", True, "area under 32² pixels of the file, COCO's range"),
        Column("medium", True),
        Column("large", True, "area of 96² pixels or more"),
        Column("median px", True, "root of width times height in the files"),
        Column("input px", True, "median at the model's input"),
        Column("at the border", True, "boxes that touch the border of the image"),
    ]
    rows = [
        (
            s.name,
            s.images,
            s.empty_images,
            s.boxes,
            s.crowds,
            cell(s.objects.median, "{:g}"),
            cell(s.objects.max, "{:.0f}"),
            share(s.small, s.boxes),
            share(s.medium, s.boxes),
            share(s.large, s.boxes),
            cell(s.sides.median, "{:.0f}"),
            cell(s.input_sides.median, "{:.0f}"),
            share(s.border_share, 1),
        )
        for s in shown_splits(findings)
    ]
    return table(columns, rows, caption="The splits")


def shown_splits(findings: Findings) -> list[SplitStatistics]:
    """Each split, and all of them where there are several."""
    splits = list(findings.splits.values())
    return splits if len(splits) < 2 else [*splits, findings.together]


def classes(findings: Findings) -> Iterable[Html]:
    splits, together = findings.splits, findings.together
    order = sorted(range(len(together.classes)), key=lambda i: -together.classes[i].boxes)
    charted = [i for i in order if together.classes[i].boxes][:_CHARTED]
    names = [together.classes[i].name for i in charted]
    some = f"The {len(charted)} most frequent classes." if len(order) > len(charted) else ""
    boxes = {name: [split.classes[i].boxes for i in charted] for name, split in splits.items()}
    images = {name: [split.classes[i].images for i in charted] for name, split in splits.items()}
    yield figures(
        [
            (bars(names, boxes, title="Boxes per class", unit=" boxes"), f"Boxes. {some}"),
            (bars(names, images, title="Images per class", unit=" images"), f"Images. {some}"),
        ]
    )
    columns = [Column("class"), Column("id", not _text_ids(findings))]
    for name in splits:
        columns += [Column(f"{name} boxes", True), Column("images", True)]
    columns += [
        Column("share", True, "of all boxes"),
        Column("crowd", True),
        Column("small", True),
        Column("medium", True),
        Column("large", True),
        Column("median px", True, "root of width times height in the files"),
        Column("input px", True, "median at the model's input"),
        Column("width / height", True, "median"),
    ]
    rows = []
    for i in order:
        row = together.classes[i]
        cells: list[object] = [row.name, row.category_id if _text_ids(findings)
                               else Cell(row.category_id, float(row.category_id))]  # fmt: skip
        for split in splits.values():
            cells += [split.classes[i].boxes, split.classes[i].images]
        rows.append(
            [
                *cells,
                share(row.share, 1),
                row.crowds,
                share(row.small, row.boxes),
                share(row.medium, row.boxes),
                share(row.large, row.boxes),
                cell(row.median_side, "{:.0f}"),
                cell(row.median_input_side, "{:.0f}"),
                cell(row.median_aspect, "{:.2f}"),
            ]
        )
    yield table(columns, rows, caption="Classes of all splits")


def _text_ids(findings: Findings) -> bool:
    return any(isinstance(category, str) for category in findings.class_map.category_ids)
