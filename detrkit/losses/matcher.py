"""Hungarian matching: each box gets the query that costs least, each query at most one box.

DETR, Carion et al., ECCV 2020, arXiv:2005.12872, section 3.1. The cost of giving box t to
query q is

    w_class · (pos - neg)(p_q[class of t]) + w_bbox · |b_q - b_t|_1 - w_giou · GIoU(b_q, b_t)

    pos(p) = alpha (1 - p)^gamma · -log p        neg(p) = (1 - alpha) p^gamma · -log(1 - p)

with the focal class cost of Deformable DETR (arXiv:2010.04159), or w_class · -softmax. DEIMv2
(arXiv:2509.20787) changes to another cost for the last part of the training, where boxes count
by their overlap and not by their distance:

    -p_q[class of t] · IoU(b_q, b_t)^order

All outputs of a step are matched together: their costs are computed on the device, only
between a box and the queries of its own image, and come to the host in one transfer. The
assignment problems are solved there by SciPy.

Shape legend: B images, Q queries, K classes, T boxes of all images, L outputs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn

from detrkit.errors import ConfigError, DataError, did_you_mean
from detrkit.losses.matches import Pairs, starts
from detrkit.ops.boxes import TINY
from detrkit.registry import MODULES
from detrkit.structures import Target

COSTS = ("cost_class", "cost_bbox", "cost_giou")
Floats = npt.NDArray[np.float32]


@MODULES.register(share=("use_focal_loss",), family="matcher", paper="arXiv:2005.12872")
class HungarianMatcher(nn.Module):
    """Matches queries and boxes at the least total cost.

    Args:
        weight_dict: `cost_class`, `cost_bbox` and `cost_giou`; not all zero.
        use_focal_loss: sigmoid scores and the focal class cost; else softmax.
        alpha: balance of the focal class cost.
        gamma: exponent of the focal class cost.
        change_matcher: use the IoU-order cost from `matcher_change_epoch` on.
        iou_order_alpha: the order, how much more overlap counts than the score; at least 0.
        matcher_change_epoch: first epoch (from 0) with the IoU-order cost.

    Raises:
        ConfigError: a weight is missing, unknown, or all are zero; a negative order.
    """

    def __init__(
        self,
        weight_dict: Mapping[str, float],
        use_focal_loss: bool = False,
        alpha: float = 0.25,
        gamma: float = 2.0,
        change_matcher: bool = False,
        iou_order_alpha: float = 1.0,
        matcher_change_epoch: int = 10000,
    ) -> None:
        super().__init__()
        where = "HungarianMatcher.weight_dict"
        for name in weight_dict:
            if name not in COSTS:
                raise ConfigError(
                    f"{where}: unknown cost `{name}`{did_you_mean(name, COSTS)}",
                    hint=f"the costs are {', '.join(COSTS)}",
                )
        missing = [name for name in COSTS if name not in weight_dict]
        if missing:
            raise ConfigError(f"{where}: missing {', '.join(missing)}")
        self.cost_class, self.cost_bbox, self.cost_giou = (weight_dict[name] for name in COSTS)
        if not any((self.cost_class, self.cost_bbox, self.cost_giou)):
            raise ConfigError(f"{where}: all costs are zero")
        if iou_order_alpha < 0:
            raise ConfigError(
                f"HungarianMatcher.iou_order_alpha: {iou_order_alpha} is below 0",
                hint="DEIMv2 uses 4.0; 0 ignores the overlap",
            )
        self.use_focal_loss = use_focal_loss
        self.alpha = alpha
        self.gamma = gamma
        self.change_matcher = change_matcher
        self.iou_order_alpha = iou_order_alpha
        self.matcher_change_epoch = matcher_change_epoch

    @torch.no_grad()
    def forward(
        self, outputs: Sequence[Mapping[str, Any]], targets: Sequence[Target], epoch: int = 0
    ) -> list[Pairs]:
        """Matches every output with the same targets.

        Args:
            outputs: each with `pred_logits` (B, Q, K) and `pred_boxes` (B, Q, 4, cxcywh 0–1);
                equal B and Q. K may be 1 (an encoder that only scores "object"): every label
                counts as 0 there.
            targets: B targets.
            epoch: from 0; decides which cost is in force.

        Returns:
            For each output the pairs; min(Q, boxes) per image, image by image and query by query.

        Raises:
            DataError: a label that the model has no class for.
        """
        sizes = [len(target) for target in targets]
        if not outputs or not sum(sizes):
            return [Pairs.empty() for _ in outputs]
        costs = self._costs(outputs, targets, sizes, epoch)  # (L, T, Q)
        num_queries = costs.shape[-1]
        images = [
            (image * num_queries, first, first + size)
            for image, (first, size) in enumerate(zip(starts(sizes).tolist(), sizes, strict=True))
            if size
        ]
        return [
            Pairs.join([_assign(cost[first:last], query, first) for query, first, last in images])
            for cost in costs
        ]

    def _costs(
        self,
        outputs: Sequence[Mapping[str, Any]],
        targets: Sequence[Target],
        sizes: list[int],
        epoch: int = 0,
    ) -> Floats:
        """Cost of every box with every query of its own image, (L, T, Q) on the host."""
        labels = torch.cat([target.labels for target in targets])
        num_classes = max(output["pred_logits"].shape[-1] for output in outputs)
        image = torch.from_numpy(np.repeat(np.arange(len(sizes)), sizes))
        image = image.to(labels.device, non_blocking=True)
        known = labels.clamp(0, num_classes - 1)  # a wrong label must not crash the device
        true = torch.cat([t.boxes_cxcywh for t in targets]).float()
        changed = self.change_matcher and epoch >= self.matcher_change_epoch
        compute = self._order_cost if changed else self._cost
        # Output by output: on a CPU the numbers of one stay in the cache.
        cost = torch.stack(
            [
                compute(o["pred_logits"].float(), o["pred_boxes"].float(), known, true, image)
                for o in outputs
            ]
        )
        # The labels travel along, so that checking them needs no transfer of its own.
        flat = torch.cat((cost.flatten(), labels.float())).cpu().numpy()
        _check_labels(flat[cost.numel() :], num_classes, targets, sizes)
        return np.nan_to_num(flat[: cost.numel()], copy=False, nan=1.0).reshape(cost.shape)

    def _cost(
        self, logits: Tensor, boxes_cxcywh: Tensor, labels: Tensor, true: Tensor, image: Tensor
    ) -> Tensor:
        """The weighted costs of class and box, (T, Q)."""
        return self._class_cost(logits, labels, image) + self._box_cost(boxes_cxcywh, true, image)

    def _order_cost(
        self, logits: Tensor, boxes_cxcywh: Tensor, labels: Tensor, true: Tensor, image: Tensor
    ) -> Tensor:
        """The IoU-order cost, (T, Q)."""
        score = self._score(logits, labels, image)
        pairs = _Overlap.of(boxes_cxcywh.permute(2, 0, 1).contiguous(), true, image)
        iou = pairs.intersection.div_(pairs.union)
        return _power(iou, self.iou_order_alpha).mul_(score).neg_()

    def _score(self, logits: Tensor, labels: Tensor, image: Tensor) -> Tensor:
        """Scores of the boxes' classes: logits (B, Q, K), labels and images (T,) -> (T, Q).

        All scores first: rounding may depend on the place in memory, and boxes of one class
        must see equal scores, so that equal costs are equal.
        """
        scores = logits.sigmoid() if self.use_focal_loss else logits.softmax(-1)
        return scores[..., 0][image] if scores.shape[-1] == 1 else scores.mT[image, labels]

    def _class_cost(self, logits: Tensor, labels: Tensor, image: Tensor) -> Tensor:
        """Class part of the cost, (T, Q)."""
        p = self._score(logits, labels, image)
        if not self.use_focal_loss:
            return -self.cost_class * p
        q = 1 - p
        positive = (p + 1e-8).log_().mul_(q**self.gamma).mul_(-self.alpha * self.cost_class)
        negative = (q + 1e-8).log_().mul_(p**self.gamma)
        return positive.add_(negative, alpha=(1 - self.alpha) * self.cost_class)

    def _box_cost(self, boxes_cxcywh: Tensor, true_cxcywh: Tensor, image: Tensor) -> Tensor:
        """Box part of the cost: predicted (B, Q, 4), true (T, 4), images (T,) -> (T, Q)."""
        predicted = boxes_cxcywh.permute(2, 0, 1).contiguous()  # (4, B, Q)
        pairs = _Overlap.of(predicted, true_cxcywh, image)
        giou_plus_1 = pairs.intersection.div_(pairs.union).add_(pairs.union.div_(pairs.hull))
        cost = torch.zeros_like(giou_plus_1)
        for plane, true_plane in zip(predicted, true_cxcywh.T[..., None], strict=True):
            cost.add_((plane.index_select(0, image) - true_plane).abs_(), alpha=self.cost_bbox)
        return cost.sub_(giou_plus_1, alpha=self.cost_giou).add_(self.cost_giou)


class _Overlap(NamedTuple):
    """Areas of every true box with every predicted box of its image, (T, Q) each.

    The same as in `paired_giou`, with each coordinate a plane of contiguous numbers and what
    depends on one box alone computed before pairs are made. Divisors are at least `TINY`. The
    reader may overwrite them.
    """

    intersection: Tensor
    union: Tensor
    hull: Tensor

    @classmethod
    def of(cls, predicted: Tensor, true_cxcywh: Tensor, image: Tensor) -> _Overlap:
        """From predicted planes (4, B, Q, cxcywh), true boxes (T, 4) and their images (T,)."""
        near, far, size, area = _sides(predicted)
        true_near, true_far, true_size, true_area = _sides(true_cxcywh.T[..., None])
        overlaps, hulls = [], []
        for axis in range(2):
            overlap = torch.minimum(far[axis].index_select(0, image), true_far[axis])
            overlap -= torch.maximum(near[axis].index_select(0, image), true_near[axis])
            # Two intervals and their hull: hull = sum of lengths - overlap, also when apart.
            hulls.append((size[axis].index_select(0, image) + true_size[axis]).sub_(overlap))
            overlaps.append(overlap.clamp_(min=0))
        intersection = overlaps[0].mul_(overlaps[1])
        hull = hulls[0].mul_(hulls[1]).clamp_(min=TINY)
        union = (area.index_select(0, image) + true_area).sub_(intersection).clamp_(min=TINY)
        return cls(intersection, union, hull)


def _power(x: Tensor, exponent: float) -> Tensor:
    """`x ** exponent` in place; even exponents without the slow general power."""
    while exponent > 2 and exponent % 2 == 0:
        x = x.mul_(x)
        exponent /= 2
    return x.pow_(exponent)


def _sides(planes: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """(4, …) cxcywh -> left and top, right and bottom, width and height (2, …) each, area (…)."""
    centre, size = planes[:2], planes[2:].clamp(min=0)
    half = 0.5 * size
    return centre - half, centre + half, size, size[0] * size[1]


def _assign(cost: Floats, first_query: int, first_target: int) -> Pairs:
    """The cheapest assignment of one image's (boxes, queries) costs, query by query.

    SciPy solves with the shorter side as rows. Where both are equally long, queries are rows:
    which of several cheapest assignments is found then hangs on the matrix alone.
    """
    if cost.shape[0] == cost.shape[1]:
        queries, targets = linear_sum_assignment(cost.T)
    else:
        targets, queries = linear_sum_assignment(cost)
        order = np.argsort(queries)
        targets, queries = targets[order], queries[order]
    return Pairs(queries + first_query, targets + first_target)


def _check_labels(
    labels: Floats, num_classes: int, targets: Sequence[Target], sizes: list[int]
) -> None:
    wrong = np.flatnonzero((labels < 0) | (labels >= num_classes))
    if not len(wrong):
        return
    image = int(np.searchsorted(np.cumsum(sizes), wrong[0], side="right"))
    raise DataError(
        f"image {targets[image].image_id}: label {int(labels[wrong[0]])} is outside the model's "
        f"{num_classes} classes (0 to {num_classes - 1})",
        hint="set `num_classes` to the number of classes of the data set, or fix its labels",
    )
