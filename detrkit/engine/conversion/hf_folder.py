"""Folders of Hugging Face transformers: `config.json`, `model.safetensors`, preprocessor."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from torch import Tensor

from detrkit.engine.checkpoint import Checkpoint
from detrkit.engine.conversion.names import from_hf
from detrkit.engine.conversion.rules import HFModel
from detrkit.engine.conversion.safetensors import looks_like_hf, read_tensors
from detrkit.engine.known_classes import coco_classes
from detrkit.errors import WeightsError
from detrkit.structures import ClassMap, ImageSpec

log = logging.getLogger("detrkit")

WEIGHTS, CONFIG, PREPROCESSOR = "model.safetensors", "config.json", "preprocessor_config.json"

#: `model_type`s that are read.
MODELS: tuple[HFModel, ...] = ("d_fine", "rt_detr_v2", "deimv2")

#: Why a DEIMv2 of transformers is not the authors'.
DEIMV2_DIFFERS = (
    "transformers' Deimv2 is not the authors' model: it puts a linear layer and a norm "
    "(enc_output) before the encoder's heads, uses ReLU instead of SiLU in the box heads and the "
    "quality head, and recomputes the position embedding of the queries in every layer"
)


def is_hf_folder(path: Path) -> bool:
    """Whether it is a folder with a model in it."""
    return path.is_dir() and (path / WEIGHTS).is_file()


def read_hf_folder(path: Path) -> Checkpoint:
    """A checkpoint, by the authors' names, from a folder.

    Folders of the authors' own (with their names in `model.safetensors`) are read as well.

    Raises:
        WeightsError: damaged, of another model, or without an exact counterpart.
    """
    tensors, _ = read_tensors(path / WEIGHTS)
    if not looks_like_hf(tensors):
        return Checkpoint(model=tensors, path=path)
    checkpoint = from_hf_state(tensors, read_json(path / CONFIG), path)
    checkpoint.image_spec = image_spec_from(read_json(path / PREPROCESSOR))
    return checkpoint


def from_hf_state(
    tensors: Mapping[str, Tensor], config: Mapping[str, Any], path: Path, *, lossy: bool = False
) -> Checkpoint:
    """A checkpoint, by the authors' names, from tensors by transformers' names.

    Args:
        tensors: of `model.safetensors`.
        config: of `config.json`; may be empty.
        path: where both are from.
        lossy: leave out what the authors' model lacks, instead of refusing.

    Raises:
        WeightsError: another model, or without an exact counterpart.
    """
    model = _model_type(tensors, config, path)
    if model == "deimv2" and not lossy:
        raise WeightsError(
            f"{path}: {DEIMV2_DIFFERS}",
            hint="weights that were converted from the authors' lose nothing: "
            f"detrkit weights convert {path} --to authors --lossy -o FILE.pth; "
            "those trained in transformers have no counterpart",
        )
    state, unknown = from_hf(tensors, model)
    if unknown and not lossy:
        raise WeightsError(
            f"{path}: the authors' model has no place for {', '.join(list(unknown)[:4])}",
            hint="--lossy leaves them out",
        )
    if unknown:
        log.warning("%s: left out, the authors' model has no place for them: %s", path,
                    ", ".join(unknown))  # fmt: skip
    checkpoint = Checkpoint(model=state, class_map=class_map_from(config), path=path)
    name = _recognised(state, model, config)
    if name is not None:
        checkpoint.config, checkpoint.config_name = _config_tree(name, checkpoint), name
    return checkpoint


def _model_type(tensors: Mapping[str, Tensor], config: Mapping[str, Any], path: Path) -> HFModel:
    kind = config.get("model_type")
    if kind is None:
        if any(name.startswith("model.conv_encoder.") for name in tensors):
            kind = "deimv2"
        elif any(name.startswith("model.decoder.lqe_layers.") for name in tensors):
            kind = "d_fine"
        else:
            kind = "rt_detr_v2"
    if kind not in MODELS:
        raise WeightsError(f"{path} holds a `{kind}`, not one of {', '.join(MODELS)}")
    return cast("HFModel", kind)


def _recognised(
    state: Mapping[str, Tensor], model: HFModel, config: Mapping[str, Any]
) -> str | None:
    """The config of the catalogue that is this model, if there is just one."""
    from detrkit.config import load_config
    from detrkit.engine.conversion.hf_config import hf_config
    from detrkit.engine.recognise import candidates

    fitting = []
    for candidate in candidates(state):
        try:
            kind, wanted = hf_config(load_config(candidate.name))
        except WeightsError:
            continue
        same = all(
            _equal(config[key], value)
            for key, value in wanted.items()
            if key in config and key in _DISTINGUISHING
        )
        if kind == model and same:
            fitting.append(candidate.name)
    return fitting[0] if len(fitting) == 1 else None


#: Entries of `config.json` that change the answer without changing the tensors.
_DISTINGUISHING = (
    "activation_function",
    "decoder_activation_function",
    "encoder_activation_function",
    "decoder_method",
    "num_queries",
    "encode_proj_layers",
)


def _equal(a: Any, b: Any) -> bool:
    return list(a) == list(b) if isinstance(a, list | tuple) else bool(a == b)


def _config_tree(name: str, checkpoint: Checkpoint) -> dict[str, Any]:
    from detrkit.config import load_config
    from detrkit.engine.state_names import class_count

    classes = class_count(checkpoint.weights)
    return load_config(name).with_values({"num_classes": classes}, origin="weights").tree


def class_map_from(config: Mapping[str, Any]) -> ClassMap | None:
    """The classes of `id2label`; COCO's with their category ids."""
    labels = config.get("id2label")
    if not isinstance(labels, Mapping) or not labels:
        return None
    names = tuple(str(labels[key]) for key in sorted(labels, key=int))
    coco = coco_classes()
    if tuple(map(str.casefold, names)) == tuple(map(str.casefold, coco.names)):
        return coco
    return ClassMap.from_names(names)


def image_spec_from(preprocessor: Mapping[str, Any]) -> ImageSpec | None:
    """How `preprocessor_config.json` prepares images; None without a fixed size."""
    size = preprocessor.get("size")
    if not isinstance(size, Mapping) or not {"height", "width"} <= set(size):
        return None
    spec = ImageSpec(
        (int(size["height"]), int(size["width"])),
        scale=float(preprocessor.get("rescale_factor", 1 / 255)),
    )
    if not preprocessor.get("do_normalize"):
        return spec
    mean, std = preprocessor.get("image_mean"), preprocessor.get("image_std")
    if not mean or not std:
        return None
    return ImageSpec(spec.size, scale=spec.scale, mean=tuple(mean), std=tuple(std))


def read_json(path: Path) -> dict[str, Any]:
    """The content of one of the folder's files; empty where it is missing.

    Raises:
        WeightsError: damaged.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise WeightsError(f"{path} cannot be read: {error}") from error
    return content if isinstance(content, dict) else {}
