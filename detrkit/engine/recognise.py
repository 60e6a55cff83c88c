"""Which published model a state dict belongs to, told by the names and shapes of its tensors.

Weights of the authors carry no configuration. Every config of the catalogue has a fingerprint:
the number of its tensors and a hash over their names and shapes, where the number of classes does
not count and what is computed (anchors) or counted is left out. They are made once
(`fingerprint_table`) and kept beside this file, so that recognising takes no model building.

Tensors do not tell everything: DEIM's N has the tensors of D-FINE's, with other activations.
Configs that answer differently from equal weights are different *graphs*. Where one fingerprint
has several, the name under which the authors published a file decides, if it has that; otherwise
it is an error that names them.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urldefrag, urlparse

import torch
from torch import Tensor

from detrkit.config.published import published
from detrkit.engine.state_names import has_class_rows, is_derived, padding_rows
from detrkit.errors import ConfigError, WeightsError

if TYPE_CHECKING:
    from detrkit.config import Config

#: Arguments that do not change what a trained model answers.
_TRAINING_ONLY = frozenset(
    (
        *("aux_loss", "dropout", "num_denoising", "label_noise_ratio", "box_noise_scale"),
        *("random_negatives", "random_negative_iou"),
        *("freeze_at", "freeze_norm", "freeze_stem_only", "pretrained", "local_model_dir"),
        *("weights_path", "num_classes", "eval_spatial_size", "value_shape"),
    )
)

_FILE = "fingerprints.json"


@dataclass(frozen=True)
class Candidate:
    """A graph that fits, by the names of its configs; the first stands for all."""

    configs: tuple[str, ...]

    @property
    def name(self) -> str:
        """The config to take."""
        return self.configs[0]

    @property
    def published_files(self) -> set[str]:
        """Names of the files of weights that the authors published for it."""
        known = published()
        urls = [w.url for name in self.configs if name in known for w in known[name].weights]
        return {Path(urlparse(url).path).name for url in urls}


def fingerprint(shapes: Mapping[str, Sequence[int]]) -> str:
    """Number and hash of the tensors, e.g. "586-3f2a9c61d2e4".

    Args:
        shapes: name -> shape.
    """
    lines = []
    for name in sorted(shapes):
        if is_derived(name):
            continue
        shape = list(map(str, shapes[name]))
        if has_class_rows(name):
            shape[0] = "classes" + "+1" * padding_rows(name)
        lines.append(f"{name} {'x'.join(shape)}\n")
    return f"{len(lines)}-{hashlib.sha256(''.join(lines).encode()).hexdigest()[:12]}"


def candidates(state: Mapping[str, Tensor]) -> list[Candidate]:
    """The graphs of the catalogue whose tensors these are."""
    graphs = _table().get(fingerprint({name: value.shape for name, value in state.items()}), [])
    return [Candidate(tuple(configs)) for configs in graphs]


def recognise(state: Mapping[str, Tensor], source: str | Path) -> str:
    """The name of the config that fits.

    Args:
        state: the weights, by the authors' names.
        source: where they are from, for messages.

    Raises:
        WeightsError: no config fits, or several that answer differently; names them.
    """
    found = candidates(state)
    if len(found) > 1:
        file = Path(urldefrag(str(source)).url).name
        found = [c for c in found if file in c.published_files] or found
    if len(found) == 1:
        return found[0].name
    if not found:
        raise WeightsError(
            f"{source} carries no configuration, and no config of the catalogue has its "
            f"{len(state)} tensors",
            hint="name the config or YAML file it was trained with, "
            "e.g. --config dfine_hgnetv2_s_coco",
        )
    raise WeightsError(
        f"{source} carries no configuration, and its tensors fit {len(found)} models that answer "
        f"differently: {', '.join(candidate.name for candidate in found)}",
        hint="name the one it was trained with, e.g. " + f"--config {found[0].name}",
    )


def input_size_of(state: Mapping[str, Tensor], cfg: Config) -> tuple[int, int] | None:
    """The (square) input size that the file's anchors are for, if it is not the config's.

    None also where the file has no anchors or no square size gives their number.
    """
    anchors = next((v for n, v in state.items() if n.endswith("decoder.anchors")), None)
    strides = _level_strides(cfg)
    size = cfg.run.eval_spatial_size
    if anchors is None or not strides or size is None or anchors.ndim < 2:
        return None
    count = anchors.shape[-2]

    def positions(h: int, w: int) -> int:
        return sum((h // s) * (w // s) for s in strides)

    if positions(*size) == count:
        return None
    sides = [side for side in range(32, 4096 + 1, 32) if positions(side, side) == count]
    return (sides[0], sides[0]) if len(sides) == 1 else None


def _level_strides(cfg: Config) -> list[int]:
    _, decoder = component(cfg, "decoder")
    strides = [int(s) for s in decoder.get("feat_strides") or ()]
    while strides and len(strides) < int(decoder.get("num_levels") or 0):
        strides.append(2 * strides[-1])
    return strides


def component(cfg: Config, slot: str) -> tuple[str, dict[str, Any]]:
    """Type and complete arguments (with the constructor's defaults) of a part of the model.

    Args:
        cfg: the configuration.
        slot: "backbone", "encoder" or "decoder".

    Raises:
        ConfigError: the model has no such part.
    """
    from detrkit.registry import MODULES

    model = cfg.peek("model")
    section = cfg.peek(model) if isinstance(model, str) else model
    named = section.get(slot) if isinstance(section, Mapping) else None
    place: tuple[str, ...] = (str(model), slot)
    if isinstance(named, str):
        place = (named,)
        arguments: Any = cfg.peek(named) or {}
        kind = arguments.get("type", named)
    elif isinstance(named, Mapping):
        arguments, kind = named, named.get("type")
    else:
        raise ConfigError(f"{cfg.name}: the model has no `{slot}`")
    entry = MODULES.get(str(kind))
    given = {k: v for k, v in arguments.items() if k != "type"}
    defaults = {
        name: parameter.default
        for name, parameter in entry.parameters.items()
        if parameter.default is not parameter.empty
    }
    return entry.name, {**defaults, **cfg.arguments(entry, given, place)}


def graph_signature(cfg: Config) -> str:
    """Text that is equal for configs that answer alike from equal weights, apart from the size."""
    parts = {slot: component(cfg, slot) for slot in ("backbone", "encoder", "decoder")}
    encoder = parts["encoder"][1]
    if encoder.get("version") in ("v1", "rt_detrv2"):
        encoder["version"] = "v2"  # three names for one graph
    arguments = {
        slot: [kind, {k: v for k, v in values.items() if k not in _TRAINING_ONLY}]
        for slot, (kind, values) in parts.items()
    }
    transforms = cfg.get("val_dataloader.dataset.transforms.ops") or []
    seen = [op for op in transforms if op.get("type") in ("Normalize", "PadToSize", "Letterbox")]
    return json.dumps([arguments, seen, cfg.run.use_focal_loss], sort_keys=True, default=list)


def fingerprint_table(names: Iterable[str]) -> dict[str, list[list[str]]]:
    """fingerprint -> graphs -> configs, for `fingerprints.json`.

    Builds every config on the meta device: minutes for the whole catalogue.
    """
    from detrkit.config import load_config
    from detrkit.engine.parts import build_model

    found: dict[str, dict[str, list[str]]] = {}
    for name in names:
        cfg = load_config(name)
        with torch.device("meta"):
            state = build_model(cfg).state_dict()
        graphs = found.setdefault(fingerprint({n: v.shape for n, v in state.items()}), {})
        graphs.setdefault(graph_signature(cfg), []).append(name)
    return {
        key: sorted(sorted(configs, key=_published_first) for configs in graphs.values())
        for key, graphs in sorted(found.items())
    }


def _published_first(name: str) -> tuple[bool, bool, bool, str]:
    """COCO's config stands for those of other data, a family's own for another's copy."""
    other = any(word in name for word in ("obj2", "custom", "_voc"))
    return (other, "/" in name, not name.endswith("_coco"), name)


@cache
def _table() -> dict[str, list[list[str]]]:
    text = (files("detrkit.engine") / _FILE).read_text(encoding="utf-8")
    table: dict[str, list[list[str]]] = json.loads(text)
    return table
