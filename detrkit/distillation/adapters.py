"""A student's map beside a teacher's: equal widths and sizes."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn


class Adapter(nn.Module):
    """Brings a student's map to the width of the teacher's.

    A 1×1 convolution where widths differ; nothing where they do not, so that equal models are
    compared as they are.

    Args:
        student: channels of the student's map.
        teacher: channels of the teacher's.
    """

    def __init__(self, student: int, teacher: int) -> None:
        super().__init__()
        self.project: nn.Module = nn.Identity()
        if student != teacher:
            self.project = nn.Conv2d(student, teacher, 1)

    def forward(self, student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
        """(B, C, h, w) and (B, C', h', w') -> both (B, C', …) of one size."""
        return same_size(self.project(student), teacher)


def same_size(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """Averages the finer of two maps down to the size of the coarser: no detail is invented."""
    h = min(first.shape[2], second.shape[2])
    w = min(first.shape[3], second.shape[3])
    return _averaged(first, (h, w)), _averaged(second, (h, w))


def _averaged(x: Tensor, size: tuple[int, int]) -> Tensor:
    return x if tuple(x.shape[2:]) == size else F.adaptive_avg_pool2d(x, size)
