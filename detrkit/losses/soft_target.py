"""Weighted cross entropy with a soft target: what the varifocal and the matchability loss share.

With score p, weight w and target t at the class of a matched box:

    -w (t log p + (1 - t) log(1 - p))     at the class of a matched box
    -alpha p^gamma log(1 - p)             elsewhere

The weights carry no gradient.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from detrkit.losses.matches import Matching


def soft_target_loss(
    logits: Tensor,
    matching: Matching,
    labels: Tensor,
    weight: Tensor,
    target: Tensor,
    alpha: float,
    gamma: float,
    query_weights: Tensor | None = None,
) -> Tensor:
    """Sum over queries and classes, per output.

    Args:
        logits: (L, N, K), N = B·Q.
        matching: M pairs per output; each query at most once per output.
        labels: (L, M) int64 class of each pair's box.
        weight: (L, M) of each pair, without gradient.
        target: (L, M) score that each pair should reach, 0–1, without gradient.
        alpha: weight of what is not matched.
        gamma: exponent that silences easy negatives.
        query_weights: (L or 1, N) factor of each query, 1 where it has a pair; default: 1.

    Returns:
        (L,).
    """
    where = (matching.rows(), matching.queries, labels)
    # Cross entropy is softplus(logit) - target · logit, and few targets are not zero.
    entropy = F.softplus(logits)
    with torch.no_grad():
        # log p = logit - softplus(logit): p^gamma needs no sigmoid and no slow general power.
        weights = torch.sub(logits, entropy).mul_(gamma).exp_().mul_(alpha)
        if query_weights is not None:
            weights *= query_weights[..., None]
        weights[where] = weight
    return (weights * entropy).sum((1, 2)) - (weight * target * logits[where]).sum(1)
