"""Boxes: formats, areas, intersection over union. Pure functions, differentiable, any device.

`boxes_cxcywh` is centre and size, usually as fractions of the image; `boxes_xyxy` is two
corners, usually in pixels. The functions work in either unit. Degenerate boxes (no width or no
height) give 0 for IoU, never NaN.

Generalised IoU: Rezatofighi et al., CVPR 2019, arXiv:1902.09630.
"""

from __future__ import annotations

import torch
from torch import Tensor

#: Smallest divisor; far below the area of any box that matters, in pixels or in fractions.
TINY = 1e-12


def cxcywh_to_xyxy(boxes_cxcywh: Tensor) -> Tensor:
    """(…, 4) centre and size -> (…, 4) corners. A negative size counts as zero."""
    cx, cy, w, h = boxes_cxcywh.unbind(-1)
    half_w, half_h = 0.5 * w.clamp(min=0), 0.5 * h.clamp(min=0)
    return torch.stack((cx - half_w, cy - half_h, cx + half_w, cy + half_h), dim=-1)


def xyxy_to_cxcywh(boxes_xyxy: Tensor) -> Tensor:
    """(…, 4) corners -> (…, 4) centre and size."""
    x1, y1, x2, y2 = boxes_xyxy.unbind(-1)
    return torch.stack(((x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1), dim=-1)


def box_area(boxes_xyxy: Tensor) -> Tensor:
    """(…, 4) -> (…,) width times height."""
    x1, y1, x2, y2 = boxes_xyxy.unbind(-1)
    return (x2 - x1) * (y2 - y1)


def paired_iou(a_xyxy: Tensor, b_xyxy: Tensor) -> Tensor:
    """IoU of a[i] with b[i]: (…, 4) and (…, 4), broadcast -> (…,), 0–1."""
    intersection, union = _overlap(a_xyxy, b_xyxy)
    return intersection / union.clamp(min=TINY)


def paired_giou(a_xyxy: Tensor, b_xyxy: Tensor) -> Tensor:
    """Generalised IoU of a[i] with b[i]: (…, 4) and (…, 4), broadcast -> (…,), -1 to 1."""
    intersection, union = _overlap(a_xyxy, b_xyxy)
    ax1, ay1, ax2, ay2 = a_xyxy.unbind(-1)
    bx1, by1, bx2, by2 = b_xyxy.unbind(-1)
    width = torch.maximum(ax2, bx2) - torch.minimum(ax1, bx1)
    height = torch.maximum(ay2, by2) - torch.minimum(ay1, by1)
    hull = width * height
    return intersection / union.clamp(min=TINY) - (hull - union) / hull.clamp(min=TINY)


def box_iou(a_xyxy: Tensor, b_xyxy: Tensor) -> tuple[Tensor, Tensor]:
    """IoU of every box of `a` (N, 4) with every box of `b` (M, 4).

    Returns:
        IoU (N, M), 0–1, and the area of the union (N, M).
    """
    intersection, union = _overlap(a_xyxy[:, None], b_xyxy[None])
    return intersection / union.clamp(min=TINY), union


def generalized_box_iou(a_xyxy: Tensor, b_xyxy: Tensor) -> Tensor:
    """Generalised IoU of every box of `a` (N, 4) with every box of `b` (M, 4) -> (N, M)."""
    return paired_giou(a_xyxy[:, None], b_xyxy[None])


def inverse_sigmoid(x: Tensor, eps: float = 1e-5) -> Tensor:
    """The logit of `x` (any shape, 0–1); both x and 1 - x are kept from falling below `eps`."""
    x = x.clamp(0, 1)
    return torch.log(x.clamp(min=eps) / (1 - x).clamp(min=eps))


def _overlap(a_xyxy: Tensor, b_xyxy: Tensor) -> tuple[Tensor, Tensor]:
    """Areas of intersection and union of broadcast boxes.

    Works on the four coordinates as planes: with the coordinates outermost in memory (the
    matcher does that) every operation runs over contiguous numbers.
    """
    ax1, ay1, ax2, ay2 = a_xyxy.unbind(-1)
    bx1, by1, bx2, by2 = b_xyxy.unbind(-1)
    width = (torch.minimum(ax2, bx2) - torch.maximum(ax1, bx1)).clamp(min=0)
    height = (torch.minimum(ay2, by2) - torch.maximum(ay1, by1)).clamp(min=0)
    intersection = width * height
    return intersection, box_area(a_xyxy) + box_area(b_xyxy) - intersection
