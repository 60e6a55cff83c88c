"""What a step's outputs hold to be judged, and under which suffix its losses go."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from detrkit.losses.matches import Matching, denoising_pairs
from detrkit.losses.normalizer import Whole
from detrkit.losses.stack import LayerOutputs, Stack


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


def decoder_outputs(outputs: Mapping[str, Any]) -> dict[str, LayerOutputs]:
    """The last layer first: its reference boxes define the distribution targets."""
    named: dict[str, LayerOutputs] = {"": outputs}
    named.update((f"_aux_{i}", o) for i, o in enumerate(outputs.get("aux_outputs", ())))
    if "pre_outputs" in outputs:
        named["_pre"] = outputs["pre_outputs"]
    return named


def encoder_outputs(outputs: Mapping[str, Any]) -> dict[str, LayerOutputs]:
    """What the encoder says about the selected queries."""
    return {f"_enc_{i}": o for i, o in enumerate(outputs.get("enc_aux_outputs", ()))}


def denoising_outputs(outputs: Mapping[str, Any]) -> dict[str, LayerOutputs]:
    """The denoising queries that were made from boxes: without the random negatives."""
    named = _noisy_outputs(outputs, "dn")
    counted = _counted_negatives(outputs)
    if counted is None:
        return named
    count = counted.shape[1]
    return {
        suffix: {key: value[:, : value.shape[1] - count] for key, value in output.items()}
        for suffix, output in named.items()
    }


def negative_stack(outputs: Mapping[str, Any], whole: Whole) -> Stack | None:
    """The random negatives of all denoising outputs, which match nothing; None without them."""
    counted = _counted_negatives(outputs)
    if counted is None:
        return None
    count, nothing = counted.shape[1], Matching.empty(counted.device)
    return Stack.of(
        {
            suffix: {key: output[key][:, -count:] for key in ("pred_logits", "pred_boxes")}
            for suffix, output in _noisy_outputs(outputs, "neg").items()
        },
        true_boxes=torch.zeros((0, 4), device=counted.device),
        labels=nothing.queries[0],
        class_pairs=nothing,
        box_pairs=nothing,
        class_scale=float(whole.images * count),
        box_scale=1.0,
        counted=counted.flatten(),
    )


def _noisy_outputs(outputs: Mapping[str, Any], kind: str) -> dict[str, LayerOutputs]:
    """RT-DETR's authors call them `dn_aux_outputs`, all others `dn_outputs`."""
    layers = outputs.get("dn_outputs", outputs.get("dn_aux_outputs", ()))
    named = {f"_{kind}_{i}": o for i, o in enumerate(layers)}
    if "dn_pre_outputs" in outputs:
        named[f"_{kind}_pre"] = outputs["dn_pre_outputs"]
    return named


def _counted_negatives(outputs: Mapping[str, Any]) -> Tensor | None:
    """(B, R) bool, which of the last R denoising queries count; None where there are none."""
    counted: Tensor | None = outputs.get("dn_meta", {}).get("dn_random")
    return counted
