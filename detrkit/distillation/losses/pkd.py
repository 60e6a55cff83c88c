"""PKD: distillation by Pearson correlation. Cao et al., NeurIPS 2022, arXiv:2207.02039, eq. 3-4.

Each channel is brought to mean 0 and deviation 1 over the batch and all positions, so that maps
of unlike models, whose magnitudes differ, can be compared:

    1 / 2m · sum_i (s_i - t_i)²  =  1 - r(student, teacher)

with m values and r their correlation.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor

from detrkit.distillation.losses.base import FeatureLoss
from detrkit.registry import MODULES

#: Added to deviations, for channels that are constant.
_EPS = 1e-6


@MODULES.register(paper="arXiv:2207.02039")
class PKD(FeatureLoss):
    """Correlation of feature maps, blind to their magnitudes."""

    default_weight: ClassVar[float] = 6.0

    def forward(self, student: Tensor, teacher: Tensor, boxes: Sequence[Tensor]) -> Tensor:
        return F.mse_loss(_standardized(student), _standardized(teacher)) / 2


def _standardized(maps: Tensor) -> Tensor:
    """(B, C, h, w), each channel with mean 0 and deviation 1."""
    mean = maps.mean((0, 2, 3), keepdim=True)
    # the root's gradient is infinite at 0, where a channel is constant
    deviation = maps.var((0, 2, 3), keepdim=True, correction=0).clamp(min=_EPS**2).sqrt()
    return (maps - mean) / (deviation + _EPS)
