"""What an advice is."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from enum import Enum
from typing import Any


class Severity(str, Enum):
    """How much an advice matters."""

    WARNING = "warning"  # training or its numbers suffer
    HINT = "hint"  # probably better otherwise
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
