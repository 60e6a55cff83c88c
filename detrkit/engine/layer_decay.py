"""Layer-wise learning rates: the closer to the image, the less a pretrained backbone changes.

The rate of each stage (of each block, in transformers) is `decay` times that of the next one, as
in ELECTRA (Clark et al., ICLR 2020, arXiv:2003.10555) and BEiT (Bao et al., ICLR 2022,
arXiv:2106.08254). The last stage keeps the rate of its parameter group, which most recipes already
make lower than the encoder's; the stem's is decay^n times that, for n stages.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from torch import nn

from detrkit.errors import ConfigError

if TYPE_CHECKING:
    from detrkit.engine.optim import ParameterGroup

_BACKBONE = "backbone"
#: Where the number of a stage or block stands in a parameter's name: `stages.2`, `res_layers.0`,
#: `blocks.11`, `layer3`, `stages_1`, `features.4`.
_STAGE = re.compile(r"\.(stages?|res_layers|layers?|blocks|features)[._]?(\d+)(?:\.|$)")


def backbone_stages(model: nn.Module) -> dict[str, tuple[int, str]]:
    """The depth of each backbone parameter, 0 for the stem, and what is there in words.

    What stands before the first stage in the model's order is the stem (patches and class tokens
    of a transformer); what stands after one belongs to the last (norms, adapters).

    Raises:
        ConfigError: there is no backbone, or its parameters' names tell no stages.
    """
    names = [name for name, _ in model.named_parameters() if name.startswith(f"{_BACKBONE}.")]
    matches = {name: _STAGE.search(name, len(_BACKBONE)) for name in names}
    numbers = sorted({int(match[2]) for match in matches.values() if match})
    if len(numbers) < 2:
        backbone = getattr(model, "backbone", None)
        which = type(backbone).__name__ if backbone is not None else "a backbone"
        raise ConfigError(
            f"layer_decay: the parameters of {which} do not tell its stages by their names",
            hint="known are names such as stages.2, res_layers.0, blocks.11, layer3; leave "
            "layer_decay out, or write groups under optimizer.params",
        )
    depth = {number: position for position, number in enumerate(numbers, 1)}
    found: dict[str, tuple[int, str]] = {}
    seen_stage = False
    for name, match in matches.items():
        if match:
            seen_stage = True
            word = "block" if match[1] == "blocks" else "stage"
            found[name] = (depth[int(match[2])], f"backbone_{word}_{depth[int(match[2])]}")
        elif seen_stage:
            found[name] = (len(numbers), "backbone_end")
        else:
            found[name] = (0, "backbone_stem")
    return found


def check_layer_decay(decay: float) -> None:
    """Whether it is a factor that makes rates smaller.

    Raises:
        ConfigError: it is not.
    """
    if not 0 < decay <= 1:
        raise ConfigError(f"layer_decay: must be above 0 and at most 1, got {decay}")


def with_layer_decay(
    groups: Sequence[ParameterGroup], model: nn.Module, decay: float, lr: float
) -> list[ParameterGroup]:
    """The groups, those with parameters of the backbone divided by stage.

    Weight decay and all other settings stay those of the group; the order is that of the groups,
    then from the stem upwards.

    Args:
        groups: of `parameter_groups`.
        model: whose parameters they hold.
        decay: factor from a stage to the one before it, above 0 and at most 1.
        lr: rate of groups that have none of their own.

    Raises:
        ConfigError: the factor is out of range, or the backbone has no known stages.
    """
    check_layer_decay(decay)
    places = backbone_stages(model)
    last = max(depth for depth, _ in places.values())
    divided: list[ParameterGroup] = []
    for group in groups:
        parts: dict[tuple[int, str], list[str]] = {}
        for name in group.names:
            parts.setdefault(places.get(name, (last + 1, "")), []).append(name)
        base = float(group.settings.get("lr", lr))
        for (depth, word), names in sorted(parts.items()):
            settings = dict(group.settings)
            if word:
                settings |= {"lr": base * decay ** (last - depth), "part": word}
            divided.append(replace(group, names=names, settings=settings))
        if not group.names:  # the authors' files have some, and their states count them
            divided.append(group)
    return divided
