"""Names of what is logged: the same in log.jsonl, results.csv, TensorBoard, W&B and MLflow.

    train/loss                    sum of all terms
    train/loss_vfl, …             terms of the last decoder layer
    train_aux/loss_vfl_0, …       of the layers before it
    train_pre/loss_vfl, …         of the first boxes, before refinement
    train_enc/loss_vfl_0, …       of the encoder's proposals
    train_dn/loss_vfl_0, …        of denoising queries
    train_neg/loss_vfl_0, …       of random negatives among them
    train/distill                 sum of all terms of a distillation; in train/loss as well
    train_distill/pkd_encoder, …  of feature maps, by loss and stage
    train_distill/class, bbox, …  of paired queries; probe_class, … of shared ones
    train/distill_gradient_ratio  norm of their gradient over that of the other losses
    train/grad_norm               before clipping (of single steps; not in the table of epochs)
    train/ema_decay               of the averaged weights
    train/skipped_steps           of the epoch: dropped because they were not finite
    lr                            the highest rate of all groups
    lr/backbone, …                of each parameter group, where there are several
    val/AP, val/AP50, val/AP75    COCO's averages over IoU 0.50-0.95, at 0.50 and at 0.75
    val/APs, val/APm, val/APl     of small, medium and large boxes
    val/AR1, val/AR10, val/AR100  recall with at most so many detections per image
    val/ARs, val/ARm, val/ARl     recall of small, medium and large boxes
    val/precision, val/recall, val/F1, val/mAP50, val/mAP75, val/mAP50-95
                                  with `yolo_metrics`: at IoU 0.5 and the best confidence, and AP
    val/oa_fppi, val/oa_clean_rate, val/oa_max_score, val/oa_mean_max_score
                                  false detections on `eval_negatives` (metrics.over_activation)
    resources/train_seconds, resources/eval_seconds, resources/images_per_second
    resources/wait_seconds        of the training, without work because a batch was not there
    resources/data_wait           the same as a share, 0 to 1
    resources/memory_gib          peak of the device's memory

The table of epochs also has `epoch` (from 0), `stage`, `step` and `best`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from detrkit.distillation.names import PREFIX

LOSS = "train/loss"
LR = "lr"
GRAD_NORM = "train/grad_norm"
EMA_DECAY = "train/ema_decay"
TRAIN_SECONDS = "resources/train_seconds"
WAIT_SECONDS = "resources/wait_seconds"
DATA_WAIT = "resources/data_wait"
EVAL_SECONDS = "resources/eval_seconds"
IMAGES_PER_SECOND = "resources/images_per_second"
SKIPPED_STEPS = "train/skipped_steps"
DISTILL = "train/distill"
DISTILL_GRADIENT_RATIO = "train/distill_gradient_ratio"
MEMORY_GIB = "resources/memory_gib"

#: Not logged: `LOSS` without `DISTILL`.
DETECTION = "train/detection"
#: What the names of a distillation's terms begin with.
DISTILL_TERMS = "train_distill/"
#: Beginnings of names that have one value per epoch; the others have one per step.
OF_EPOCHS = ("val/", "resources/", "epoch", SKIPPED_STEPS, DISTILL_GRADIENT_RATIO)

_SIDE_LOSS = re.compile(r"(?P<term>.+?)_(?P<part>aux|dn|enc|neg|pre)(?:_(?P<layer>\w+))?")


def loss_name(term: str) -> str:
    """ "loss_vfl" -> "train/loss_vfl", "loss_vfl_dn_2" -> "train_dn/loss_vfl_2".

    "distill_pkd_encoder" -> "train_distill/pkd_encoder".
    """
    if term.startswith(PREFIX):
        return f"{DISTILL_TERMS}{term.removeprefix(PREFIX)}"
    side = _SIDE_LOSS.fullmatch(term)
    if side is None:
        return f"train/{term}"
    layer = f"_{side['layer']}" if side["layer"] else ""
    return f"train_{side['part']}/{side['term']}{layer}"


def value(row: Mapping[str, Any], name: str) -> Any:
    """A number of an epoch's row; None where it is missing."""
    if name != DETECTION:
        return row.get(name)
    loss, distilled = row.get(LOSS), row.get(DISTILL, 0.0)
    numbers = isinstance(loss, int | float) and isinstance(distilled, int | float)
    return loss - distilled if numbers else None


def metric_name(metric: str) -> str:
    """ "AP50" -> "val/AP50"."""
    return f"val/{metric}"


def lr_names(lrs: Mapping[str, float]) -> dict[str, float]:
    """{"backbone": 1e-5} -> {"lr/backbone": 1e-5}."""
    return {f"{LR}/{group}": lr for group, lr in lrs.items()}
