"""What the findings mean for training: numbers, a reason, and what to change."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from detrkit.analysis.findings import Findings


class Severity(str, Enum):
    """How much an advice matters."""

    WARNING = "warning"  # training or its numbers suffer
    HINT = "hint"  # probably better otherwise; a rule of thumb
    NOTE = "note"  # worth knowing


@dataclass(frozen=True)
class Advice:
    """One thing to know before training.

    Attributes:
        code: stable name, e.g. "input-size".
        severity: see `Severity`.
        text: what was found, with numbers, and why it matters.
        change: a command, a flag or a key; empty where the data must change.
    """

    code: str
    severity: Severity
    text: str
    change: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {**asdict(self), "severity": self.severity.value}


def advise(findings: Findings) -> tuple[Advice, ...]:
    """All that applies, warnings first."""
    found: list[Advice] = []
    for rule in RULES:
        found += rule(findings)
    order = list(Severity)
    return tuple(sorted(found, key=lambda advice: order.index(advice.severity)))


RULES: tuple[Any, ...] = ()
