"""Which positions of the encoder's maps become decoder queries, and the anchors they start from.

Two-stage query selection: Deformable DETR, arXiv:2010.04159, appendix A.4; RT-DETR,
arXiv:2304.08069, section 4.3.

Shape legend: B images, L positions of all levels, C channels, K classes, Q queries.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

SelectMethod = Literal["default", "one2many", "agnostic"]

#: Side of the anchors on the first level, as a fraction of the image; each level doubles it.
BASE_SIZE = 0.05


def make_anchors(
    shapes: Sequence[tuple[int, int]], margin: float = 1e-2, base_size: float = BASE_SIZE
) -> tuple[Tensor, Tensor]:
    """One square anchor at the centre of each position, `base_size` · 2^level wide.

    Args:
        shapes: (h, w) of each level, finest first. The level is counted from the first one used,
            whatever its stride.
        margin: an anchor with a coordinate or side outside (margin, 1 - margin) is not valid.
        base_size: side on the first level, as a fraction of the image.

    Returns:
        anchors (1, L, 4) cxcywh as logits, infinite where not valid; valid (1, L, 1) bool.
    """
    levels = []
    for level, (h, w) in enumerate(shapes):
        y, x = torch.meshgrid(torch.arange(h), torch.arange(w), indexing="ij")
        centre = torch.stack([(x + 0.5) / w, (y + 0.5) / h], dim=-1)
        side = torch.full_like(centre, base_size) * 2.0**level
        levels.append(torch.cat([centre, side], dim=-1).reshape(1, h * w, 4))
    anchors = torch.cat(levels, dim=1)
    valid = ((anchors > margin) & (anchors < 1 - margin)).all(-1, keepdim=True)
    logits = torch.log(anchors / (1 - anchors))
    return torch.where(valid, logits, torch.inf), valid


def select_positions(logits: Tensor, count: int, method: SelectMethod = "default") -> Tensor:
    """The best positions, best first.

    Args:
        logits: (B, L, K) scores of the positions; K is 1 for "agnostic".
        count: how many; at most L.
        method: "default" and "agnostic" rank by the best class; "one2many" ranks every class of
            every position, so that a position may appear several times.

    Returns:
        (B, count) int64 positions.
    """
    if method == "one2many":
        classes = logits.shape[-1]
        return logits.flatten(1).topk(count, dim=-1).indices // classes
    return logits.amax(-1).topk(count, dim=-1).indices


def take(x: Tensor, index: Tensor) -> Tensor:
    """Rows of (B, L, C) at `index` (B, Q) -> (B, Q, C)."""
    return x.gather(1, index.unsqueeze(-1).expand(-1, -1, x.shape[-1]))
