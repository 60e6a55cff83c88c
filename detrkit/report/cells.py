"""Numbers as reports write them."""

from __future__ import annotations

from detrkit.report.blocks import Cell


def cell(value: float, form: str) -> Cell:
    """A number in a format of its own; a dash for NaN."""
    return Cell(form.format(value), float(value))


def share(part: float, whole: float) -> Cell:
    """A percentage; a dash of nothing."""
    if not whole:
        return Cell("–", -1.0)
    return Cell(percent(part, whole), part / whole)


def percent(part: float, whole: float) -> str:
    percent = 100 * part / whole
    return f"{percent:.1f} %" if 0 < percent < 10 else f"{percent:.0f} %"
