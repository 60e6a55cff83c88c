"""`detrkit dataset-analyze`: what a data set holds, what is wrong with it, what that means."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Optional

import typer

from detrkit.cli.options import JsonOut

if TYPE_CHECKING:
    from detrkit.analysis import Advice, Findings, SplitStatistics, TrainingSetup

# Typer reads annotations at run time, on Python 3.10 as well.
# ruff: noqa: UP045

#: Colours of the severities of advice.
_COLORS = {"warning": "bold yellow", "hint": "bold cyan", "note": "dim"}
#: Characters of a file name in a table.
_NAME = 40
#: Edges of the sizes in the table: a cell of stride 8, and COCO's limits.
_SIDES = (8.0, 16.0, 32.0, 96.0)


def dataset_analyze(
    ann: Annotated[
        str,
        typer.Argument(
            metavar="ANN",
            help="Data set: a COCO JSON file, a data.yaml, or a folder of COCO, YOLO or VOC.",
            show_default=False,
        ),
    ],
    split: Annotated[
        Optional[str],
        typer.Option(
            metavar="train|val|test", help="Only this part; default all.", show_default=False
        ),
    ] = None,
    images: Annotated[
        bool,
        typer.Option(
            "--images", help="Decode the pictures too: damage, duplicates, thumbnails for --html."
        ),
    ] = False,
    config: Annotated[
        Optional[str],
        typer.Option(
            "-c",
            "--config",
            metavar="CFG",
            help="Judge for this model: its input, queries, batch and epochs.",
            show_default=False,
        ),
    ] = None,
    size: Annotated[
        Optional[str],
        typer.Option(
            metavar="HxW",
            help="Judge for this input, e.g. 640 or 480x640; the config's by default, else 640.",
            show_default=False,
        ),
    ] = None,
    top: Annotated[
        int, typer.Option(min=1, help="Classes, suspicious boxes and duplicates to show.")
    ] = 10,
    html: Annotated[
        Optional[Path],
        typer.Option(
            metavar="FILE.html",
            help="Write a report with charts, and thumbnails with --images, in one file.",
            show_default=False,
        ),
    ] = None,
    json: JsonOut = False,
) -> None:
    """Statistics, suspicious boxes and duplicates of a data set, and what they mean for training.

    Only annotations are read unless --images is given; the picture files need not be there.
    """
    from detrkit.analysis import advise, find, scan_pictures
    from detrkit.cli.console import err, print_json, progress_bar
    from detrkit.data.detect import open_splits

    setup = _setup(config, size)
    parts = open_splits(ann, only=split, check_images="all" if images else "none", log=False)
    scans = None
    if images:
        scans = {}
        for name, part in parts.items():
            with progress_bar(f"looking at {name}", quiet=json) as progress:
                scans[name] = scan_pictures(part, progress)
    partial = split is not None or Path(ann).suffix.lower() == ".json"
    findings = find(ann, parts, setup, scans, partial=partial)
    advice = advise(findings)
    if html is not None:
        _write(html, findings, advice, top, parts if images else None)
    if json:
        payload = {**findings.to_dict(), "advice": [entry.to_dict() for entry in advice]}
        print_json("dataset-analyze", {**payload, "html": html})
        return
    _print(findings, advice, top)
    if html is not None:
        err.print(f"report in {html}", markup=False, soft_wrap=True)


def _setup(config: str | None, size: str | None) -> TrainingSetup:
    from detrkit.analysis import TrainingSetup
    from detrkit.engine.derive import parse_size
    from detrkit.structures import ImageSpec

    chosen = parse_size(size) if size else None
    if config is None:
        return TrainingSetup(ImageSpec(chosen)) if chosen else TrainingSetup()
    from detrkit.config import load_config
    from detrkit.engine.data_analysis import training_setup

    return training_setup(load_config(config), chosen)


def _write(file: Path, findings: Findings, advice: Sequence[Advice], top: int, parts: Any) -> None:
    from detrkit.analysis.html import report
    from detrkit.files import make_folder, write_bytes

    content = report(findings, advice, top=top, parts=parts).encode()
    make_folder(file.parent)
    write_bytes(file, content)


def _print(findings: Findings, advice: Sequence[Advice], top: int) -> None:
    from detrkit.analysis.advice.words import counted
    from detrkit.cli.console import out

    setup, total = findings.setup, findings.together
    judged = f"{setup.size_text}, {setup.num_queries} queries"
    judged += f" ({setup.source})" if setup.source else ""
    out.print(
        f"{findings.source}: {counted(total.images, 'image')}, {counted(total.boxes, 'box')}, "
        f"{counted(len(findings.class_map), 'class')}; judged for {judged}\n",
        markup=False,
        soft_wrap=True,
    )
    for table in (
        _split_table(findings),
        _size_table(findings),
        _class_table(findings, top),
        _fault_table(findings),
        _suspect_table(findings, top),
        _duplicate_table(findings, top),
    ):
        if table is not None:
            out.print(table)
            out.print()
    if not advice:
        out.print("Nothing stands out for training.")
        return
    out.print("[bold]What it means for training[/]")
    for entry in advice:
        _print_advice(entry)


def _print_advice(entry: Advice) -> None:
    from rich.text import Text

    from detrkit.cli.console import out

    color = _COLORS[entry.severity.value]
    out.print(Text.assemble((entry.severity.value, color), f" {entry.code}: {entry.text}"))
    if entry.change:
        out.print(Text(f"  {entry.change}", style="cyan"), soft_wrap=True)


def _split_table(findings: Findings) -> Any:
    titles = ("images", "empty", "boxes", "crowd", "per image", "most")
    table = _table("split", titles, ["image size"], title="Splits")
    for split in _shown_splits(findings):
        table.add_row(
            split.name,
            *(f"{n:,}" for n in (split.images, split.empty_images, split.boxes, split.crowds)),
            _number(split.objects.median, "{:g}"),
            _number(split.objects.max),
            _image_size(split),
        )
    return table


def _size_table(findings: Findings) -> Any:
    titles = ("small", "medium", "large", "median px", "at input",
              *(f"<{side:.0f} px" for side in _SIDES))  # fmt: skip
    table = _table("split", titles, title="Boxes: COCO's sizes in the files; sizes at the input")
    for split in _shown_splits(findings):
        below = (split.input_side_histogram.below(side) for side in _SIDES)
        table.add_row(
            split.name,
            *(_share(n, split.boxes) for n in (split.small, split.medium, split.large)),
            _number(split.sides.median),
            _number(split.input_sides.median),
            *(_share(n, split.boxes) for n in below),
        )
    return table


def _shown_splits(findings: Findings) -> list[SplitStatistics]:
    """Each split, and all of them where there are several."""
    splits = list(findings.splits.values())
    return splits if len(splits) < 2 else [*splits, findings.together]


def _image_size(split: SplitStatistics) -> str:
    """The only size, or the range."""
    if not split.image_sizes:
        return "–"
    (h, w), _ = split.image_sizes[0]
    if split.distinct_sizes == 1:
        return f"{w}x{h}"
    return f"{split.distinct_sizes:,} sizes, mostly {w}x{h}"


def _class_table(findings: Findings, top: int) -> Any:
    splits, together = findings.splits, findings.together
    titles = (*splits, "share", "small", "medium", "large", "median px", "at input", "w/h")
    order = sorted(range(len(together.classes)), key=lambda i: -together.classes[i].boxes)
    some = f", the {top} most frequent of {len(order):,}" if len(order) > top else ""
    table = _table("class", ["id", *titles], title=f"Classes: boxes in images{some}")
    for i in order[:top]:
        row = together.classes[i]
        table.add_row(
            _escape(row.name if len(row.name) <= _NAME else row.name[: _NAME - 1] + "…"),
            _escape(str(row.category_id)),
            *(f"{s.classes[i].boxes:,} in {s.classes[i].images:,}" for s in splits.values()),
            _share(row.share, 1),
            *(_share(n, row.boxes) for n in (row.small, row.medium, row.large)),
            _number(row.median_side),
            _number(row.median_input_side),
            _number(row.median_aspect, "{:.2f}"),
        )
    return table


def _fault_table(findings: Findings) -> Any:
    counts = findings.faults.counts
    if not counts:
        return None
    table = _table("fault", ["count"], ["policy", "e.g."], title="Faults met on reading")
    first = {fault.kind: fault for fault in reversed(list(findings.faults))}
    for kind, count in counts.items():
        place = f"{_file(first[kind].file)} {first[kind].where}"
        table.add_row(kind.what, f"{count:,}", kind.policy.value, _escape(place))
    return table


def _suspect_table(findings: Findings, top: int) -> Any:
    found = findings.suspicious
    if not found.suspects:
        return None
    counts = ", ".join(f"{reason.code} {count:,}" for reason, count in found.counts.items())
    columns = ["split", "file", "where", "class", "box", "detail"]
    table = _table("reason", ["score"], columns, title=f"Suspicious boxes: {counts}")
    for suspect in found.ranked(top):
        box = suspect.box_xyxy
        table.add_row(
            suspect.reason.code,
            f"{suspect.score:.2f}",
            suspect.split,
            _file(suspect.file),
            _escape(suspect.where),
            _escape(suspect.class_name or "–"),
            " ".join(f"{value:g}" for value in box) if box else "–",
            _escape(suspect.detail),
        )
    return table


def _duplicate_table(findings: Findings, top: int) -> Any:
    from detrkit.analysis.advice.words import counted

    found = findings.duplicates
    if not found.groups:
        return None
    how = "" if found.looked_at_pictures else " by file names (--images compares the pictures)"
    groups = counted(found.groups_count, "group")
    title = f"Pictures that are there more than once{how}: {groups}"
    table = _table("why", ["pictures"], ["e.g."], title=title)
    for group in found.groups[:top]:
        names = [f"{copy.split} {_file(copy.file)}" for copy in group.copies[:3]]
        table.add_row(
            group.signs[0].value,
            f"{len(group.copies):,}",
            ", ".join(names) + (", …" if len(group.copies) > 3 else ""),
        )
    return table


def _table(
    first: str, numbers: Iterable[str], texts: Sequence[str] = (), *, title: str = ""
) -> Any:
    from rich.table import Table

    table = Table(box=None, pad_edge=False, title=title, title_justify="left", title_style="bold")
    table.add_column(first, no_wrap=True)
    for name in numbers:
        table.add_column(name, justify="right")
    for name in texts:
        table.add_column(name, no_wrap=name != texts[-1], overflow="fold")
    return table


def _file(path: str) -> str:
    """The file's name, the middle left out where it is long; --json has all of it."""
    name = Path(path).name
    return _escape(name if len(name) <= _NAME else f"{name[: _NAME - 16]}…{name[-15:]}")


def _escape(text: str) -> str:
    """Free of markup, and of what the terminal cannot be sent."""
    from rich.markup import escape

    return escape(text.encode("utf-8", "replace").decode("utf-8"))


def _number(value: float, form: str = "{:.0f}") -> str:
    return "–" if value != value else form.format(value)


def _share(part: float, whole: float) -> str:
    if not whole:
        return "–"
    percent = 100 * part / whole
    return f"{percent:.1f}%" if 0 < percent < 10 else f"{percent:.0f}%"
