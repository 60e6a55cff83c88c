"""Parameter groups from regular expressions, and the optimizer over them.

The configuration lists expressions over parameter names, each with its own rate or decay:

    optimizer:
      type: AdamW
      params:
        - {params: '^(?=.*backbone)(?!.*norm).*$', lr: 0.0000125}
        - {params: '^(?=.*(?:encoder|decoder))(?=.*(?:norm|bn)).*$', weight_decay: 0.}
      lr: 0.00025

What no expression matches forms a last group with the optimizer's own values. The order of groups
and of parameters inside them is the authors', so that their optimizer states load.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from detrkit.engine.layer_decay import with_layer_decay
from detrkit.errors import ConfigError, Problem
from detrkit.registry import MODULES

log = logging.getLogger("detrkit")

#: Optimizers of torch with a fused implementation on CPU and CUDA.
_FUSED = ("AdamW", "Adam", "SGD")
#: Parts of a detector in the order in which an image passes them.
_PARTS = ("backbone", "encoder", "decoder")


@dataclass
class ParameterGroup:
    """Parameters that share their settings.

    Attributes:
        pattern: the expression, or None for the remainder.
        names: parameter names in the model's order.
        settings: `lr`, `weight_decay`, … that differ from the optimizer's.
    """

    pattern: str | None
    names: list[str]
    settings: dict[str, Any] = field(default_factory=dict)


def parameter_groups(
    model: nn.Module, patterns: Sequence[Mapping[str, Any]] | None
) -> list[ParameterGroup]:
    """Sorts the trainable parameters into groups.

    Args:
        model: its `named_parameters` give names and order.
        patterns: mappings with `params` (an expression) and settings; None: one group.

    Raises:
        ConfigError: an expression is not valid, or two of them match the same parameter.
    """
    names = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    groups: list[ParameterGroup] = []
    owner: dict[str, str] = {}
    problems: list[Problem] = []
    for index, entry in enumerate(patterns or ()):
        settings = dict(entry)
        pattern = settings.pop("params", None)
        where = f"optimizer.params[{index}]"
        if not isinstance(pattern, str):
            problems.append(Problem(where, "needs `params`, an expression over parameter names"))
            continue
        try:
            expression = re.compile(pattern)
        except re.error as error:
            problems.append(Problem(where, f"not a valid expression: {pattern!r}: {error}"))
            continue
        matched = [name for name in names if expression.search(name)]
        twice = [name for name in matched if name in owner]
        if twice:
            problems.append(
                Problem(
                    where,
                    f"{pattern!r} matches {len(twice)} parameters that {owner[twice[0]]!r} "
                    f"matches as well, e.g. {twice[0]}",
                )
            )
            continue
        owner.update(dict.fromkeys(matched, pattern))
        if not matched:
            log.debug("%s: %r matches no trainable parameter", where, pattern)
        groups.append(ParameterGroup(pattern, matched, settings))
    if problems:
        raise ConfigError(
            f"{len(problems)} problem{'s' if len(problems) > 1 else ''} in the parameter groups",
            problems=problems,
            hint="`detrkit info CFG --layers` lists the parameter names",
        )
    rest = [name for name in names if name not in owner]
    if rest:
        groups.append(ParameterGroup(None, rest))
    return groups


def build_optimizer(
    section: Mapping[str, Any], model: nn.Module, *, layer_decay: float | None = None
) -> Optimizer:
    """The optimizer that a configuration's `optimizer` section describes.

    Every group keeps its base rate as `initial_lr`; the trainer sets `lr` from it.

    Args:
        section: `type`, its arguments, and `params`, the list of expressions.
        model: already on its device.
        layer_decay: of the backbone's rates, see `detrkit.engine.layer_decay`; None: one rate.

    Raises:
        ConfigError: no optimizer, groups that make no sense, or a backbone without known stages.
    """
    arguments = dict(section)
    kind = arguments.pop("type", None)
    if not isinstance(kind, str):
        raise ConfigError("optimizer: needs a `type`, e.g. AdamW")
    groups = parameter_groups(model, arguments.pop("params", None))
    if layer_decay is not None:
        groups = with_layer_decay(groups, model, layer_decay, float(arguments.get("lr", 1e-3)))
    parameters = dict(model.named_parameters())
    entry = MODULES.get(kind)
    if kind in _FUSED and not {"fused", "foreach"} & set(arguments):
        floats = all(parameters[n].is_floating_point() for g in groups for n in g.names)
        devices = {parameters[n].device.type for g in groups for n in g.names}
        arguments["fused"] = floats and devices <= {"cpu", "cuda"}
    optimizer: Optimizer = entry.factory(
        [{**g.settings, "params": [parameters[name] for name in g.names]} for g in groups],
        **arguments,
    )
    for group in optimizer.param_groups:
        group["initial_lr"] = group["lr"]
    return optimizer


def group_names(optimizer: Optimizer, model: nn.Module) -> dict[str, int]:
    """A readable name of each group that has parameters, with its position.

    The parts of the model it reaches ("backbone", "encoder_decoder"; "all" of them; with layer
    decay "backbone_stage_2"), and "_no_decay" where only other groups decay:
    {"backbone": 0, "encoder_decoder_no_decay": 1, …}.
    """
    part_of = {id(p): name.partition(".")[0] for name, p in model.named_parameters()}
    order = [*_PARTS, *dict.fromkeys(part_of.values()), "other"]
    everything = set(part_of.values())
    decays = any(group.get("weight_decay") for group in optimizer.param_groups)
    found: dict[str, int] = {}
    for position, group in enumerate(optimizer.param_groups):
        parts = {part_of.get(id(p), "other") for p in group["params"]}
        if not parts:
            continue
        name = "all" if parts == everything else "_".join(sorted(parts, key=order.index))
        name = group.get("part", name)
        if decays and not group.get("weight_decay"):
            name += "_no_decay"
        number = 1 + sum(known == name or known.startswith(f"{name}-") for known in found)
        found[name if number == 1 else f"{name}-{number}"] = position
    return found


def load_optimizer_state(optimizer: Optimizer, state: dict[str, Any]) -> None:
    """Takes over the state, laid out in memory as the parameters are.

    The fused optimizers go through all tensors of a parameter side by side, whatever their
    strides: with averages in another layout they would be wrong without a word.
    """
    optimizer.load_state_dict(state)
    for parameter, values in optimizer.state.items():
        for name, value in values.items():
            if not isinstance(value, Tensor) or value.shape != parameter.shape:
                continue
            if value.stride() != parameter.stride():
                values[name] = torch.empty_like(parameter, dtype=value.dtype).copy_(value)


def set_lr_factor(optimizer: Optimizer, factor: float) -> None:
    """Sets each group's rate to `factor` times its base rate."""
    for group in optimizer.param_groups:
        group["lr"] = group["initial_lr"] * factor
