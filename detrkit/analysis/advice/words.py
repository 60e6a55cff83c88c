"""Numbers and lists as sentences have them."""

from __future__ import annotations

import shlex
from collections.abc import Iterable

from detrkit.analysis.findings import Findings


def command(findings: Findings) -> str:
    return f"detrkit dataset-analyze {shlex.quote(findings.source)}"


def percent(share: float) -> str:
    """0.123 -> "12 %"; small shares keep a digit."""
    percent = 100 * share
    if 0 < percent < 0.1:
        return "under 0.1 %"
    return f"{percent:.1f} %" if percent < 10 and round(percent, 1) % 1 else f"{percent:.0f} %"


def counted(number: int, noun: str) -> str:
    """`1 box`, `12 boxes`."""
    if number == 1:
        return f"1 {noun}"
    return f"{number:,} {noun}{'es' if noun.endswith(('x', 's', 'ch')) else 's'}"


def listed_classes(names: Iterable[str]) -> str:
    """`1 class (`cat`) is`, `12 classes (…) are`."""
    names = list(names)
    shown = ", ".join(f"`{name}`" for name in names[:5]) + (", …" if len(names) > 5 else "")
    return f"{counted(len(names), 'class')} ({shown}) {'is' if len(names) == 1 else 'are'}"


def pixel_count(size: tuple[int, int]) -> int:
    return size[0] * size[1]


def flag(size: tuple[int, int]) -> str:
    """As `--size` takes it."""
    return str(size[0]) if size[0] == size[1] else f"{size[0]}x{size[1]}"


def multiple(side: float) -> int:
    return max(32, round(side / 32) * 32)
