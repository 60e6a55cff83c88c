"""Class scores of a student's query against those of the teacher's query it stands for.

Every class is a yes or no of its own (a sigmoid), so the divergence is one of K coins, with
scores p of the teacher and q of the student at temperature T:

    SigmoidKL      T² · sum_k [p_k log(p_k / q_k) + (1 - p_k) log((1 - p_k) / (1 - q_k))]
    QualityFocal   sum_k |p_k - q_k|^beta · [-p_k log q_k - (1 - p_k) log(1 - q_k)]

The first is Hinton et al., arXiv:1503.02531, for sigmoids (as in Yang et al., BCKD, ICCV 2023,
arXiv:2308.14286, eq. 3); the second the quality focal loss (Li et al., GFL, NeurIPS 2020,
arXiv:2006.04388, eq. 2) with a teacher's score for the quality.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from detrkit.distillation.losses.base import ClassLoss
from detrkit.registry import MODULES


@MODULES.register(paper="arXiv:2308.14286")
class SigmoidKL(ClassLoss):
    """Divergence of the class scores of paired queries.

    Args:
        tau: T.
    """

    def __init__(self, tau: float = 1.0) -> None:
        super().__init__()
        if tau <= 0:
            raise ValueError(f"tau must be positive, got {tau}")
        self.tau = tau

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Logits (…, K) twice -> (…,)."""
        s, t = student / self.tau, teacher / self.tau
        p = t.sigmoid()
        # log p - log q for both answers of each coin, from logits: finite for any of them
        yes, no = F.logsigmoid(t) - F.logsigmoid(s), F.logsigmoid(-t) - F.logsigmoid(-s)
        return (p * yes + (1 - p) * no).sum(-1) * self.tau**2


@MODULES.register(paper="arXiv:2006.04388")
class QualityFocal(ClassLoss):
    """Cross entropy with the teacher's class scores, weaker where they agree already.

    Args:
        beta: exponent that silences what agrees already; at least 1.
    """

    def __init__(self, beta: float = 2.0) -> None:
        super().__init__()
        if beta < 1:
            raise ValueError(f"beta must be at least 1, got {beta}")
        self.beta = beta

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Logits (…, K) twice -> (…,)."""
        p = teacher.sigmoid()
        away = (p - student.sigmoid()).abs() ** self.beta
        entropy = F.binary_cross_entropy_with_logits(student, p, reduction="none")
        return (away * entropy).sum(-1)
