"""From the refinement of all queries to the outputs that the criterion reads."""

from __future__ import annotations

from typing import cast

from torch import Tensor

from detrkit.models.decoders.fdr import Refinement
from detrkit.models.denoising import DenoisingQueries
from detrkit.models.outputs import LayerOutputs, Outputs


def training_outputs(
    refined: Refinement,
    encoder: LayerOutputs,
    noisy: DenoisingQueries | None,
    class_agnostic: bool,
    aux_loss: bool = True,
) -> Outputs:
    """Separates ordinary and denoising queries, and gives every layer its teacher.

    Args:
        refined: predictions of all layers for D denoising and Q ordinary queries.
        encoder: what the encoder says about the selected queries.
        noisy: the denoising queries, if there are any.
        class_agnostic: whether the encoder scores "object" only.
        aux_loss: whether all layers are returned, not only the last.

    Returns:
        Outputs, without the constants of the weighting function.
    """
    assert refined.first_logits is not None
    first: LayerOutputs = {
        "pred_logits": refined.first_logits,
        "pred_boxes": refined.first_boxes,
    }
    layers: list[LayerOutputs] = [
        {
            "pred_logits": logits,
            "pred_boxes": boxes,
            "pred_corners": corners,
            "ref_points": refined.reference,
        }
        for logits, boxes, corners in zip(
            refined.logits, refined.boxes, refined.corners, strict=True
        )
    ]
    noisy_first: LayerOutputs = {}
    noisy_layers: list[LayerOutputs] = []
    if noisy is not None:
        sizes = noisy.meta["dn_num_split"]
        noisy_first, first = _split(first, sizes)
        pairs = [_split(layer, sizes) for layer in layers]
        noisy_layers, layers = [n for n, _ in pairs], [o for _, o in pairs]
    out = cast(Outputs, {**layers[-1]})
    if not aux_loss:
        return out
    out["aux_outputs"] = _with_teacher(layers[:-1], layers[-1])
    out["enc_aux_outputs"] = [encoder]
    out["pre_outputs"] = first
    out["enc_meta"] = {"class_agnostic": class_agnostic}
    if noisy is not None:
        out["dn_outputs"] = _with_teacher(noisy_layers, noisy_layers[-1])
        out["dn_pre_outputs"] = noisy_first
        out["dn_meta"] = noisy.meta
    return out


def _split(layer: LayerOutputs, sizes: list[int]) -> tuple[LayerOutputs, LayerOutputs]:
    """Separates the denoising queries from the ordinary ones."""
    parts = {key: cast(Tensor, value).split(sizes, dim=1) for key, value in layer.items()}
    first, second = ({key: part[i] for key, part in parts.items()} for i in (0, 1))
    return cast(LayerOutputs, first), cast(LayerOutputs, second)


def _with_teacher(layers: list[LayerOutputs], last: LayerOutputs) -> list[LayerOutputs]:
    """The layers, each with the last one's predictions to learn from."""
    return [
        {**layer, "teacher_corners": last["pred_corners"], "teacher_logits": last["pred_logits"]}
        for layer in layers
    ]
