"""Sees feature maps while a model runs, without changing the model.

A stage is a map of a model by name: `backbone.1` and `encoder.0` are maps of the lists that these
parts return, counted from the finest; any other name is a module that returns one map. `backbone`
and `encoder` alone stand for all of their maps.

The hooks are there only while the model is watched: copies of it (averages, replicas, trial runs)
never have any, and neither has a step without distillation. They work inside
DistributedDataParallel and around compiled parts.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from detrkit.errors import ConfigError, did_you_mean

#: Parts of a detector that return lists of maps.
PARTS = ("backbone", "encoder")


class Taps:
    """Remembers what modules returned last.

    Args:
        modules: names, "" for the model itself.

    Attributes:
        seen: by name.
    """

    def __init__(self, modules: Iterable[str]) -> None:
        self.modules = tuple(dict.fromkeys(modules))
        self.seen: dict[str, Any] = {}

    @contextmanager
    def watching(self, model: nn.Module) -> Iterator[None]:
        """While `model` runs inside, `seen` fills."""
        self.seen = {}
        handles = [
            model.get_submodule(name).register_forward_hook(partial(self._note, name))
            for name in self.modules
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _note(self, name: str, module: nn.Module, inputs: Any, output: Any) -> None:
        self.seen[name] = output

    def map(self, stage: str) -> Tensor:
        """The map (B, C, h, w) of a stage that was watched."""
        module, level = split(stage)
        output = self.seen[module]
        found: Tensor = output if level is None or isinstance(output, Tensor) else output[level]
        return found


def split(stage: str) -> tuple[str, int | None]:
    """ "encoder.1" -> ("encoder", 1), "encoder.pan_blocks.1" -> ("encoder.pan_blocks.1", None)."""
    part, _, rest = stage.partition(".")
    if part in PARTS and rest.lstrip("-").isdigit():
        return part, int(rest)
    return stage, None


@torch.no_grad()
def stages_of(
    model: nn.Module, wanted: Iterable[str], size: tuple[int, int], channels: int = 3
) -> dict[str, list[tuple[str, tuple[int, int, int]]]]:
    """The stages that names stand for, and (C, h, w) of their maps: tries the model out.

    Args:
        model: stays as it is, also its mode.
        wanted: names; "encoder" stands for all maps of the encoder.
        size: (h, w) of the images.
        channels: of the images.

    Returns:
        {name: [(stage, (C, h, w))]}.

    Raises:
        ConfigError: there is no such stage, or it returns no map.
    """
    wanted = tuple(dict.fromkeys(wanted))
    for name in wanted:
        _check(model, name)
    parts = [part for part in PARTS if _has(model, part)]
    taps = Taps([*parts, *(split(name)[0] for name in wanted)])
    modes = {module: module.training for module in model.modules()}
    device = next(model.parameters()).device
    model.eval()
    try:
        with taps.watching(model):
            model(torch.zeros(1, channels, *size, device=device))
    finally:
        for module, training in modes.items():
            module.training = training
    return {name: _maps_of(name, taps.seen, parts) for name in wanted}


def _has(model: nn.Module, name: str) -> bool:
    return isinstance(getattr(model, name, None), nn.Module)


def _check(model: nn.Module, name: str) -> None:
    module = split(name)[0]
    known = dict(model.named_modules())
    if module in known:
        return
    depth = module.count(".")
    near = did_you_mean(module, {n for n in known if n.count(".") == depth})
    raise ConfigError(
        f"distillation: the model has no stage `{name}`{near}",
        hint="stages are backbone and encoder, one of their maps (encoder.0 is the finest), or "
        "any module that returns a map; `detrkit info CFG --layers` lists the modules",
    )


def _maps_of(
    name: str, seen: Mapping[str, Any], parts: Iterable[str]
) -> list[tuple[str, tuple[int, int, int]]]:
    module, level = split(name)
    output = seen.get(module)
    if level is None and isinstance(output, list | tuple):
        found = [(f"{module}.{i}", _shape(x)) for i, x in enumerate(output)]
    elif level is not None and isinstance(output, list | tuple):
        inside = -len(output) <= level < len(output)
        found = [(f"{module}.{level % len(output)}", _shape(output[level]))] if inside else []
    else:
        found = [(name, _shape(output))]
    shapes = [(stage, shape) for stage, shape in found if shape is not None]
    if len(shapes) == len(found) and found:
        return shapes
    listed = [
        f"{part}.{i} ({shape[0]} channels, {shape[1]}x{shape[2]})"
        for part in parts
        for i, x in enumerate(seen.get(part) or ())
        if (shape := _shape(x)) is not None
    ]
    raise ConfigError(
        f"distillation: `{name}` is no stage with a map", hint=f"there is: {', '.join(listed)}"
    )


def _shape(output: Any) -> tuple[int, int, int] | None:
    """(C, h, w) of a map of one image; None for anything else."""
    if not isinstance(output, Tensor) or output.dim() != 4:
        return None
    channels, h, w = output.shape[1:]
    return channels, h, w
