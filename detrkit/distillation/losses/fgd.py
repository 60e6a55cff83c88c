"""FGD: focal and global distillation. Yang et al., CVPR 2022, arXiv:2111.11837, eq. 2-12.

With attention over positions and channels, of either map F:

    A_S(F) = H·W · softmax(mean_c |F| / T)       A_C(F) = C · softmax(mean_ij |F| / T)

object mask M (1 in boxes), S one over the cells of a box or of the background, s the student's
and t the teacher's map, A_S and A_C those of the teacher:

    feature    alpha · sum M S A_S A_C (t - s)²  +  beta · sum (1 - M) S A_S A_C (t - s)²
    attention  gamma · (mean |A_S(t) - A_S(s)| + mean |A_C(t) - A_C(s)|)
    global     lambda · sum (R(t) - R(s))²

R adds what a GcBlock (arXiv:1904.11492) sees in the whole map: R(F) = F + W2 · relu(LN(W1 ·
sum_j softmax(W_k F)_j F_j)). Student and teacher have one each, which start with W2 = 0. Where
boxes overlap, a cell counts for the smallest. Cells that a box touches at all are inside.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from detrkit.distillation.losses.base import FeatureLoss
from detrkit.distillation.losses.regions import regions_of
from detrkit.registry import MODULES


@MODULES.register(paper="arXiv:2111.11837")
class FGD(FeatureLoss):
    """Feature maps where objects and attention are, and relations in the whole map.

    The default weights are those that the authors use for one-stage detectors.

    Args:
        tau: T of the attention.
        alpha, beta: of objects and background.
        gamma: of the attention.
        lambda_global: of the global relations.
    """

    def __init__(
        self,
        tau: float = 0.5,
        alpha: float = 1e-3,
        beta: float = 5e-4,
        gamma: float = 1e-3,
        lambda_global: float = 5e-6,
    ) -> None:
        super().__init__()
        if tau <= 0:
            raise ValueError(f"tau must be positive, got {tau}")
        self.tau = tau
        self.alpha, self.beta, self.gamma = alpha, beta, gamma
        self.lambda_global = lambda_global
        self.of_student: nn.Module = nn.Identity()
        self.of_teacher: nn.Module = nn.Identity()

    def prepare(self, channels: int) -> FGD:
        self.of_student, self.of_teacher = GlobalContext(channels), GlobalContext(channels)
        return self

    def forward(self, student: Tensor, teacher: Tensor, boxes: Sequence[Tensor]) -> Tensor:
        images = len(student)
        space_s, channel_s = attention(student, self.tau)
        space_t, channel_t = attention(teacher, self.tau)
        foreground, share = regions_of(boxes, (student.shape[2], student.shape[3]))
        weight = torch.where(foreground, self.alpha, self.beta) * share * space_t * channel_t
        feature = (weight * (teacher - student).square()).sum() / images
        attended = F.l1_loss(space_s, space_t) + F.l1_loss(channel_s, channel_t)
        related = F.mse_loss(self.of_student(student), self.of_teacher(teacher), reduction="sum")
        return feature + self.gamma * attended + self.lambda_global * related / images


def attention(maps: Tensor, tau: float) -> tuple[Tensor, Tensor]:
    """Over positions (B, 1, h, w) and channels (B, C, 1, 1); both are 1 on average."""
    images, channels, h, w = maps.shape
    size = maps.abs()
    space = (size.mean(1).flatten(1) / tau).softmax(-1) * (h * w)
    channel = (size.mean((2, 3)) / tau).softmax(-1) * channels
    return space.view(images, 1, h, w), channel.view(images, channels, 1, 1)


class GlobalContext(nn.Module):
    """A GcBlock: every position gets what attention sees in the whole map.

    Args:
        channels: C.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        hidden = max(channels // 2, 1)
        self.key = nn.Conv2d(channels, 1, 1)
        self.down = nn.Conv2d(channels, hidden, 1)
        self.norm = nn.LayerNorm([hidden, 1, 1])
        self.up = nn.Conv2d(hidden, channels, 1)
        for parameter in self.up.parameters():
            nn.init.zeros_(parameter)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, h, w) -> (B, C, h, w)."""
        seen = self.key(x).flatten(2).softmax(-1)  # (B, 1, h·w)
        context = torch.einsum("bcn,bkn->bck", x.flatten(2), seen)[..., None]  # (B, C, 1, 1)
        return x + self.up(self.norm(self.down(context)).relu())
