"""Queries that teacher and student answer at the same place.

KD-DETR, Wang et al., CVPR 2024, arXiv:2211.08071, section 3: two sets of queries cannot be
compared, so distillation gets queries of its own, shared by both models and seen by no other query.
"General" ones lie anywhere in the image, "specific" ones where the teacher sees objects. Both
models start from the same boxes. Their contents cannot be shared by models of other widths: each
takes what its own maps hold there, as it does for the queries it selects itself.
"""

from __future__ import annotations

import torch
from torch import Tensor

from detrkit.distillation.pairing import best_queries

#: Sides of general boxes; their logarithm is uniform.
_SIDES = (0.03, 0.7)


@torch.no_grad()
def probe_boxes(logits: Tensor, boxes: Tensor, general: int, specific: int) -> Tensor:
    """Where both shall look: (B, P, 4) boxes_cxcywh.

    Args:
        logits: (B, Q, K) of the teacher.
        boxes: (B, Q, 4) of the teacher.
        general: boxes drawn at random.
        specific: of the teacher's best queries.
    """
    images = len(boxes)
    low, high = torch.tensor(_SIDES, device=boxes.device).log()
    draws = torch.rand(images, general, 4, device=boxes.device)
    size = (low + draws[..., 2:] * (high - low)).exp()
    centre = size / 2 + draws[..., :2] * (1 - size)
    best = best_queries(logits, specific)
    rows = torch.arange(images, device=boxes.device)[:, None]
    return torch.cat([torch.cat([centre, size], -1), boxes[rows, best].float()], dim=1)
