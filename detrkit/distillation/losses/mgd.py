"""MGD: masked generative distillation. Yang et al., ECCV 2022, arXiv:2205.01529, eq. 2-4.

The student's map, with a random part of its positions set to zero, has to make the teacher's:

    M_ij = 0 if R_ij < ratio else 1,   R uniform in (0, 1)
    G(F) = W2 · relu(W1 · F),          two 3×3 convolutions
    sum_c sum_ij (teacher - G(student · M))²

The loss of two equal maps is zero only where G is the identity and nothing is masked: it teaches
to restore, not to copy.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from detrkit.distillation.losses.base import FeatureLoss
from detrkit.registry import MODULES


@MODULES.register(paper="arXiv:2205.01529")
class MGD(FeatureLoss):
    """A map with hidden positions has to make the whole one of the teacher.

    Args:
        ratio: share of the positions that are hidden.
    """

    default_weight: ClassVar[float] = 2e-5

    def __init__(self, ratio: float = 0.65) -> None:
        super().__init__()
        if not 0 <= ratio < 1:
            raise ValueError(f"ratio must lie in 0-1, below 1, got {ratio}")
        self.ratio = ratio
        self.generation: nn.Module = nn.Identity()

    def prepare(self, channels: int) -> MGD:
        self.generation = nn.Sequential(
            nn.Conv2d(channels, channels, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(channels, channels, 3, padding=1),
        )
        return self

    def forward(self, student: Tensor, teacher: Tensor, boxes: Sequence[Tensor]) -> Tensor:
        draws = torch.rand(len(student), 1, *student.shape[2:], device=student.device)
        made = self.generation(student * (draws >= self.ratio))
        return F.mse_loss(made, teacher, reduction="sum") / len(student)
