"""From the predictions of all queries and layers to the outputs that the criterion reads."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

from torch import Tensor

from detrkit.models.decoders.two_stage import Queries
from detrkit.models.outputs import LayerOutputs, Outputs


def training_outputs(
    layers: Sequence[LayerOutputs],
    queries: Queries,
    class_agnostic: bool,
    aux_loss: bool = True,
    first: LayerOutputs | None = None,
) -> Outputs:
    """Separates ordinary and denoising queries, and gives every layer its teacher.

    Args:
        layers: predictions of all layers for D denoising and Q ordinary queries.
        queries: what the layers started from.
        class_agnostic: whether the encoder scores "object" only.
        aux_loss: whether all layers are returned, not only the last.
        first: predictions before refinement, for decoders that refine distributions.

    Returns:
        Outputs, without the constants of the weighting function.
    """
    noisy: Sequence[LayerOutputs] = ()
    noisy_first: LayerOutputs = {}
    if queries.noisy is not None:
        sizes = queries.noisy.meta["dn_num_split"]
        pairs = [_split(layer, sizes) for layer in layers]
        noisy, layers = [n for n, _ in pairs], [o for _, o in pairs]
        if first is not None:
            noisy_first, first = _split(first, sizes)
    out = cast(Outputs, {**layers[-1]})
    if not aux_loss:
        return out
    out["aux_outputs"] = _with_teacher(layers[:-1], layers[-1])
    out["enc_aux_outputs"] = [queries.encoder]
    if first is not None:
        out["pre_outputs"] = first
    out["enc_meta"] = {"class_agnostic": class_agnostic}
    if queries.noisy is not None:
        out["dn_outputs"] = _with_teacher(noisy, noisy[-1])
        if first is not None:
            out["dn_pre_outputs"] = noisy_first
        out["dn_meta"] = queries.noisy.meta
    return out


def _split(layer: LayerOutputs, sizes: list[int]) -> tuple[LayerOutputs, LayerOutputs]:
    """Separates the denoising queries from the ordinary ones."""
    parts = {key: cast(Tensor, value).split(sizes, dim=1) for key, value in layer.items()}
    first, second = ({key: part[i] for key, part in parts.items()} for i in (0, 1))
    return cast(LayerOutputs, first), cast(LayerOutputs, second)


def _with_teacher(layers: Sequence[LayerOutputs], last: LayerOutputs) -> list[LayerOutputs]:
    """The layers; those with distributions get the last one's predictions to learn from."""
    if "pred_corners" not in last:
        return list(layers)
    return [
        {**layer, "teacher_corners": last["pred_corners"], "teacher_logits": last["pred_logits"]}
        for layer in layers
    ]
