"""Plain squared distance of feature maps. FitNets, Romero et al., ICLR 2015, arXiv:1412.6550.

1 / (C·H·W) · sum (t - s)²
"""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor

from detrkit.distillation.losses.base import FeatureLoss
from detrkit.registry import MODULES


@MODULES.register(paper="arXiv:1412.6550")
class FeatureMSE(FeatureLoss):
    """Squared distance of feature maps."""

    def forward(self, student: Tensor, teacher: Tensor, boxes: Sequence[Tensor]) -> Tensor:
        return F.mse_loss(student, teacher)
