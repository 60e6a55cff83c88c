"""Sigmoid focal loss. Lin et al., ICCV 2017, arXiv:1708.02002, eq. 5.

With p the score and 1 - p swapped for it where the class is absent, a = alpha where the class
is present and 1 - alpha where it is not:

    -a (1 - p)^gamma log p
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from detrkit.losses.matches import Matching


def focal_loss(
    logits: Tensor,
    matching: Matching,
    labels: Tensor,
    alpha: float,
    gamma: float,
    query_weights: Tensor | None = None,
) -> Tensor:
    """Sum over queries and classes, per output.

    Args:
        logits: (L, N, K), N = B·Q.
        matching: M pairs per output.
        labels: (L, M) int64 class of each pair's box.
        alpha: weight of the positives; negative: no balance.
        gamma: exponent that silences easy examples.
        query_weights: (L or 1, N) factor of each query; default: 1.

    Returns:
        (L,).
    """
    target = torch.zeros_like(logits)
    target[matching.rows(), matching.queries, labels] = 1
    # -log p of the right answer is softplus of minus its logit, and 1 - p comes from the same:
    # a power of a sigmoid is slow and has no gradient where it underflows.
    wrong = logits * (1 - 2 * target)
    entropy = F.softplus(wrong)
    loss = entropy * ((wrong - entropy) * gamma).exp()
    if alpha >= 0:
        loss = loss * (1 - alpha + (2 * alpha - 1) * target)
    if query_weights is not None:
        loss = loss * query_weights[..., None]
    return loss.sum((1, 2))
