"""The criteria under their authors' names: what each family's losses have of their own.

| name | class loss | box pairs | own |
|---|---|---|---|
| `RTDETRCriterion`, `RTDETRCriterionv2` | VFL | each output's own | matches may be shared |
| `DFINECriterion` | VFL | union | FGL, DDF; a teacher reports a zero DDF |
| `DEIMCriterion` (DEIM, DEIMv2) | MAL | `use_uni_set` | FGL, DDF; a teacher reports none |

A loss that is not finite stays so, for the trainer to see; the code of D-FINE and DEIM counts it
as zero.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import ClassVar

from torch import nn

from detrkit.losses.criterion import SetCriterion
from detrkit.registry import MODULES

logger = logging.getLogger("detrkit")


@MODULES.register(
    inject=("matcher",), share=("num_classes",), family="criterion", paper="arXiv:2407.17140"
)
class RTDETRCriterionv2(SetCriterion):
    """RT-DETRv2, Lv et al., arXiv:2407.17140: every output with its own matches.

    Args:
        matcher: `matcher(outputs, targets, epoch) -> list[Pairs]`.
        weight_dict: weight of each term, see `SetCriterion`.
        losses: any of "vfl", "focal", "mal", "boxes".
        alpha: of the varifocal and the focal loss.
        gamma: of the class loss.
        num_classes: K.
        boxes_weight_format: "iou" or "giou" weighs the GIoU loss and is the target score of the
            varifocal loss; none: unweighted, and the score learns the IoU.
        share_matched_indices: match the last layer and use its pairs for all decoder layers.
        bg_loss_weight: weight of the class loss of queries that are matched to nothing.
    """

    def __init__(
        self,
        matcher: nn.Module,
        weight_dict: Mapping[str, float],
        losses: Sequence[str],
        alpha: float = 0.2,
        gamma: float = 2.0,
        num_classes: int = 80,
        boxes_weight_format: str | None = None,
        share_matched_indices: bool = False,
        bg_loss_weight: float = 1.0,
    ) -> None:
        super().__init__(
            matcher,
            weight_dict,
            losses,
            alpha=alpha,
            gamma=gamma,
            num_classes=num_classes,
            boxes_weight_format=boxes_weight_format,
            share_decoder_matches=share_matched_indices,
            bg_loss_weight=bg_loss_weight,
        )


@MODULES.register(
    inject=("matcher",), share=("num_classes",), family="criterion", paper="arXiv:2304.08069"
)
class RTDETRCriterion(SetCriterion):
    """RT-DETR, Zhao et al., CVPR 2024, arXiv:2304.08069. Its encoder is the last of `aux_outputs`.

    Args:
        matcher: `matcher(outputs, targets, epoch) -> list[Pairs]`.
        weight_dict: weight of each term, see `SetCriterion`.
        losses: any of "vfl", "focal", "mal", "boxes".
        alpha: of the varifocal and the focal loss.
        gamma: of the class loss.
        eos_coef: no effect; it belongs to a softmax class loss that no configuration uses.
        num_classes: K.
        bg_loss_weight: weight of the class loss of queries that are matched to nothing.
    """

    def __init__(
        self,
        matcher: nn.Module,
        weight_dict: Mapping[str, float],
        losses: Sequence[str],
        alpha: float = 0.2,
        gamma: float = 2.0,
        eos_coef: float = 1e-4,
        num_classes: int = 80,
        bg_loss_weight: float = 1.0,
    ) -> None:
        super().__init__(
            matcher,
            weight_dict,
            losses,
            alpha=alpha,
            gamma=gamma,
            num_classes=num_classes,
            bg_loss_weight=bg_loss_weight,
        )


@MODULES.register(
    inject=("matcher",), share=("num_classes",), family="criterion", paper="arXiv:2410.13842"
)
class DFINECriterion(SetCriterion):
    """D-FINE, Peng et al., ICLR 2025, arXiv:2410.13842: one union of matches, distributions.

    Args:
        matcher: `matcher(outputs, targets, epoch) -> list[Pairs]`.
        weight_dict: weight of each term, see `SetCriterion`.
        losses: any of "vfl", "focal", "mal", "boxes", "local".
        alpha: of the varifocal and the focal loss.
        gamma: of the class loss.
        num_classes: K.
        reg_max: R, bins of the distributions.
        boxes_weight_format: "iou" or "giou" weighs the GIoU loss and is the target score of the
            varifocal loss; none: unweighted, and the score learns the IoU.
        share_matched_indices: no effect, as in the authors' code.
        bg_loss_weight: weight of the class loss of queries that are matched to nothing.
    """

    own_teacher: ClassVar[bool] = True

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
        bg_loss_weight: float = 1.0,
    ) -> None:
        super().__init__(
            matcher,
            weight_dict,
            losses,
            alpha=alpha,
            gamma=gamma,
            num_classes=num_classes,
            reg_max=reg_max,
            boxes_weight_format=boxes_weight_format,
            use_uni_set=True,
            bg_loss_weight=bg_loss_weight,
        )


@MODULES.register(
    inject=("matcher",), share=("num_classes",), family="criterion", paper="arXiv:2412.04234"
)
class DEIMCriterion(SetCriterion):
    """DEIM, Huang et al., CVPR 2025, arXiv:2412.04234, and DEIMv2, arXiv:2509.20787.

    The two differ in the matcher alone: DEIMv2's changes its cost at an epoch. It judges the
    outputs of the D-FINE, the RT-DETRv2 and the DEIM decoder.

    Args:
        matcher: `matcher(outputs, targets, epoch) -> list[Pairs]`.
        weight_dict: weight of each term, see `SetCriterion`.
        losses: any of "vfl", "focal", "mal", "boxes", "local".
        alpha: of the varifocal and the focal loss; the matchability loss does not read it.
        gamma: of the class loss.
        num_classes: K.
        reg_max: R, bins of the distributions.
        boxes_weight_format: "iou" or "giou" weighs the GIoU loss and is the quality that the
            class loss reads; none: unweighted, the quality is the IoU.
        share_matched_indices: no effect, as in the authors' code.
        mal_alpha: weight of what is not matched in the matchability loss; none: 1.
        use_uni_set: box and local losses use the union of all matches; else each output its own.
            The distributions of all layers then learn the targets of the last layer's pairs, as
            in the authors' code: their configurations do without "local" there.
        bg_loss_weight: weight of the class loss of queries that are matched to nothing.
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
        mal_alpha: float | None = None,
        use_uni_set: bool = True,
        bg_loss_weight: float = 1.0,
    ) -> None:
        super().__init__(
            matcher,
            weight_dict,
            losses,
            alpha=alpha,
            gamma=gamma,
            num_classes=num_classes,
            reg_max=reg_max,
            boxes_weight_format=boxes_weight_format,
            mal_alpha=1.0 if mal_alpha is None else mal_alpha,
            use_uni_set=use_uni_set,
            bg_loss_weight=bg_loss_weight,
        )
        if "local" in losses and not use_uni_set:
            logger.warning(
                "DEIMCriterion: with `use_uni_set: false` the loss `local` trains all layers "
                "with the targets of the last layer's matches, which are not their own; "
                "remove `local` from `losses`, or use the union"
            )
