"""Squared distance, mostly where the objects are.

Imitating a teacher near objects alone: Wang et al., CVPR 2019, arXiv:1906.03609; background with
a weight of its own: Guo et al. (DeFeat), CVPR 2021, arXiv:2103.14475, eq. 3. With w = 1 in the
cells that a box touches and `background` elsewhere:

    sum_ij w_ij · sum_c (t_cij - s_cij)²  /  (C · sum_ij w_ij)
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from detrkit.distillation.losses.base import FeatureLoss
from detrkit.distillation.losses.regions import regions_of
from detrkit.ops.boxes import TINY
from detrkit.registry import MODULES


@MODULES.register(paper="arXiv:2103.14475")
class ForegroundL2(FeatureLoss):
    """Squared distance of feature maps, mostly where the objects are.

    Args:
        background: weight of the cells without an object, 0 to 1. With 0, an image without
            objects has no loss.
    """

    def __init__(self, background: float = 0.1) -> None:
        super().__init__()
        if not 0 <= background <= 1:
            raise ValueError(f"background must lie in 0-1, got {background}")
        self.background = background

    def forward(self, student: Tensor, teacher: Tensor, boxes: Sequence[Tensor]) -> Tensor:
        foreground = regions_of(boxes, (student.shape[2], student.shape[3])).foreground
        weight = torch.where(foreground, 1.0, self.background)  # (B, 1, h, w)
        error = (weight * (teacher - student).square()).sum((1, 2, 3))
        return (error / (weight.sum((1, 2, 3)) * student.shape[1]).clamp(min=TINY)).mean()
