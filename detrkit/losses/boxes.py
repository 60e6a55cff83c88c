"""L1 and generalised IoU between matched boxes. DETR, arXiv:2005.12872, section 3.1."""

from __future__ import annotations

from torch import Tensor

from detrkit.ops.boxes import cxcywh_to_xyxy, paired_giou, paired_iou


def l1_loss(boxes_cxcywh: Tensor, true_cxcywh: Tensor) -> Tensor:
    """Sum of absolute differences of centre and size: (L, M, 4) twice -> (L,)."""
    return (boxes_cxcywh - true_cxcywh).abs().sum((1, 2))


def giou_loss(boxes_cxcywh: Tensor, true_cxcywh: Tensor, weight: Tensor | None = None) -> Tensor:
    """Sum of 1 - GIoU.

    Args:
        boxes_cxcywh: (L, M, 4) predicted.
        true_cxcywh: (L, M, 4) matched.
        weight: (L, M) factor of each pair, or none.

    Returns:
        (L,).
    """
    loss = 1 - paired_giou(cxcywh_to_xyxy(boxes_cxcywh), cxcywh_to_xyxy(true_cxcywh))
    return (loss if weight is None else loss * weight).sum(1)


def iou_of(boxes_cxcywh: Tensor, true_cxcywh: Tensor, generalized: bool = False) -> Tensor:
    """IoU (or GIoU) of matched boxes without gradient: (L, M, 4) twice -> (L, M)."""
    measure = paired_giou if generalized else paired_iou
    return measure(cxcywh_to_xyxy(boxes_cxcywh.detach()), cxcywh_to_xyxy(true_cxcywh))
