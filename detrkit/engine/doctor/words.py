"""Numbers as people read them."""

from __future__ import annotations


def gib(size: float) -> str:
    """Bytes: "640 MiB", "23.5 GiB"."""
    if size < 2**20:
        return f"{size / 2**10:.0f} KiB"
    if size < 0.95 * 2**30:
        return f"{size / 2**20:.0f} MiB"
    return f"{size / 2**30:.1f} GiB"


def duration(seconds: float) -> str:
    """ "0.42 s", "37 s", "7 min", "3.5 h", "12 days"."""
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
    """ "1 image", "12 images", "2 boxes", "3 classes"."""
    if number == 1:
        return f"1 {thing}"
    plural = thing + ("es" if thing.endswith(("s", "x", "match", "batch")) else "s")
    return f"{number:,} {plural}"


def share(part: float, whole: float) -> str:
    """ "12 %", "0.3 %", "none"."""
    if not part:
        return "none"
    percent = 100 * part / max(whole, 1e-12)
    return f"{percent:.0f} %" if percent >= 1 else f"{percent:.1g} %"
