"""The criterion of all families: class, box and distribution losses over a step's outputs.

DETR, Carion et al., ECCV 2020, arXiv:2005.12872, section 3.1, with the auxiliary losses of later
detectors. Judged are the last decoder layer, the layers before it (`_aux_i`), the head before
refinement (`_pre`), the encoder (`_enc_i`) and the denoising queries (`_dn_i`, `_dn_pre`), as far
as the detector returns them. Class losses use each output's own matches. Box losses use these as
well, or one union of all matches (GO-LSD of D-FINE, arXiv:2410.13842, section 4.2), so that a
query learns the same box in all layers; the denoising queries know their boxes. Random negatives
among these (`_neg_i`, `_neg_pre`) have class losses only, their mean over the batch:

    1/(B·R) · sum of l_q over the random negatives q that count

The outputs are stacked and each loss runs once per stack: the time of a step on an accelerator,
and much of it on a CPU, goes into starting operations. What the families add or leave out stands
in `criteria.py`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from detrkit.errors import ConfigError, did_you_mean
from detrkit.losses.background import background_weights
from detrkit.losses.boxes import giou_loss, iou_of, l1_loss
from detrkit.losses.ddf import Balance
from detrkit.losses.focal import focal_loss
from detrkit.losses.judged import (
    decoder_outputs,
    denoising_outputs,
    encoder_outputs,
    known_matching,
    negative_stack,
)
from detrkit.losses.local import local_losses
from detrkit.losses.mal import matchability_loss
from detrkit.losses.matches import Pairs, to_device, union_of
from detrkit.losses.normalizer import Whole, mean_over_processes
from detrkit.losses.stack import Stack, Values
from detrkit.losses.vfl import varifocal_loss
from detrkit.phases import phase
from detrkit.structures import Target

#: What each entry of `losses` computes.
TERMS = {
    "vfl": ("loss_vfl",),
    "focal": ("loss_focal",),
    "mal": ("loss_mal",),
    "boxes": ("loss_bbox", "loss_giou"),
    "local": ("loss_fgl", "loss_ddf"),
}
#: Those of them that judge classes.
CLASS_LOSSES = ("vfl", "focal", "mal")


@dataclass(frozen=True)
class Matched:
    """Matches of one step, on the host.

    Attributes:
        own: by suffix, "" for the last layer: each output's own pairs.
        union: pairs that the box losses of all outputs use; none: each uses its own.
    """

    own: dict[str, Pairs]
    union: Pairs | None

    @property
    def box_pairs(self) -> Pairs:
        """Pairs of the last layer's box losses; the other layers have as many."""
        return self.own[""] if self.union is None else self.union


class SetCriterion(nn.Module):
    """Weighted losses of a training step.

    Args:
        matcher: `matcher(outputs, targets, epoch) -> list[Pairs]`.
        weight_dict: weight of each term: loss_vfl, loss_focal, loss_mal, loss_bbox, loss_giou,
            loss_fgl, loss_ddf. A term without a weight is left out.
        losses: any of "vfl", "focal", "mal", "boxes", "local".
        alpha: of the varifocal and the focal loss.
        gamma: of the class losses.
        num_classes: K.
        boxes_weight_format: "iou" or "giou" weighs the GIoU loss and is the quality that the
            varifocal and the matchability loss read; none: unweighted, the quality is the IoU.
        reg_max: R, bins of the distributions.
        mal_alpha: weight of what is not matched in the matchability loss.
        use_uni_set: box losses use the union of all matches; else each output its own.
        share_decoder_matches: match the last decoder layer and use its pairs for the layers
            before it. The encoder keeps its own.
        bg_loss_weight: weight of the class losses of queries that are matched to nothing; see
            `losses.background`.

    Raises:
        ConfigError: an unknown loss, weight or format; a negative `bg_loss_weight`.
    """

    #: Whether an output that is its own teacher reports a distillation loss, of zero.
    own_teacher: ClassVar[bool] = False

    def __init__(
        self,
        matcher: nn.Module,
        weight_dict: Mapping[str, float],
        losses: Sequence[str],
        *,
        alpha: float,
        gamma: float,
        num_classes: int,
        boxes_weight_format: str | None = None,
        reg_max: int = 32,
        mal_alpha: float = 1.0,
        use_uni_set: bool = False,
        share_decoder_matches: bool = False,
        bg_loss_weight: float = 1.0,
    ) -> None:
        super().__init__()
        self._check_names("losses", losses, TERMS)
        terms = [term for terms in TERMS.values() for term in terms]
        self._check_names("weight_dict", weight_dict, terms)
        if boxes_weight_format is not None:
            self._check_names("boxes_weight_format", [boxes_weight_format], ("iou", "giou"))
        if not 0 <= bg_loss_weight < math.inf:
            raise ConfigError(
                f"{type(self).__name__}.bg_loss_weight: must not be negative, got {bg_loss_weight}"
            )
        self.matcher = matcher
        self.weight_dict = dict(weight_dict)
        self.losses = tuple(losses)
        self.alpha = alpha
        self.gamma = gamma
        self.num_classes = num_classes
        self.boxes_weight_format = boxes_weight_format
        self.reg_max = reg_max
        self.mal_alpha = mal_alpha
        self.use_uni_set = use_uni_set
        self.share_decoder_matches = share_decoder_matches
        self.bg_loss_weight = bg_loss_weight

    @property
    def divides_by_matches(self) -> bool:
        """Whether the losses depend on how many queries are matched, not on boxes alone."""
        return self.use_uni_set or "local" in self.losses

    def forward(
        self,
        outputs: Mapping[str, Any],
        targets: Sequence[Target],
        epoch: int = 0,
        *,
        matched: Matched | None = None,
        whole: Whole | None = None,
    ) -> dict[str, Tensor]:
        """The weighted terms; their sum is what training minimises.

        A term that is not finite stays so, for the trainer to see.

        Where a batch is judged in parts (gradient accumulation), the terms of all parts with the
        `whole` of the batch add up to those of the batch. Only the distillation of the denoising
        queries and their padding depend on which images stand in a part together.

        Args:
            outputs: what the detector returns in training; `models.outputs.Outputs`.
            targets: B targets, on the device of the outputs. None, some or all may be empty.
            epoch: passed to the matcher.
            matched: of these outputs, if known already.
            whole: the batch of which this is a part; default: this is all.

        Returns:
            () float32 each, e.g. `loss_vfl`, `loss_giou_aux_0`, `loss_fgl_dn_1`. Without boxes
            the box terms are zero and still reach every prediction.

        Raises:
            DataError: a label that the model has no class for.
        """
        if matched is None:
            with phase("match"):
                matched = self.match(outputs, targets, epoch)
        whole = whole or self.measure(targets, [matched], outputs)
        balance = Balance.of(whole.pairs, whole.queries)
        losses: dict[str, Tensor] = {}
        for stack in self._stacks(outputs, targets, matched, whole):
            losses.update(self._judge(stack, outputs, balance, self.losses))
        negatives = negative_stack(outputs, whole)
        if negatives is not None:
            classes = [loss for loss in self.losses if loss in CLASS_LOSSES]
            losses.update(self._judge(negatives, outputs, balance, classes))
        return losses

    def match(
        self, outputs: Mapping[str, Any], targets: Sequence[Target], epoch: int = 0
    ) -> Matched:
        """Matches all outputs but the denoising ones, and their union where it is used."""
        decoder, encoder = decoder_outputs(outputs), encoder_outputs(outputs)
        if self.share_decoder_matches:
            found = self.matcher([outputs, *encoder.values()], targets, epoch)
            own = dict.fromkeys(decoder, found[0])
            own.update(zip(encoder, found[1:], strict=True))
        else:
            found = self.matcher([*decoder.values(), *encoder.values()], targets, epoch)
            own = dict(zip([*decoder, *encoder], found, strict=True))
        return Matched(own, union_of(list(own.values())) if self.use_uni_set else None)

    def measure(
        self, targets: Sequence[Target], matched: Sequence[Matched], outputs: Mapping[str, Any]
    ) -> Whole:
        """What the losses of a batch are divided by. Every process must call it in every step.

        Args:
            targets: of all images of the batch.
            matched: of its parts; none where the losses depend on boxes alone.
            outputs: of any part: they tell how many queries an image has, and the device.
        """
        queries, device = outputs["pred_boxes"].shape[1], outputs["pred_boxes"].device
        pairs = sum(len(part.box_pairs.queries) for part in matched)
        counts = [sum(len(target) for target in targets)]
        if self.use_uni_set:
            counts.append(pairs)
        # Without a union the box losses have the pairs and the normaliser of the class losses.
        class_scale, *_ = scales = mean_over_processes(counts, device)
        return Whole(len(targets), len(targets) * queries, pairs, class_scale, scales[-1])

    def _stacks(
        self,
        outputs: Mapping[str, Any],
        targets: Sequence[Target],
        matched: Matched,
        whole: Whole,
    ) -> list[Stack]:
        """Decoder, encoder and denoising outputs with their pairs and normalisers."""
        device = outputs["pred_boxes"].device
        sizes = [len(target) for target in targets]
        boxes = torch.cat([target.boxes_cxcywh for target in targets]).float()
        labels = torch.cat([target.labels for target in targets])
        decoder, encoder = decoder_outputs(outputs), encoder_outputs(outputs)
        pairs = [[matched.own[s] for s in named] for named in (decoder, encoder) if named]
        if matched.union is not None:
            pairs.append([matched.union])
        own, *rest = to_device(pairs, device)
        union = None if matched.union is None else rest.pop()
        stack_of = partial(
            Stack.of,
            true_boxes=boxes,
            class_scale=whole.class_scale,
            box_scale=whole.box_scale,
            means_over=(whole.pairs, whole.queries),
        )
        stacks = [stack_of(decoder, labels=labels, class_pairs=own, box_pairs=union or own)]
        if encoder:
            (own,) = rest
            agnostic = outputs["enc_meta"]["class_agnostic"]
            classes = torch.zeros_like(labels) if agnostic else labels
            stacks.append(
                stack_of(encoder, labels=classes, class_pairs=own, box_pairs=union or own)
            )
        denoising = denoising_outputs(outputs)
        if denoising:
            meta, first = outputs["dn_meta"], next(iter(denoising.values()))
            known = known_matching(meta, first, sizes)
            groups = meta["dn_num_group"]
            scale = whole.class_scale * groups if groups else 1.0
            parts = whole.images / max(len(targets), 1)
            queries = first["pred_boxes"].shape[:2].numel()
            stacks.append(
                Stack.of(
                    denoising,
                    true_boxes=boxes,
                    labels=labels,
                    class_pairs=known,
                    box_pairs=known,
                    class_scale=scale,
                    box_scale=scale,
                    means_over=(known.queries.shape[1] * parts, queries * parts),
                )
            )
        return stacks

    def _judge(
        self, stack: Stack, outputs: Mapping[str, Any], balance: Balance, losses: Sequence[str]
    ) -> dict[str, Tensor]:
        """All terms of `losses` of a stack, output by output."""
        compute: dict[str, Callable[[], dict[str, Values]]] = {
            "vfl": lambda: self._vfl(stack),
            "focal": lambda: self._focal(stack),
            "mal": lambda: self._mal(stack),
            "boxes": lambda: self._boxes(stack),
            "local": lambda: self._local(stack, outputs, balance),
        }
        by_output: list[dict[str, Tensor]] = [{} for _ in stack.suffixes]
        for loss in losses:
            for term, (values, rows) in compute[loss]().items():
                if term not in self.weight_dict:
                    continue
                weighted = (values * self.weight_dict[term]).unbind()
                for row, value in zip(rows or range(len(weighted)), weighted, strict=True):
                    by_output[row][term + stack.suffixes[row]] = value
        return {name: value for terms in by_output for name, value in terms.items()}

    def _vfl(self, stack: Stack) -> dict[str, Values]:
        labels = stack.labels[stack.class_pairs.targets]
        quality = self._quality(stack)
        loss = varifocal_loss(
            stack.logits,
            stack.class_pairs,
            labels,
            quality,
            self.alpha,
            self.gamma,
            self._query_weights(stack),
        )
        return {"loss_vfl": (loss / stack.class_scale, None)}

    def _focal(self, stack: Stack) -> dict[str, Values]:
        labels = stack.labels[stack.class_pairs.targets]
        loss = focal_loss(
            stack.logits,
            stack.class_pairs,
            labels,
            self.alpha,
            self.gamma,
            self._query_weights(stack),
        )
        return {"loss_focal": (loss / stack.class_scale, None)}

    def _mal(self, stack: Stack) -> dict[str, Values]:
        labels = stack.labels[stack.class_pairs.targets]
        quality = self._quality(stack)
        loss = matchability_loss(
            stack.logits,
            stack.class_pairs,
            labels,
            quality,
            self.gamma,
            self.mal_alpha,
            self._query_weights(stack),
        )
        return {"loss_mal": (loss / stack.class_scale, None)}

    def _query_weights(self, stack: Stack) -> Tensor | None:
        """(L or 1, N) factors of the class losses; None where all are 1."""
        queries = stack.logits.shape[1]
        weights = background_weights(stack.class_pairs, queries, self.bg_loss_weight)
        if stack.counted is None:
            return weights
        counted = stack.counted[None].to(stack.logits.dtype)
        return counted if weights is None else weights * counted

    def _quality(self, stack: Stack) -> Tensor:
        """(L, M): how well each pair of the class losses overlaps."""
        return iou_of(*stack.pairs(stack.class_pairs), self.boxes_weight_format == "giou")

    def _boxes(self, stack: Stack) -> dict[str, Values]:
        predicted, true = stack.pairs(stack.box_pairs)
        weight = None
        if self.boxes_weight_format is not None:
            weight = iou_of(predicted, true, self.boxes_weight_format == "giou")
        return {
            "loss_bbox": (l1_loss(predicted, true) / stack.box_scale, None),
            "loss_giou": (giou_loss(predicted, true, weight) / stack.box_scale, None),
        }

    def _local(
        self, stack: Stack, outputs: Mapping[str, Any], balance: Balance
    ) -> dict[str, Values]:
        if not stack.having("pred_corners"):
            return {}
        distil = "loss_ddf" in self.weight_dict
        return local_losses(
            stack,
            self.reg_max,
            outputs["up"],
            outputs["reg_scale"],
            balance if distil else None,
            self.own_teacher,
        )

    def _check_names(
        self, argument: str, given: Sequence[str] | Mapping[str, Any], known: Any
    ) -> None:
        for name in given:
            if name not in known:
                where = f"{type(self).__name__}.{argument}"
                raise ConfigError(
                    f"{where}: unknown `{name}`{did_you_mean(name, known)}",
                    hint=f"known are {', '.join(known)}",
                )
