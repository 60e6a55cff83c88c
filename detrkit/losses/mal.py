"""Matchability-aware loss (MAL): also a match of poor quality is worth learning from.

DEIM, Huang et al., CVPR 2025, arXiv:2412.04234, section 3.3. With score p and quality q (the IoU at
the box's class, else 0):

    -(q^gamma log p + (1 - q^gamma) log(1 - p))     at the class of a matched box
    -alpha p^gamma log(1 - p)                       elsewhere

The varifocal loss weighs a match by q, so that one with little overlap hardly counts; here every
match weighs 1 and gamma lowers the score that it should reach. The paper has no alpha (1).
"""

from __future__ import annotations

import torch
from torch import Tensor

from detrkit.losses.matches import Matching
from detrkit.losses.soft_target import soft_target_loss


def matchability_loss(
    logits: Tensor,
    matching: Matching,
    labels: Tensor,
    quality: Tensor,
    gamma: float,
    alpha: float = 1.0,
    query_weights: Tensor | None = None,
) -> Tensor:
    """Sum over queries and classes, per output.

    Args:
        logits: (L, N, K), N = B·Q.
        matching: M pairs per output.
        labels: (L, M) int64 class of each pair's box.
        quality: (L, M) of each pair, normally the IoU; without gradient. Below 0, as a GIoU can
            be, it counts as 0.
        gamma: exponent of the target score, and of the score that silences easy negatives.
        alpha: weight of what is not matched.
        query_weights: (L or 1, N) factor of each query, 1 where it has a pair; default: 1.

    Returns:
        (L,).
    """
    target = quality.clamp(min=0) ** gamma
    weight = torch.ones_like(target)
    return soft_target_loss(logits, matching, labels, weight, target, alpha, gamma, query_weights)
