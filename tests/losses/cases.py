"""Random outputs of a detector in training, with the structure and names of the real ones."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from detrkit.losses.criterion import SetCriterion
from detrkit.losses.matcher import HungarianMatcher
from detrkit.registry import MODULES
from detrkit.structures import Target

COSTS = {"cost_class": 2.0, "cost_bbox": 5.0, "cost_giou": 2.0}
WEIGHTS = {
    "loss_vfl": 1.0, "loss_mal": 1.0, "loss_bbox": 5.0, "loss_giou": 2.0, "loss_fgl": 0.15,
    "loss_ddf": 1.5,
}  # fmt: skip

#: Name of the criterion and what its family's configurations set.
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "dfine": ("DFINECriterion", {"losses": ["vfl", "boxes", "local"], "reg_max": 8}),
    "deim": (
        "DEIMCriterion",
        {"losses": ["mal", "boxes", "local"], "gamma": 1.5, "reg_max": 8},
    ),
    "deim_own": (
        "DEIMCriterion",
        {"losses": ["mal", "boxes"], "gamma": 1.5, "use_uni_set": False},
    ),
    "rtdetrv2": ("RTDETRCriterionv2", {"losses": ["vfl", "boxes"]}),
    "rtdetr": ("RTDETRCriterion", {"losses": ["vfl", "boxes"]}),
}


def make_matcher(**options: Any) -> HungarianMatcher:
    """The matcher of all configurations."""
    return HungarianMatcher(**{"weight_dict": COSTS, "use_focal_loss": True, **options})


def make_criterion(family: str = "dfine", num_classes: int = 5, **options: Any) -> SetCriterion:
    """The criterion of a family's configurations."""
    name, own = FAMILIES[family]
    settings = {
        "matcher": make_matcher(),
        "weight_dict": WEIGHTS,
        "alpha": 0.75,
        "num_classes": num_classes,
    }
    criterion: SetCriterion = MODULES.create(name, **{**settings, **own, **options})
    return criterion


def make_boxes(*shape: int, generator: torch.Generator) -> Tensor:
    """(…, 4) boxes_cxcywh inside the image."""
    centre = torch.rand(*shape, 2, generator=generator) * 0.6 + 0.2
    return torch.cat((centre, torch.rand(*shape, 2, generator=generator) * 0.3 + 0.05), dim=-1)


def make_targets(sizes: Sequence[int], num_classes: int = 5, seed: int = 0) -> list[Target]:
    """One target per entry of `sizes`, with that many boxes."""
    generator = torch.Generator().manual_seed(seed)
    return [
        Target(
            make_boxes(size, generator=generator),
            torch.randint(0, num_classes, (size,), generator=generator),
            image_id=image,
        )
        for image, size in enumerate(sizes)
    ]


def make_outputs(
    sizes: Sequence[int],
    *,
    queries: int = 12,
    num_classes: int = 5,
    layers: int = 3,
    reg_max: int = 8,
    groups: int = 2,
    negatives: int = 0,
    seed: int = 1,
) -> dict[str, Any]:
    """What D-FINE returns in training for images with `sizes` boxes; its leaves want gradients.

    Of the random negatives the first of each image does not count.
    """
    generator = torch.Generator().manual_seed(seed)
    batch, most = len(sizes), max(sizes, default=0)
    groups = groups if most else 0
    denoising = 2 * most * groups + negatives

    def head(count: int) -> dict[str, Tensor]:
        logits = torch.randn(batch, count, num_classes, generator=generator) - 2
        boxes = make_boxes(batch, count, generator=generator)
        return {"pred_logits": logits.requires_grad_(), "pred_boxes": boxes.requires_grad_()}

    def stack(count: int) -> list[dict[str, Tensor]]:
        reference = make_boxes(batch, count, generator=generator)
        made = []
        for _ in range(layers):
            corners = torch.randn(batch, count, 4 * (reg_max + 1), generator=generator)
            made.append(
                {**head(count), "pred_corners": corners.requires_grad_(), "ref_points": reference}
            )
        return made

    def teach(students: list[dict[str, Tensor]], teacher: dict[str, Tensor]) -> None:
        corners, logits = teacher["pred_corners"], teacher["pred_logits"]
        for student in students:
            student.update(teacher_corners=corners, teacher_logits=logits)

    decoder, noisy = stack(queries), stack(denoising)
    last = dict(decoder.pop())
    teach(decoder, last)
    teach(noisy, noisy[-1])
    positive = tuple(
        (torch.arange(groups)[:, None] * 2 * most + torch.arange(size)).flatten() for size in sizes
    )
    return {
        **last,
        "up": torch.tensor([0.5]),
        "reg_scale": torch.tensor([4.0]),
        "aux_outputs": decoder,
        "pre_outputs": head(queries),
        "enc_aux_outputs": [head(queries)],
        "enc_meta": {"class_agnostic": False},
        "dn_outputs": noisy,
        "dn_pre_outputs": head(denoising),
        "dn_meta": {
            "dn_positive_idx": positive if most else None,
            "dn_num_group": groups,
            "dn_num_split": [denoising, queries],
            **({"dn_random": torch.arange(negatives).expand(batch, -1) > 0} if negatives else {}),
        },
    }


def make_rtdetr_outputs(sizes: Sequence[int], **options: Any) -> dict[str, Any]:
    """What RT-DETRv2 returns: no distributions, no earlier head, a name of its own for denoising.

    A batch without boxes has one group with one positive and one negative query that belong to
    no box.
    """
    outputs = make_outputs(sizes, **options)
    denoising = outputs.pop("dn_outputs")
    if not max(sizes, default=0):
        padding = make_outputs([1] * len(sizes), groups=1)["dn_outputs"]
        denoising = padding[: len(denoising)]
        none = tuple(torch.zeros(0, dtype=torch.int64) for _ in sizes)
        outputs["dn_meta"] = {"dn_positive_idx": none, "dn_num_group": 1}
    outputs["dn_aux_outputs"] = denoising
    for key in ("pre_outputs", "dn_pre_outputs", "up", "reg_scale"):
        del outputs[key]
    for layer in [outputs, *outputs["aux_outputs"], *denoising]:
        for key in ("pred_corners", "ref_points", "teacher_corners", "teacher_logits"):
            layer.pop(key, None)
    return outputs


#: What each family's decoder returns.
OUTPUTS = {
    family: make_outputs if family in ("dfine", "deim") else make_rtdetr_outputs
    for family in FAMILIES
}


def leaves(outputs: dict[str, Any]) -> list[Tensor]:
    """All predictions of all outputs."""
    layers = [outputs]
    for key in ("pre_outputs", "dn_pre_outputs"):
        layers += [outputs[key]] if key in outputs else []
    for key in ("aux_outputs", "enc_aux_outputs", "dn_outputs", "dn_aux_outputs"):
        layers += outputs.get(key, [])
    keys = ("pred_logits", "pred_boxes", "pred_corners")
    return [layer[key] for layer in layers for key in keys if key in layer]
