"""Angle between feature vectors: what aligns an encoder with a frozen foundation model.

RT-DETRv4, Liao et al., arXiv:2510.25257, section 3: the deepest map of the encoder, projected to
the width of a vision foundation model, learns the direction of its features at each position:

    mean_ij (1 - cos(s_ij, t_ij))
"""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor

from detrkit.distillation.losses.base import FeatureLoss
from detrkit.registry import MODULES


@MODULES.register(paper="arXiv:2510.25257")
class FeatureCosine(FeatureLoss):
    """Angle between the feature vectors of two maps."""

    def forward(self, student: Tensor, teacher: Tensor, boxes: Sequence[Tensor]) -> Tensor:
        # half the squared distance of unit vectors: exactly zero, and flat, where they agree
        difference = F.normalize(student, dim=1) - F.normalize(teacher, dim=1)
        return difference.square().sum(1).mean() / 2
