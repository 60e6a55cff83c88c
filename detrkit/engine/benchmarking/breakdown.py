"""Where the time of one candidate goes. Imports no torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Spent:
    """Time of one layer, or of the operations of one kind.

    Attributes:
        name: of the layer; the kind.
        milliseconds: of a pass.
        calls: in a pass.
        about: class of the layer; the operations that took most.
    """

    name: str
    milliseconds: float
    calls: float
    about: str = ""


@dataclass(frozen=True, slots=True)
class Breakdown:
    """A pass in pieces, twice.

    Attributes:
        batch: images of the pass.
        layers: in the order of a pass; they add up to it.
        operations: by kind, the most time first; they add up to what the profiler saw.
        how: how each of the two was measured, in sentences.
    """

    batch: int
    layers: Sequence[Spent] = ()
    operations: Sequence[Spent] = ()
    how: Sequence[str] = field(default=())

    def to_dict(self) -> dict[str, Any]:
        """Plain values, with shares."""
        return {
            "batch": self.batch,
            "layers": with_shares(self.layers),
            "operations": with_shares(self.operations),
            "how": list(self.how),
        }


def shares(rows: Sequence[Spent]) -> list[float]:
    """Of the time of all rows, 0 to 1."""
    whole = max(sum(row.milliseconds for row in rows), 1e-12)
    return [row.milliseconds / whole for row in rows]


def with_shares(rows: Sequence[Spent]) -> list[dict[str, Any]]:
    """Plain values, each with its share."""
    return [{**asdict(row), "share": s} for row, s in zip(rows, shares(rows), strict=True)]
