"""Varifocal loss: the score of a matched query learns the IoU of its box.

VarifocalNet, Zhang et al., CVPR 2021, arXiv:2008.13367, eq. 2. With score p and target q (the
IoU at the box's class, else 0):

    -q (q log p + (1 - q) log(1 - p))     at the class of a matched box
    -alpha p^gamma log(1 - p)             elsewhere

As in RT-DETR the weights carry no gradient.
"""

from __future__ import annotations

from torch import Tensor

from detrkit.losses.matches import Matching
from detrkit.losses.soft_target import soft_target_loss


def varifocal_loss(
    logits: Tensor,
    matching: Matching,
    labels: Tensor,
    quality: Tensor,
    alpha: float,
    gamma: float,
    query_weights: Tensor | None = None,
) -> Tensor:
    """Sum over queries and classes, per output.

    Args:
        logits: (L, N, K), N = B·Q.
        matching: M pairs per output.
        labels: (L, M) int64 class of each pair's box.
        quality: (L, M) target score of each pair, normally the IoU; without gradient.
        alpha: weight of what is not matched.
        gamma: exponent that silences easy negatives.
        query_weights: (L or 1, N) factor of each query, 1 where it has a pair; default: 1.

    Returns:
        (L,).
    """
    return soft_target_loss(logits, matching, labels, quality, quality, alpha, gamma, query_weights)
