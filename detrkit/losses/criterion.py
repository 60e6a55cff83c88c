"""D-FINE's criterion: class, box and distribution losses over all outputs of a training step.

D-FINE, Peng et al., ICLR 2025, arXiv:2410.13842. Judged are the last decoder layer, the layers
before it (`_aux_i`), the head before refinement (`_pre`), the encoder (`_enc_i`) and the
denoising queries (`_dn_i`, `_dn_pre`). Class losses use each output's own matches. Box losses
use one union of all matches (GO-LSD, section 4.2), so that a query learns the same box in all
layers; the denoising queries know their boxes.

The outputs are stacked and each loss runs once per stack: the time of a step on an accelerator,
and much of it on a CPU, goes into starting operations.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from detrkit.errors import ConfigError, did_you_mean
from detrkit.losses.boxes import giou_loss, iou_of, l1_loss
from detrkit.losses.ddf import Balance, ddf_loss
from detrkit.losses.fgl import fgl_loss
from detrkit.losses.focal import focal_loss
from detrkit.losses.matches import Matching, Pairs, denoising_pairs, to_device, union_of
from detrkit.losses.normalizer import mean_over_processes
from detrkit.losses.stack import LayerOutputs, Stack, edges_of
from detrkit.losses.vfl import varifocal_loss
from detrkit.ops.boxes import cxcywh_to_xyxy
from detrkit.ops.distribution import bbox2distance
from detrkit.registry import MODULES
from detrkit.structures import Target

#: What each entry of `losses` computes.
TERMS = {
    "vfl": ("loss_vfl",),
    "focal": ("loss_focal",),
    "boxes": ("loss_bbox", "loss_giou"),
    "local": ("loss_fgl", "loss_ddf"),
}

#: Values of a loss, and the outputs of the stack that they belong to (None: all).
Values = tuple[Tensor, Sequence[int] | None]


@dataclass(frozen=True)
class Matched:
    """Matches of one step, on the host.

    Attributes:
        own: by suffix, "" for the last layer: each output's own pairs.
        union: pairs that the box losses use.
    """

    own: dict[str, Pairs]
    union: Pairs


@MODULES.register(
    inject=("matcher",), share=("num_classes",), family="criterion", paper="arXiv:2410.13842"
)
class DFINECriterion(nn.Module):
    """Weighted losses of a training step.

    Args:
        matcher: `matcher(outputs, targets, epoch) -> list[Pairs]`.
        weight_dict: weight of each term: loss_vfl, loss_focal, loss_bbox, loss_giou, loss_fgl,
            loss_ddf. A term without a weight is left out.
        losses: any of "vfl", "focal", "boxes", "local".
        alpha: of the class loss.
        gamma: of the class loss.
        num_classes: K.
        reg_max: R, bins of the distributions.
        boxes_weight_format: "iou" or "giou" weighs the GIoU loss and is the target score of the
            varifocal loss; none: unweighted, and the score learns the IoU.
        share_matched_indices: match the last layer only and use its pairs for all outputs.

    Raises:
        ConfigError: an unknown loss, weight or format.
    """

    def __init__(
        self,
        matcher: nn.Module,
        weight_dict: Mapping[str, float],
        losses: Sequence[str],
        alpha: float = 0.2,
        gamma: float = 2.0,
        num_classes: int = 80,
        reg_max: int = 32,
        boxes_weight_format: str | None = None,
        share_matched_indices: bool = False,
    ) -> None:
        super().__init__()
        _check_names("losses", losses, TERMS)
        _check_names("weight_dict", weight_dict, [t for terms in TERMS.values() for t in terms])
        if boxes_weight_format is not None:
            _check_names("boxes_weight_format", [boxes_weight_format], ("iou", "giou"))
        self.matcher = matcher
        self.weight_dict = dict(weight_dict)
        self.losses = tuple(losses)
        self.alpha = alpha
        self.gamma = gamma
        self.num_classes = num_classes
        self.reg_max = reg_max
        self.boxes_weight_format = boxes_weight_format
        self.share_matched_indices = share_matched_indices

    def forward(
        self, outputs: Mapping[str, Any], targets: Sequence[Target], epoch: int = 0
    ) -> dict[str, Tensor]:
        """The weighted terms; their sum is what training minimises.

        A term that is not finite stays so, for the trainer to see.

        Args:
            outputs: what the detector returns in training; `models.outputs.Outputs`.
            targets: B targets, on the device of the outputs. None, some or all may be empty.
            epoch: passed to the matcher.

        Returns:
            () float32 each, e.g. `loss_vfl`, `loss_giou_aux_0`, `loss_fgl_dn_1`. Without boxes
            the box terms are zero and still reach every prediction.

        Raises:
            DataError: a label that the model has no class for.
        """
        matched = self.match(outputs, targets, epoch)
        stacks = self._stacks(outputs, targets, matched)
        total = outputs["pred_boxes"].shape[:2].numel()
        balance = Balance.of(len(matched.union.queries), total)
        losses: dict[str, Tensor] = {}
        for stack in stacks:
            losses.update(self._judge(stack, outputs, balance))
        return losses

    def match(
        self, outputs: Mapping[str, Any], targets: Sequence[Target], epoch: int = 0
    ) -> Matched:
        """Matches all outputs but the denoising ones, and their union."""
        judged = {**_decoder_outputs(outputs), **_encoder_outputs(outputs)}
        if self.share_matched_indices:
            (pairs,) = self.matcher([outputs], targets, epoch)
            own = dict.fromkeys(judged, pairs)
        else:
            found = self.matcher(list(judged.values()), targets, epoch)
            own = dict(zip(judged, found, strict=True))
        return Matched(own, union_of(list(own.values())))

    def _stacks(
        self, outputs: Mapping[str, Any], targets: Sequence[Target], matched: Matched
    ) -> list[Stack]:
        """Decoder, encoder and denoising outputs with their pairs and normalisers."""
        device = outputs["pred_boxes"].device
        sizes = [len(target) for target in targets]
        boxes = torch.cat([target.boxes_cxcywh for target in targets]).float()
        labels = torch.cat([target.labels for target in targets])
        decoder, encoder = _decoder_outputs(outputs), _encoder_outputs(outputs)
        groups = [[matched.own[s] for s in named] for named in (decoder, encoder) if named]
        union, own, *rest = to_device([[matched.union], *groups], device)
        num_boxes, num_union = mean_over_processes(
            [len(labels), len(matched.union.queries)], device
        )

        stacks = [Stack.of(decoder, boxes, labels, own, union, num_boxes, num_union)]
        if encoder:
            agnostic = outputs["enc_meta"]["class_agnostic"]
            classes = torch.zeros_like(labels) if agnostic else labels
            stacks.append(Stack.of(encoder, boxes, classes, rest[0], union, num_boxes, num_union))
        denoising = _denoising_outputs(outputs)
        if denoising:
            meta = outputs["dn_meta"]
            known = known_matching(meta, outputs["dn_outputs"][0], sizes)
            scale = num_boxes * meta["dn_num_group"] if meta["dn_num_group"] else 1.0
            stacks.append(Stack.of(denoising, boxes, labels, known, known, scale, scale))
        return stacks

    def _judge(
        self, stack: Stack, outputs: Mapping[str, Any], balance: Balance
    ) -> dict[str, Tensor]:
        """All terms of a stack, output by output."""
        compute: dict[str, Callable[[], dict[str, Values]]] = {
            "vfl": lambda: self._vfl(stack),
            "focal": lambda: self._focal(stack),
            "boxes": lambda: self._boxes(stack),
            "local": lambda: self._local(stack, outputs, balance),
        }
        by_output: list[dict[str, Tensor]] = [{} for _ in stack.suffixes]
        for loss in self.losses:
            for term, (values, rows) in compute[loss]().items():
                if term not in self.weight_dict:
                    continue
                weighted = (values * self.weight_dict[term]).unbind()
                for row, value in zip(rows or range(len(weighted)), weighted, strict=True):
                    by_output[row][term + stack.suffixes[row]] = value
        return {name: value for terms in by_output for name, value in terms.items()}

    def _vfl(self, stack: Stack) -> dict[str, Values]:
        quality = iou_of(*stack.pairs(stack.own), self.boxes_weight_format == "giou")
        labels = stack.labels[stack.own.targets]
        loss = varifocal_loss(stack.logits, stack.own, labels, quality, self.alpha, self.gamma)
        return {"loss_vfl": (loss / stack.class_scale, None)}

    def _focal(self, stack: Stack) -> dict[str, Values]:
        labels = stack.labels[stack.own.targets]
        loss = focal_loss(stack.logits, stack.own, labels, self.alpha, self.gamma)
        return {"loss_focal": (loss / stack.class_scale, None)}

    def _boxes(self, stack: Stack) -> dict[str, Values]:
        predicted, true = stack.pairs(stack.union)
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
        """Distribution losses of the outputs that have distributions: the decoder's layers."""
        rows = stack.having("pred_corners")
        if not rows:
            return {}
        corners = [edges_of(stack.outputs[row]["pred_corners"], self.reg_max) for row in rows]
        predicted, true = stack.pairs(stack.union)
        iou = _rows(iou_of(predicted, true), rows)
        # The first output's reference boxes and pairs serve all layers.
        queries = stack.union.queries[0]
        references = stack.outputs[rows[0]]["ref_points"].detach().flatten(0, 1)[queries]
        edges = bbox2distance(
            references.float(),
            cxcywh_to_xyxy(true[0]),
            self.reg_max,
            outputs["reg_scale"],
            outputs["up"],
        )
        fgl = fgl_loss(torch.stack([c[queries] for c in corners]), edges, iou)
        terms: dict[str, Values] = {"loss_fgl": (fgl / stack.box_scale, rows)}
        if "loss_ddf" in self.weight_dict and stack.having("teacher_corners"):
            terms["loss_ddf"] = self._ddf(stack, corners, iou, rows, balance)
        return terms

    def _ddf(
        self,
        stack: Stack,
        corners: list[Tensor],
        iou: Tensor,
        rows: list[int],
        balance: Balance,
    ) -> Values:
        """Distillation into the outputs that have a teacher. Who is the teacher learns nothing."""
        taught = stack.having("teacher_corners")
        teacher = stack.outputs[taught[0]]
        students = [
            row
            for row in taught
            if not _same_memory(stack.outputs[row]["pred_corners"], teacher["teacher_corners"])
        ]
        values = dict.fromkeys(taught, iou.new_zeros(()))
        if students:
            places = [rows.index(row) for row in students]
            loss = ddf_loss(
                torch.stack([corners[place] for place in places]),
                edges_of(teacher["teacher_corners"].detach(), self.reg_max),
                teacher["teacher_logits"].detach().flatten(0, 1).float(),
                Matching(*(index[: len(students)] for index in stack.union)),
                _rows(iou, places),
                balance,
            )
            values.update(zip(students, loss.unbind(), strict=True))
        return torch.stack(list(values.values())), taught


def known_matching(meta: Mapping[str, Any], output: LayerOutputs, sizes: list[int]) -> Matching:
    """Pairs of the denoising queries, (1, M).

    Args:
        meta: `dn_meta` of the outputs.
        output: any denoising output.
        sizes: boxes of each image.
    """
    num_queries, device = output["pred_boxes"].shape[1], output["pred_boxes"].device
    queries, targets = denoising_pairs(
        meta["dn_positive_idx"], meta["dn_num_group"], num_queries, sizes
    )
    return Matching(
        queries.to(device, non_blocking=True)[None], targets.to(device, non_blocking=True)[None]
    )


def _decoder_outputs(outputs: Mapping[str, Any]) -> dict[str, LayerOutputs]:
    """The last layer first: its reference boxes define the distribution targets."""
    named: dict[str, LayerOutputs] = {"": outputs}
    named.update((f"_aux_{i}", o) for i, o in enumerate(outputs.get("aux_outputs", ())))
    if "pre_outputs" in outputs:
        named["_pre"] = outputs["pre_outputs"]
    return named


def _encoder_outputs(outputs: Mapping[str, Any]) -> dict[str, LayerOutputs]:
    return {f"_enc_{i}": o for i, o in enumerate(outputs.get("enc_aux_outputs", ()))}


def _denoising_outputs(outputs: Mapping[str, Any]) -> dict[str, LayerOutputs]:
    named = {f"_dn_{i}": o for i, o in enumerate(outputs.get("dn_outputs", ()))}
    if "dn_pre_outputs" in outputs:
        named["_dn_pre"] = outputs["dn_pre_outputs"]
    return named


def _rows(values: Tensor, rows: Sequence[int]) -> Tensor:
    """`values[rows]`, which would send `rows` to the device and wait for it."""
    return torch.stack([values[row] for row in rows])


def _same_memory(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors are the same numbers in the same place. Does not wait for the device."""
    return a.data_ptr() == b.data_ptr() and a.shape == b.shape and a.stride() == b.stride()


def _check_names(argument: str, given: Sequence[str] | Mapping[str, Any], known: Any) -> None:
    for name in given:
        if name not in known:
            raise ConfigError(
                f"DFINECriterion.{argument}: unknown `{name}`{did_you_mean(name, known)}",
                hint=f"known are {', '.join(known)}",
            )
