"""Which map of the student goes with which of the teacher.

A student's map goes with that of the named teacher stage whose stride is nearest: two encoders
with other numbers of levels, or inputs of other sizes, need nothing said.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class MapPair:
    """A map of the student and one of the teacher.

    Attributes:
        student, teacher: stages.
        channels: of the student's map and of the teacher's.
    """

    student: str
    teacher: str
    channels: tuple[int, int]

    def to_dict(self) -> dict[str, Any]:
        """Plain data, for checkpoints."""
        return {**asdict(self), "channels": list(self.channels)}

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> MapPair:
        """Inverse of `to_dict`."""
        first, second = data["channels"]
        return cls(data["student"], data["teacher"], (first, second))


#: A stage and (C, h, w) of its map.
Stage = tuple[str, tuple[int, int, int]]


def pair_maps(
    student: Sequence[Stage],
    teacher: Sequence[Stage],
    student_size: tuple[int, int],
    teacher_size: tuple[int, int],
) -> list[MapPair]:
    """Gives every map of the student one of the teacher.

    Args:
        student, teacher: their stages.
        student_size, teacher_size: (h, w) of the images that these are for.
    """

    def stride(shape: tuple[int, int, int], size: tuple[int, int]) -> float:
        return math.log2(size[0] / shape[1])

    pairs = []
    for name, shape in student:
        own = stride(shape, student_size)
        other, their = min(teacher, key=lambda t: abs(stride(t[1], teacher_size) - own))
        pairs.append(MapPair(name, other, (shape[0], their[0])))
    return pairs
