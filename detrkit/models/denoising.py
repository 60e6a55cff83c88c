"""Contrastive denoising: queries made from noisy ground truth, trained to restore or reject it.

DN-DETR, Li et al., CVPR 2022, arXiv:2203.01305; DINO, Zhang et al., ICLR 2023,
arXiv:2203.03605, section 3.3. Each group holds every box twice: a positive with corners moved by
up to one half side, to be restored, and a negative moved by one to two, to be rejected.

Negatives of this kind lie around the objects, and an image without objects has none at all. On
request one more group of R boxes anywhere in the image, with a random class each, is to be
rejected; those that overlap an object too much do not count.

Shape legend: B images, N boxes of the fullest image, G groups, R random negatives, D = 2·N·G + R
denoising queries, Q ordinary queries, C channels, K classes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from detrkit.layers.logits import inverse_sigmoid
from detrkit.models.outputs import DenoisingMeta
from detrkit.ops.boxes import cxcywh_to_xyxy, paired_iou, xyxy_to_cxcywh
from detrkit.structures import Target

#: cxcywh of RT-DETRv2's dummy pairs.
_DUMMY_BOX = (0.5, 0.5, 0.1, 0.1)
#: Range of the sides of random negatives; their logarithm is uniform.
_RANDOM_SIDES = (0.02, 0.8)
#: Boxes drawn for each random negative; the first that overlaps no object too much is taken.
_DRAWS = 8


@dataclass(frozen=True)
class DenoisingQueries:
    """Queries that stand before the ordinary ones.

    Attributes:
        content: (B, D, C) embedded noisy classes. D may be 0 when no image has boxes: the class
            embedding then still takes part in the graph, with zero gradient, so that distributed
            training sees the same parameters on every rank.
        box_logits: (B, D, 4) noisy boxes, cxcywh as logits.
        allowed: (D+Q, D+Q) bool, True where the row's query may see the column's: groups see
            themselves (the random negatives are one) and the ordinary queries, and these see no
            denoising query. None when D is 0.
        meta: the arrangement, for the criterion.
    """

    content: Tensor
    box_logits: Tensor
    allowed: Tensor | None
    meta: DenoisingMeta


def denoising_queries(
    targets: Sequence[Target],
    class_embed: nn.Embedding,
    num_queries: int,
    num_denoising: int = 100,
    label_noise_ratio: float = 0.5,
    box_noise_scale: float = 1.0,
    mirror_crossed: bool = True,
    dummy_pairs: bool = False,
    random_negatives: int = 0,
    random_negative_iou: float = 0.2,
) -> DenoisingQueries:
    """Makes the denoising queries of a batch.

    No value is read back from the device.

    Args:
        targets: B targets.
        class_embed: (K + 1, C); the last row pads.
        num_queries: Q.
        num_denoising: N·G is near this number; more boxes than this make one group.
        label_noise_ratio: half of this share of the queries gets a random class, which is the
            old one once in K times.
        box_noise_scale: 1 moves corners by up to one half side; 0 moves nothing.
        mirror_crossed: corners that crossed make a box of positive size again (D-FINE), instead
            of one without extent (RT-DETRv2).
        dummy_pairs: where no image has boxes, each gets a positive and a negative of no class
            around its centre, none of them to be restored (RT-DETRv2), instead of D = 0.
        random_negatives: R, for every image. They are drawn last, so that the other queries are
            the same with and without them.
        random_negative_iou: a random negative whose IoU with an object of its image is not below
            this does not count.
    """
    counts = [len(target) for target in targets]
    fullest = max(counts, default=0)
    groups = max(num_denoising // fullest, 1) if fullest else 0
    device = class_embed.weight.device
    padding = class_embed.num_embeddings - 1

    labels = pad_sequence([t.labels for t in targets], batch_first=True, padding_value=padding)
    boxes = pad_sequence([t.boxes_cxcywh for t in targets], batch_first=True)
    if dummy_pairs and not fullest:
        fullest = groups = 1
        labels = labels.new_full((len(targets), 1), padding)
        boxes = boxes.new_tensor(_DUMMY_BOX).expand(len(targets), 1, 4)
    labels = labels.to(device).tile(1, 2 * groups)  # (B, D), group by group: positives, negatives
    boxes = boxes.to(device).tile(1, 2 * groups, 1)  # (B, D, 4)
    if fullest:
        labels = _with_wrong_labels(labels, padding, label_noise_ratio / 2)
        negative = torch.arange(2 * groups, device=device) % 2 == 1
        negative = negative.repeat_interleave(fullest)
        boxes = _with_moved_corners(boxes, negative, box_noise_scale, mirror_crossed)
    counted = None
    if random_negatives:
        drawn, counted = draw_negatives(targets, random_negatives, random_negative_iou, device)
        boxes = torch.cat([boxes, drawn], dim=1)
        classes = torch.randint(padding, drawn.shape[:2], device=device)
        labels = torch.cat([labels, classes], dim=1)
    sizes = [*[2 * fullest] * groups, *([random_negatives] if random_negatives else [])]
    meta = DenoisingMeta(
        dn_positive_idx=_positives(counts, fullest, groups, device) if fullest else None,
        dn_num_group=groups,
        dn_num_split=[labels.shape[1], num_queries],
    )
    if counted is not None:
        meta["dn_random"] = counted
    return DenoisingQueries(
        content=class_embed(labels),
        box_logits=inverse_sigmoid(boxes),
        allowed=_visibility(sizes, num_queries, device) if sizes else None,
        meta=meta,
    )


def draw_negatives(
    targets: Sequence[Target], count: int, iou: float, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Boxes anywhere inside the images, away from the objects.

    Args:
        targets: B targets, on `device`.
        count: R.
        iou: limit of the IoU with each object of the image.
        device: to draw on.

    Returns:
        boxes_cxcywh (B, R, 4), 0–1, and (B, R) bool, whether their IoU is below the limit: where
        objects leave too little room, not all can be.
    """
    low, high = (math.log(side) for side in _RANDOM_SIDES)
    numbers = torch.rand(len(targets), count, _DRAWS, 4, device=device)
    place, size = numbers.split(2, dim=-1)
    size = (low + size * (high - low)).exp()
    boxes = torch.cat([size / 2 + place * (1 - size), size], dim=-1)  # (B, R, draws, 4)
    corners = cxcywh_to_xyxy(boxes)
    overlap = torch.stack(
        [_largest_iou(c, t.boxes_cxcywh) for c, t in zip(corners, targets, strict=True)]
    )
    fits = overlap < iou
    first = fits.int().argmax(-1, keepdim=True)  # where none fits: the first draw
    chosen = boxes.gather(2, first[..., None].expand(-1, -1, 1, 4))[:, :, 0]
    return chosen, fits.any(-1)


def _largest_iou(corners: Tensor, boxes_cxcywh: Tensor) -> Tensor:
    """(R, draws, 4) boxes_xyxy and (N, 4) objects -> (R, draws); 0 without objects."""
    if not len(boxes_cxcywh):
        return corners.new_zeros(corners.shape[:2])
    objects = cxcywh_to_xyxy(boxes_cxcywh.to(corners))
    return paired_iou(corners[:, :, None], objects).amax(-1)


def _with_wrong_labels(labels: Tensor, num_classes: int, share: float) -> Tensor:
    """Draws a new class for `share` of the labels; padding stays."""
    if share <= 0:
        return labels
    changed = (torch.rand(labels.shape, device=labels.device) < share) & (labels != num_classes)
    drawn = torch.randint_like(labels, max(num_classes, 1))
    return torch.where(changed, drawn, labels)


def _with_moved_corners(
    boxes_cxcywh: Tensor, negative: Tensor, scale: float, mirror_crossed: bool
) -> Tensor:
    """Moves each corner coordinate by a random part of half the side, either way.

    Args:
        boxes_cxcywh: (B, D, 4), 0–1; padding is zero and stays so.
        negative: (D,) bool; these move by one part more.
        scale: factor on the parts.
        mirror_crossed: see `denoising_queries`.
    """
    if scale <= 0:
        return boxes_cxcywh
    half_side = boxes_cxcywh[..., 2:].tile(1, 1, 2) * 0.5
    sign = torch.randint_like(boxes_cxcywh, 2) * 2 - 1
    part = torch.rand_like(boxes_cxcywh) + negative[:, None]
    boxes_xyxy = cxcywh_to_xyxy(boxes_cxcywh) + sign * part * half_side * scale
    noisy = xyxy_to_cxcywh(boxes_xyxy.clamp(0, 1))
    return noisy.abs() if mirror_crossed else noisy


def _positives(
    counts: Sequence[int], fullest: int, groups: int, device: torch.device
) -> tuple[Tensor, ...]:
    """For each image the positions of its positive queries, from the counts alone."""
    first = torch.arange(groups, device=device) * (2 * fullest)  # (G,)
    return tuple(
        (first[:, None] + torch.arange(count, device=device)).flatten() for count in counts
    )


def _visibility(sizes: Sequence[int], num_queries: int, device: torch.device) -> Tensor:
    """(D+Q, D+Q) bool: True where the row's query may see the column's. `sizes`: of the groups."""
    ordinary = len(sizes)  # the last group
    group = torch.cat(
        [
            torch.full((size,), number, device=device)
            for number, size in enumerate([*sizes, num_queries])
        ]
    )
    return (group[:, None] == group[None, :]) | (group[None, :] == ordinary)
