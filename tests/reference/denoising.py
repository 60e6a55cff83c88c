"""Denoising groups of `parity/denoising/*.json`, made by our code: `results(json_path)`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from detrkit.models.denoising import DenoisingQueries, denoising_queries
from detrkit.structures import Target

DRAWS = 400


def results(json_path: str | Path) -> dict[str, Any]:
    """A stored case in its own structure, computed by our code.

    The arrays of the `.npz` stand beside the entries of the `.json`, under the same names.

    Raises:
        KeyError: the family is not known; lists the known ones.
    """
    path = Path(json_path)
    case = json.loads(path.read_text(encoding="utf-8"))
    if case["family"] not in FAMILIES:
        raise KeyError(f"unknown family {case['family']!r}; known: {', '.join(FAMILIES)}")
    torch.manual_seed(0)
    targets = _targets(path.with_suffix(".npz"), len(case["boxes_per_image"]))
    embed = _embedding(case["num_classes"], case["hidden_dim"])

    def draw(label_noise: float, box_noise: float) -> DenoisingQueries:
        return denoising_queries(
            targets, embed, case["num_queries"], case["num_denoising"], label_noise, box_noise,
            **FAMILIES[case["family"]],
        )  # fmt: skip

    clean = draw(0.0, 0.0)
    noisy = [draw(case["label_noise_ratio"], case["box_noise_scale"]) for _ in range(DRAWS)]
    settings = ("family", "case", "boxes_per_image", "num_denoising", "num_queries", "num_classes",
                "hidden_dim", "label_noise_ratio", "box_noise_scale")  # fmt: skip
    out: dict[str, Any] = {
        **{key: case[key] for key in settings},
        "dn_meta": _meta(clean, case["family"]),
    }
    if clean.allowed is None:
        return out | {
            "query_content_shape": None, "query_box_shape": None, "attn_mask_shape": None,
        }  # fmt: skip
    out |= {
        "query_content_shape": list(clean.content.shape),
        "query_box_shape": list(clean.box_logits.shape),
        "attn_mask_shape": list(clean.allowed.shape),
        "attn_mask_packed": np.packbits((~clean.allowed).numpy(), axis=1),
    }
    return out | _structure(clean, noisy, case["num_classes"])


#: What the families ask of `denoising_queries`, as their decoders do.
FAMILIES: dict[str, dict[str, bool]] = {
    "dfine": {},
    "deim": {},
    "deimv2": {},
    "rtdetrv2": {"mirror_crossed": False, "dummy_pairs": True},
}


def _meta(queries: DenoisingQueries, family: str) -> dict[str, Any] | None:
    """`dn_meta` in lists.

    Where no image has boxes, D-FINE's authors describe no queries and DEIM's leave the
    description out; the losses are the same, and our decoders do as D-FINE's.
    """
    meta = queries.meta
    if meta["dn_num_group"] == 0 and family.startswith("deim"):
        return None
    positive = meta["dn_positive_idx"]
    return {
        "dn_num_group": meta["dn_num_group"],
        "dn_num_split": meta["dn_num_split"],
        "dn_positive_idx": None if positive is None else [p.tolist() for p in positive],
    }


def _structure(
    clean: DenoisingQueries, noisy: list[DenoisingQueries], num_classes: int
) -> dict[str, Any]:
    labels = _labels(clean)  # (B, D)
    real = labels != num_classes
    positive = torch.zeros(labels.shape[1], dtype=torch.bool)
    for index in clean.meta["dn_positive_idx"] or ():
        positive[index] = True
    group = clean.meta["dn_num_split"][0] // clean.meta["dn_num_group"] // 2
    negative = (torch.arange(labels.shape[1]) // group) % 2 == 1
    assert not (positive & negative).any()
    statistics: dict[str, Any] = {"draws": len(noisy)}
    if real.any():
        statistics |= _statistics(clean, noisy, real, negative)
    return {
        "query_class_without_noise": labels.numpy().astype(np.int16),
        "query_is_negative": negative.numpy(),
        "query_is_real": real.numpy(),
        "statistics": statistics,
    }


def _statistics(
    clean: DenoisingQueries, noisy: list[DenoisingQueries], real: Tensor, negative: Tensor
) -> dict[str, Any]:
    boxes = clean.box_logits.sigmoid()
    changed = torch.stack([_labels(n) for n in noisy]) != _labels(clean)
    drawn = torch.stack([n.box_logits.sigmoid() for n in noisy])  # (draws, B, D, 4)
    # boxes that two half sides of shift keep inside the image tell how far corners were moved
    before, after = _corners(boxes), _corners(drawn)
    side = boxes[..., 2:].repeat(1, 1, 2)
    free = real & ((before - side > 0.01) & (before + side < 0.99)).all(-1)
    shift = (after - before).abs() / (side / 2).clamp(min=1e-6)
    return {
        "share_of_labels_that_changed": changed[:, real].float().mean().item(),
        "positive_shift": _range(shift[:, free & ~negative]),
        "negative_shift": _range(shift[:, free & negative]),
        "padding_class_never_changes": not changed[:, ~real].any().item(),
        "padding_box_is_constant": bool((drawn[:, ~real] == boxes[~real]).all()),
        "padding_box_unact": clean.box_logits[~real].mean().item(),
        "boxes_inside_unit_square": bool(((after > -1e-4) & (after < 1 + 1e-4)).all()),
        "box_logit_range": [
            min(n.box_logits.min().item() for n in noisy),
            max(n.box_logits.max().item() for n in noisy),
        ],
    }


def _range(x: Tensor) -> dict[str, float]:
    """Number, mean, and the quantiles next to the ends, which vary less than the ends."""
    low, high = x.flatten().quantile(torch.tensor([0.001, 0.999])).tolist()
    return {"samples": x.numel(), "low": low, "mean": x.mean().item(), "high": high}


def _corners(boxes_cxcywh: Tensor) -> Tensor:
    centre, half = boxes_cxcywh[..., :2], boxes_cxcywh[..., 2:] / 2
    return torch.cat([centre - half, centre + half], dim=-1)


def _embedding(num_classes: int, hidden_dim: int) -> nn.Embedding:
    """An embedding whose first channel is the class, so that classes can be read back."""
    embed = nn.Embedding(num_classes + 1, hidden_dim, padding_idx=num_classes)
    with torch.no_grad():
        embed.weight[:, 0] = torch.arange(num_classes + 1)
    return embed


def _labels(queries: DenoisingQueries) -> Tensor:
    return queries.content[..., 0].detach().long()


def _targets(path: Path, images: int) -> list[Target]:
    stored = np.load(path)
    return [
        Target(
            boxes_cxcywh=torch.from_numpy(stored[f"targets/{i}/boxes"]),
            labels=torch.from_numpy(stored[f"targets/{i}/labels"]),
        )
        for i in range(images)
    ]
