"""Which query of the student answers for which of the teacher.

Detections are a set: query 7 of two models has nothing in common. As boxes and queries are matched
in training, each of the teacher's best queries gets the query of the student that costs least by
class, distance and overlap, each query once (DETRDistill, Chang et al., ICCV 2023,
arXiv:2211.10156, section 3.2). A teacher's query counts by its score: what it takes for background
says little.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from detrkit.losses.matcher import HungarianMatcher
from detrkit.structures import Target

#: DETR's costs, with the focal class cost.
COSTS = {"cost_class": 2.0, "cost_bbox": 5.0, "cost_giou": 2.0}


class QueryPairs(NamedTuple):
    """M pairs of queries, numbered through the batch: query q of image i is `i * Q + q`.

    Attributes:
        student: (M,) int64.
        teacher: (M,) int64.
        weight: (M,) the teacher's score, divided so that the sum over all pairs is a mean over
            the images of a mean over the pairs; images whose scores add up to less than 1 count
            by that sum.
    """

    student: Tensor
    teacher: Tensor
    weight: Tensor


def best_queries(logits: Tensor, count: int) -> Tensor:
    """(B, n) the `count` queries with the highest score, in order; logits (B, Q, K)."""
    scores = logits.amax(-1)
    return scores.topk(min(count, scores.shape[1]), dim=1).indices


class Pairing:
    """Pairs queries by the least cost.

    Args:
        count: so many of the teacher's best queries.
        costs: weights of the parts of the cost.
    """

    def __init__(self, count: int = 100, costs: Mapping[str, float] = COSTS) -> None:
        self.count = count
        self.matcher = HungarianMatcher(costs, use_focal_loss=True)

    @torch.no_grad()
    def __call__(
        self,
        student_logits: Tensor,
        student_boxes: Tensor,
        teacher_logits: Tensor,
        teacher_boxes: Tensor,
    ) -> QueryPairs:
        """Logits (B, Q, K) and boxes (B, Q, 4) of both; Q may differ, K is the same classes."""
        images, of_teacher = teacher_logits.shape[:2]
        best = best_queries(teacher_logits, self.count)
        rows = torch.arange(images, device=best.device)[:, None]
        labels = teacher_logits[rows, best].argmax(-1)
        chosen = teacher_boxes[rows, best].float()
        targets = [Target(b, c) for b, c in zip(chosen, labels, strict=True)]
        outputs = [{"pred_logits": student_logits, "pred_boxes": student_boxes}]
        (pairs,) = self.matcher(outputs, targets)
        device = student_logits.device
        queries = torch.from_numpy(pairs.queries).to(device)
        found = torch.from_numpy(pairs.targets).to(device)
        teacher = (best + rows * of_teacher).flatten()[found]
        scores = teacher_logits.flatten(0, 1)[teacher].amax(-1).sigmoid()
        return QueryPairs(queries, teacher, image_mean(scores, teacher // of_teacher, images))


def image_mean(scores: Tensor, image: Tensor, images: int) -> Tensor:
    """Scores (M,) of pairs in `image` (M,) -> weights (M,), see `QueryPairs`."""
    one_hot = image[:, None] == torch.arange(images, device=image.device)
    total = (one_hot * scores[:, None]).sum(0).clamp(min=1)  # (B,)
    return scores / total[image] / max(images, 1)
