"""Fine-grained localisation loss (FGL). D-FINE, arXiv:2410.13842, section 4.1, eq. 5-6.

The true edge lies between two bins of its distribution; both are raised, the nearer one more.
Pairs whose boxes already overlap well weigh more:

    sum_pairs IoU · sum_edges (w_left · CE(left) + w_right · CE(right))
"""

from __future__ import annotations

from torch import Tensor

from detrkit.ops.distribution import EdgeTargets


def fgl_loss(corners: Tensor, edges: EdgeTargets, iou: Tensor) -> Tensor:
    """Sum over pairs and edges, per output.

    Args:
        corners: (L, M, 4, R + 1) logits of matched queries: left, top, right, bottom.
        edges: where the true edges lie, (M, 4) or (L, M, 4) each.
        iou: (L, M) weight of each pair, without gradient.

    Returns:
        (L,).
    """
    logp = corners.log_softmax(-1)
    left = edges.left.expand(corners.shape[:-1])[..., None]
    loss = logp.gather(-1, left)[..., 0] * edges.weight_left
    loss = loss + logp.gather(-1, left + 1)[..., 0] * edges.weight_right
    return -(loss.sum(-1) * iou).sum(-1)
