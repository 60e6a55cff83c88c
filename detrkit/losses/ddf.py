"""Decoupled distillation focal loss (DDF): earlier layers learn the last layer's distributions.

GO-LSD of D-FINE, arXiv:2410.13842, section 4.2, eq. 7. With temperature T, student S and
teacher P of each edge:

    T² · sum_q c_q · w_q · sum_edges KL(softmax(P_q / T) ‖ softmax(S_q / T))

w_q is the IoU for a matched query and the teacher's highest score for another. c_q averages
matched and other queries apart and mixes the two means by the square roots of their numbers, so
that the many background queries do not drown the few others.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from detrkit.losses.matches import Matching

TEMPERATURE = 5.0
EDGES = 4


@dataclass(frozen=True)
class Balance:
    """How much the mean over matched and over other queries counts; the two add up to 1.

    Attributes:
        matched: share of the matched queries' mean.
        other: share of the others' mean.
    """

    matched: float
    other: float

    @classmethod
    def of(cls, matched: int, total: int) -> Balance:
        """From the numbers of matched and of all queries."""
        if not total:
            return cls(0.0, 0.0)
        a, b = math.sqrt(matched), math.sqrt(total - matched)
        return cls(a / (a + b), b / (a + b))


def ddf_loss(
    students: Tensor,
    teacher_corners: Tensor,
    teacher_logits: Tensor,
    matching: Matching,
    iou: Tensor,
    balance: Balance,
    means_over: tuple[float, float] | None = None,
) -> Tensor:
    """The loss per student; the teacher gets no gradient.

    Args:
        students: (L, N, 4, R + 1) logits, N = B·Q.
        teacher_corners: (N, 4, R + 1) logits.
        teacher_logits: (N, K) class logits.
        matching: pairs of the students; each query at most once per output.
        iou: (L, M) of each pair, without gradient.
        balance: from the ordinary queries; the denoising queries use it as well.
        means_over: numbers of matched and of all queries that the means are taken over, where
            these are a part of them; default: these.

    Returns:
        (L,).
    """
    layers, total = students.shape[:2]
    if not total or not layers:
        return students.new_zeros(layers)
    matched = matching.queries.shape[1]
    of_matched, of_all = means_over or (matched, total)
    with torch.no_grad():
        # Means are sums with a constant factor per query: sums need no masks.
        other = balance.other / (EDGES * (of_all - of_matched)) if matched < total else 0.0
        score = teacher_logits.amax(-1).sigmoid()
        weight = (score * other).repeat(layers, 1)  # (L, N)
        if matched:
            share = balance.matched / (EDGES * of_matched)
            weight[matching.rows(), matching.queries] = iou * share
        target = (teacher_corners / TEMPERATURE).softmax(-1)
        # Once for all students, which is why this is not `kl_div`.
        log_target = target.clamp(min=torch.finfo(target.dtype).tiny).log()
    logp = (students / TEMPERATURE).log_softmax(-1)
    likeness = target * (logp - log_target)  # minus the divergence: no large tensor is negated
    return (likeness.sum((2, 3)) * weight).sum(1) * -(TEMPERATURE**2)
