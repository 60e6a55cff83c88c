"""From a configuration to its parts: detector, criterion, postprocessor, ImageSpec."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from detrkit.config import Config, build, build_component
from detrkit.engine.download import fetch, is_url
from detrkit.engine.randomness import seed_everything
from detrkit.engine.recognise import component
from detrkit.engine.weights import load_weights, read_state
from detrkit.errors import ConfigError, WeightsError
from detrkit.registry import MODULES
from detrkit.structures import ImageSpec

if TYPE_CHECKING:
    from detrkit.engine.runtime import PostProcessor

log = logging.getLogger("detrkit")


def build_model(cfg: Config, *, seed: int | None = None) -> nn.Module:
    """The detector with random weights.

    Args:
        cfg: names it as `model`.
        seed: same seed, same weights; None leaves the generators alone.
    """
    if seed is not None:
        seed_everything(seed)
    _check_backbone_channels(cfg)
    model = build(cfg, "model")
    if not isinstance(model, nn.Module):
        raise ConfigError(f"model: `{cfg.get('model')}` is a {type(model).__name__}, no module")
    return model


def _check_backbone_channels(cfg: Config) -> None:
    """Whether the backbone takes as many channels as the images have.

    Raises:
        ConfigError: its constructor has no such argument.
    """
    channels = cfg.run.in_channels
    if channels == 3:
        return
    name, _ = component(cfg, "backbone")
    if "in_channels" not in MODULES.get(name).share:
        raise ConfigError(
            f"in_channels is {channels}, but the backbone {name} takes images of 3 channels",
            hint="let its constructor take `in_channels` and register it with "
            'share=("in_channels",)',
        )


def build_criterion(cfg: Config) -> nn.Module:
    """The criterion that `criterion` names."""
    criterion: nn.Module = build(cfg, "criterion")
    return criterion


def build_postprocessor(cfg: Config) -> PostProcessor:
    """The postprocessor that `postprocessor` names."""
    postprocessor: PostProcessor = build(cfg, "postprocessor")
    return postprocessor


def image_spec_of(cfg: Config) -> ImageSpec:
    """How validation images become the model's input, from the transforms of `val_dataloader`."""
    section = cfg.get("val_dataloader.dataset.transforms") or {}
    transforms = build_component(cfg, {"type": "Compose", **section})
    spec = transforms.image_spec(cfg.run.eval_spatial_size, cfg.run.in_channels)
    assert isinstance(spec, ImageSpec)
    return spec


def load_pretrained_backbone(model: nn.Module) -> None:
    """Loads pretrained weights into a backbone that asks for them.

    The constructors only note it: `pretrained` (true, or a file or URL), `pretrained_url`,
    `local_model_dir`, `pretrained_part` (the module that the file is for, if not the whole
    backbone), `pretrained_partial` (whether only what fits is wanted), `pretrained_hint` (how
    users get the file or do without). One whose library brings its own weights returns them
    from `pretrained_state()`, and knows a file's names by `pretrained_names(state)`.

    Raises:
        WeightsError: they cannot be found or downloaded, or do not fit.
    """
    backbone = getattr(model, "backbone", None)
    wanted = getattr(backbone, "pretrained", False)
    if backbone is None or not wanted:
        return
    url = getattr(backbone, "pretrained_url", None)
    own = getattr(backbone, "pretrained_state", None)
    if own is not None and not isinstance(wanted, str):
        state, source = own(), type(backbone).__name__
    elif url is None and not isinstance(wanted, str):
        log.warning("there are no pretrained weights for this backbone; it starts from random")
        return
    else:
        path = _pretrained_file(backbone)
        state, source = read_state(path), str(path)
        if renamed := getattr(backbone, "pretrained_names", None):
            state = renamed(state)
    report = load_weights(getattr(backbone, "pretrained_part", backbone), state, source=source)
    # the classifier on top of the ImageNet model is of no use here
    log.info("backbone: %d tensors from %s", len(report.copied), source)
    for name, channels in report.folded.items():
        log.info("backbone: its stem %s: 3 channels folded into %d", name, channels)
    if getattr(backbone, "pretrained_partial", False):
        return
    if report.missing or report.mismatched:
        raise WeightsError(
            f"the backbone's pretrained weights do not fit\n{report.describe()}",
            hint="check the backbone's `name` and its other arguments",
        )


def pretrained_source(backbone: nn.Module) -> Path | str | None:
    """Where a backbone's pretrained weights are: a file of this machine, or else a URL.

    None where none are wanted or known, or where the backbone's library brings its own.

    Raises:
        WeightsError: the file that the configuration names is not there.
    """
    wanted = getattr(backbone, "pretrained", False)
    given = wanted if isinstance(wanted, str) else None
    if given is not None and not is_url(given):
        path = Path(given).expanduser()
        if not path.is_file():
            how = getattr(backbone, "pretrained_hint", None)
            raise WeightsError(
                f"{type(backbone).__name__}: no pretrained weights at {path}",
                hint=how or f"check the path; {_without_weights(backbone)}",
            )
        return path
    source = given or getattr(backbone, "pretrained_url", None)
    own = given is None and getattr(backbone, "pretrained_state", None) is not None
    if not wanted or own or source is None:
        return None
    local = Path(getattr(backbone, "local_model_dir", "") or "").expanduser()
    path = local / Path(source).name
    if given is None and path.is_file():
        return path
    return str(source)


def _pretrained_file(backbone: nn.Module) -> Path:
    """The file with a backbone's pretrained weights; downloads it if need be."""
    source = pretrained_source(backbone)
    assert source is not None
    if isinstance(source, Path):
        return source
    try:
        return fetch(source, shared=is_shared_name(backbone))
    except WeightsError as error:
        how = getattr(backbone, "pretrained_hint", None)
        hint = how or f"{error.hint}; {_without_weights(backbone)}"
        raise WeightsError(error.message, hint=hint) from error


def is_shared_name(backbone: nn.Module) -> bool:
    """Whether the URL is the backbone's own, whose file name means one file only."""
    return not isinstance(getattr(backbone, "pretrained", False), str)


def _without_weights(backbone: nn.Module) -> str:
    name = type(backbone).__name__
    return f"or start from random weights: --update {name}.pretrained=False"


def split_of(cfg: Config, name: str) -> Mapping[str, Any]:
    """The loader section "train_dataloader" or "val_dataloader", or an empty one."""
    section = cfg.get(name)
    return section if isinstance(section, Mapping) else {}


def batch_size_of(
    section: Mapping[str, Any], world_size: int = 1, default: int = 1, *, even: bool = True
) -> int:
    """Images per process and step: `batch_size`, or `total_batch_size` over all processes.

    Args:
        section: of a loader.
        world_size: how many processes share a step.
        default: where the section says nothing.
        even: every process must get as many; in evaluation the last gets fewer.

    Raises:
        ConfigError: both or neither usable, or not divisible.
    """
    total, own = section.get("total_batch_size"), section.get("batch_size")
    if total is not None and own is not None:
        raise ConfigError(
            "a loader has both total_batch_size and batch_size",
            hint="total_batch_size counts all devices, batch_size one; keep one of them",
        )
    if total is None:
        return int(own if own is not None else default)
    if int(total) % world_size and even:
        below = int(total) // world_size * world_size
        near = " or ".join(str(n) for n in (below, below + world_size) if n)
        raise ConfigError(
            f"total_batch_size {total} cannot be shared evenly by {world_size} processes",
            hint=f"use --batch {near}, or another number of processes",
        )
    return math.ceil(int(total) / world_size)


def with_total_batch(cfg: Config, world_size: int) -> Config:
    """`batch_size`, which counts one process, as `total_batch_size`.

    So a run keeps its batches when it is resumed by another number of processes.

    Raises:
        ConfigError: fewer images per process and step than `accumulate` parts.
    """
    values: dict[str, Any] = {}
    for name in ("train_dataloader", "val_dataloader"):
        section = split_of(cfg, name)
        own = section.get("batch_size")
        if own is not None and section.get("total_batch_size") is None:
            values[f"{name}.total_batch_size"] = int(own) * world_size
            values[f"{name}.batch_size"] = None
    if values:
        cfg = cfg.with_values(values, origin=f"batch_size of {world_size} processes")
    images = batch_size_of(split_of(cfg, "train_dataloader"), world_size, default=4)
    if not 1 <= cfg.run.accumulate <= images:
        raise ConfigError(
            f"accumulate: {cfg.run.accumulate} parts of {images} images per process and step",
            hint="--accumulate splits the batch, it does not enlarge it: use a larger --batch",
        )
    return cfg
