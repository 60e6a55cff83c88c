"""Numbers as people read them."""

from __future__ import annotations

_UNITS = (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10))


def amount(size: float) -> str:
    """Bytes: `12.5 GiB`, `300 MiB`."""
    unit, one = next((u for u in _UNITS if size >= u[1]), _UNITS[-1])
    return f"{float(f'{size / one:.3g}'):g} {unit}"


def scaled(number: float) -> str:
    """`3.78 M`, `25.2 G`, `917`."""
    for one, letter in ((10**12, "T"), (10**9, "G"), (10**6, "M"), (10**3, "k")):
        if abs(number) >= one:
            return f"{number / one:.2f} {letter}"
    return str(number)


def duration(seconds: float) -> str:
    """`0.42 s`, `37 s`, `7 min`, `3.5 h`, `12 days`."""
    if seconds < 1:
        return f"{seconds:.2f} s"
    if seconds < 10:
        return f"{seconds:.1f} s"
    for size, unit in ((90, "s"), (90 * 60, "min"), (48 * 3600, "h")):
        if seconds < size:
            number = seconds / {"s": 1, "min": 60, "h": 3600}[unit]
            return f"{number:.1f} {unit}" if unit == "h" else f"{number:.0f} {unit}"
    return f"{seconds / 86400:.0f} days"


def count(number: int, thing: str) -> str:
    """`1 image`, `12 images`, `2 boxes`, `3 classes`."""
    if number == 1:
        return f"1 {thing}"
    plural = thing + ("es" if thing.endswith(("s", "x", "match", "batch")) else "s")
    return f"{number:,} {plural}"


def share(part: float, whole: float) -> str:
    """`12 %`, `0.3 %`, `none`."""
    if not part:
        return "none"
    percent = 100 * part / max(whole, 1e-12)
    return f"{percent:.0f} %" if percent >= 1 else f"{percent:.1g} %"
