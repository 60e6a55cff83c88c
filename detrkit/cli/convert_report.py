"""What `detrkit convert` prints at its end."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from detrkit.convert.summary import Summary

_MOST_CLASSES = 30


def report(summary: Summary, json: bool) -> None:
    """Prints what was converted: images and boxes by split and class, faults, where it is."""
    from rich.table import Table

    from detrkit.cli.console import out, print_json

    if json:
        print_json("convert", summary.to_dict())
        return
    table = Table(box=None, pad_edge=False)
    table.add_column()
    for name in summary.splits:
        table.add_column(name, justify="right")
    counts = list(summary.splits.values())
    table.add_row("images", *(f"{c.images:,}" for c in counts))
    if any(c.empty for c in counts):
        table.add_row("  without boxes", *(f"{c.empty:,}" for c in counts))
    table.add_row("boxes", *(f"{c.boxes:,}" for c in counts))
    names = summary.classes
    if len(names) > _MOST_CLASSES:
        names.sort(key=lambda name: -sum(c.per_class.get(name, 0) for c in counts))
    for name in names[:_MOST_CLASSES]:
        table.add_row(f"  {name}", *(f"{c.per_class.get(name, 0):,}" for c in counts))
    out.print(table, markup=False)
    if len(names) > _MOST_CLASSES:
        out.print(f"  … the largest {_MOST_CLASSES} of {len(names)} classes; --json has all")
    rows = summary.fault_rows()
    if rows:
        faults = Table(box=None, pad_edge=False, show_header=False)
        faults.add_column(justify="right")
        faults.add_column(style="dim")
        faults.add_column()
        for number, policy, what in rows:
            faults.add_row(f"{number:,}", policy, what)
        out.print()
        out.print(faults, markup=False)
    for note in summary.notes:
        out.print(note, markup=False, soft_wrap=True)
    out.print(f"\n{summary.form} written to {summary.output}", markup=False, soft_wrap=True)
    out.print(
        f"next: detrkit train CFG --data {_quoted(summary.output)}", markup=False, soft_wrap=True
    )


def _quoted(path: Path) -> str:
    """For a shell: in quotes where it has spaces."""
    return f'"{path}"' if " " in str(path) else str(path)
