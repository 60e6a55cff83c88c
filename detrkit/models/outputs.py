"""What a detector returns, key by key.

Shape legend: B images, Q queries, D denoising queries, K classes, R = reg_max bins.

Every box is `boxes_cxcywh`, 0–1. The keys are those of D-FINE's authors, for all decoders. Those
of RT-DETR predict boxes directly: they return no `up`, `reg_scale`, `pre_outputs` and
`dn_pre_outputs`, and their layers no `pred_corners`, `ref_points` and teacher.
"""

from __future__ import annotations

from typing import TypedDict

from torch import Tensor


class LayerOutputs(TypedDict, total=False):
    """Predictions of one decoder layer, of the encoder, or of the head before refinement.

    Attributes:
        pred_logits: (B, Q, K).
        pred_boxes: (B, Q, 4).
        pred_corners: (B, Q, 4·(R+1)) logits of the edges' distance distributions: left, top,
            right, bottom. Absent where boxes are predicted directly.
        ref_points: (B, Q, 4) boxes that the distances start from; without gradient.
        teacher_corners: (B, Q, 4·(R+1)) `pred_corners` of the last layer (self-distillation).
        teacher_logits: (B, Q, K) `pred_logits` of the last layer.
    """

    pred_logits: Tensor
    pred_boxes: Tensor
    pred_corners: Tensor
    ref_points: Tensor
    teacher_corners: Tensor
    teacher_logits: Tensor


class _DenoisingGroups(TypedDict):
    dn_positive_idx: tuple[Tensor, ...] | None
    dn_num_group: int
    dn_num_split: list[int]


class DenoisingMeta(_DenoisingGroups, total=False):
    """How the denoising queries are arranged.

    Attributes:
        dn_positive_idx: for each image the queries, among D, that reconstruct a box: group by
            group, box by box, (groups · boxes of the image,) int64. None if no image has boxes.
        dn_num_group: number of groups; 0 if no image has boxes.
        dn_num_split: [D, Q].
        dn_random: (B, R) bool, which of the last R of the D queries, random negatives, count.
            Absent without them.
    """

    dn_random: Tensor


class EncoderMeta(TypedDict):
    """How queries were selected.

    Attributes:
        class_agnostic: whether the encoder scores "object" only, so that K is 1 there.
    """

    class_agnostic: bool


class Outputs(LayerOutputs, total=False):
    """Everything a detector returns. In evaluation `pred_logits` and `pred_boxes` only.

    Attributes:
        up: (1,) upper bound of the weighting function, see `ops.distribution`.
        reg_scale: (1,) its curvature.
        aux_outputs: the decoder layers before the last.
        enc_aux_outputs: what the encoder says about the selected queries; the first RT-DETR lists
            it as one more of `aux_outputs`.
        pre_outputs: the first layer's classes and the boxes before refinement.
        dn_outputs: all decoder layers, denoising queries (D instead of Q); RT-DETRv2's authors
            call it `dn_aux_outputs`.
        dn_pre_outputs: `pre_outputs` of the denoising queries.
        enc_meta: how queries were selected.
        dn_meta: how denoising queries are arranged. Absent without denoising.
    """

    up: Tensor
    reg_scale: Tensor
    aux_outputs: list[LayerOutputs]
    enc_aux_outputs: list[LayerOutputs]
    pre_outputs: LayerOutputs
    dn_outputs: list[LayerOutputs]
    dn_pre_outputs: LayerOutputs
    enc_meta: EncoderMeta
    dn_meta: DenoisingMeta
