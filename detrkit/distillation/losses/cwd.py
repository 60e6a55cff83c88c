"""CWD: channel-wise knowledge distillation. Shu et al., ICCV 2021, arXiv:2011.13256, eq. 2-3.

Each channel becomes a distribution over the positions i of the map:

    phi(y_c, i) = exp(y_ci / T) / sum_j exp(y_cj / T)
    T² / C · sum_c sum_i phi(teacher_c, i) · log(phi(teacher_c, i) / phi(student_c, i))
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor

from detrkit.distillation.losses.base import FeatureLoss
from detrkit.registry import MODULES


@MODULES.register(paper="arXiv:2011.13256")
class CWD(FeatureLoss):
    """Channels of feature maps as distributions over the positions.

    Args:
        tau: T, the temperature; larger ones look at more positions.
    """

    default_weight: ClassVar[float] = 10.0

    def __init__(self, tau: float = 1.0) -> None:
        super().__init__()
        if tau <= 0:
            raise ValueError(f"tau must be positive, got {tau}")
        self.tau = tau

    def forward(self, student: Tensor, teacher: Tensor, boxes: Sequence[Tensor]) -> Tensor:
        images, channels = student.shape[:2]
        log_s = (student.flatten(2) / self.tau).log_softmax(-1)
        log_t = (teacher.flatten(2) / self.tau).log_softmax(-1)
        divergence = F.kl_div(log_s, log_t, reduction="sum", log_target=True)
        return divergence * self.tau**2 / (channels * images)
