"""State dicts by the authors' tensor names and by those of Hugging Face transformers, both ways.

Some tensors are packed differently: the authors keep the projections of queries, keys and values
(and the two halves of a SwiGLU) in one tensor, transformers in several.

Files of transformers before version 5 (most of those on the hub) have a few older names; they
are read as well. What is left out: counters of batches, anchors and masks (computed from the
image size), copies of the heads inside `model.decoder` (the same tensors as those outside).
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor

from detrkit.engine.conversion.rules import ALIASES, HFModel, rules
from detrkit.errors import WeightsError

#: Not weights: computed, or bookkeeping.
_SKIPPED = re.compile(
    r"(^|\.)(num_batches_tracked|anchors|valid_mask|num_points_scale|n_points_scale|periods|bias_mask|project)$"
)
#: Names of transformers 4 -> 5.
_OLD_NAMES = (
    (re.compile(r"\.out_proj\."), ".o_proj."),
    (re.compile(r"^model\.encoder\.encoder\.(\d+)\.layers\."), r"model.encoder.aifi.\1.layers."),
)
_OLD_FFN = re.compile(r"(\.layers\.\d+)\.fc([12])\.")
#: Heads inside the decoder, the same tensors as those outside.
_TIED = re.compile(r"^model\.decoder\.(class_embed|bbox_embed)\.")


def to_hf(state: Mapping[str, Tensor], model: HFModel) -> dict[str, Tensor]:
    """The authors' names -> transformers'.

    Args:
        state: a detector's state dict.
        model: the class that shall load it.

    Raises:
        WeightsError: a tensor has no name there; lists them.
    """
    lite = any(name.startswith("encoder.bi_fusion.") for name in state)
    result: dict[str, Tensor] = {}
    unknown = []
    for name, value in state.items():
        if _SKIPPED.search(name) or name in ALIASES.values():
            continue
        names = next(filter(None, (rule.to_theirs(name) for rule in rules(model, lite))), None)
        if names is None:
            unknown.append(name)
            continue
        if name.endswith((".up", ".reg_scale")):
            value = value.reshape(1).to(torch.float32)  # the authors' may be an integer
        parts = value.chunk(len(names)) if len(names) > 1 else (value,)
        result.update(zip(names, (part.clone() for part in parts), strict=True))
    if unknown:
        raise WeightsError(
            f"transformers' `{model}` has no place for {len(unknown)} tensors: "
            + ", ".join(unknown[:4])
            + (", …" if len(unknown) > 4 else "")
        )
    return result


def from_hf(
    state: Mapping[str, Tensor], model: HFModel
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """transformers' names, of any version, -> the authors'.

    Args:
        state: of `model.safetensors`.
        model: the class that wrote it, its `model_type`.

    Returns:
        The tensors by the authors' names, and those that the authors' models lack.

    Raises:
        WeightsError: a part of a packed tensor is missing.
    """
    lite = any("bi_fusion_conv" in name for name in state)
    parts: dict[str, dict[int, Tensor]] = {}
    wanted: dict[str, int] = {}
    unknown: dict[str, Tensor] = {}
    for original, value in state.items():
        name = current_name(original, model)
        if _SKIPPED.search(name):
            continue
        tied = _TIED.search(name)
        if tied:
            name = name.removeprefix("model.decoder.")
        for rule in rules(model, lite):
            found = rule.to_ours(name)
            if found is not None:
                ours, part = found
                parts.setdefault(ours, {}).setdefault(part, value)
                wanted[ours] = len(rule.theirs)
                break
        else:
            unknown[original] = value
    broken = [name for name, found in parts.items() if len(found) != wanted[name]]
    if broken:
        raise WeightsError(
            f"parts of {', '.join(broken[:4])} are missing",
            hint="the file is incomplete; download it again",
        )
    result = {}
    for name, pieces in parts.items():
        ordered = [pieces[i] for i in range(len(pieces))]
        result[name] = torch.cat(ordered) if len(ordered) > 1 else ordered[0]
        if name in ALIASES:
            result[ALIASES[name]] = result[name]
    return result, unknown


def current_name(name: str, model: HFModel) -> str:
    """The name of a tensor in transformers 5, whichever version wrote it."""
    for pattern, replacement in _OLD_NAMES:
        name = pattern.sub(replacement, name)
    if model == "rt_detr_v2":
        return _OLD_FFN.sub(r"\1.mlp.fc\2.", name)
    return _OLD_FFN.sub(lambda m: f"{m[1]}.mlp.layers.{int(m[2]) - 1}.", name)
