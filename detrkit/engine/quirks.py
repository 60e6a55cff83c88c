"""Behaviour of the authors' code that its authors probably did not mean.

A file in the authors' dialect gets the authors' behaviour exactly, quirks included; a file with
`recipe: detrkit` switches off those that can be. Each quirk has a name, one sentence and one
place in the code. `detrkit show-config --quirks` lists the ones in force.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Quirk:
    """One piece of unmeant behaviour.

    Attributes:
        name: identifier, kebab case.
        sentence: what happens.
        where: the module of detrkit that holds it.
        optional: whether `recipe: detrkit` switches it off. The others follow from values
            that stand in the file (an expression, a number) and stay until the file changes.
    """

    name: str
    sentence: str
    where: str
    optional: bool = True


INERT_EMA_RESTART = Quirk(
    "inert-ema-restart",
    "when strong augmentation ends, `ema_restart_decay` is assigned but the decay in use stays "
    "that of `ema.decay`",
    "detrkit.engine.plan",
)
SCHEDULE_REWINDS = Quirk(
    "schedule-rewinds",
    "going back to the best stage-1 weights also rewinds the learning-rate schedule to that epoch",
    "detrkit.engine.plan",
)
MILESTONES_WAIT = Quirk(
    "milestones-wait",
    "`milestones` count epochs after the warm-up has ended, not epochs",
    "detrkit.engine.plan",
)
EMPTY_NORM_GROUP = Quirk(
    "empty-norm-group",
    'an expression such as `(?!.*norm|bn)` means "not starting with bn": the group without '
    "weight decay matches nothing, and the backbone's norms and biases are decayed",
    "detrkit.engine.optim",
    optional=False,
)
IGNORED_BOX_NOISE = Quirk(
    "ignored-box-noise-scale",
    "`box_noise_scale` of the decoder has no effect: denoising always uses 1.0",
    "detrkit.models.denoising",
    optional=False,
)

QUIRKS = (INERT_EMA_RESTART, SCHEDULE_REWINDS, MILESTONES_WAIT, EMPTY_NORM_GROUP, IGNORED_BOX_NOISE)


def is_our_recipe(tree: Mapping[str, Any]) -> bool:
    """Whether the configuration says `recipe: detrkit`."""
    return tree.get("recipe") == "detrkit"


def quirks_in_force(tree: Mapping[str, Any]) -> tuple[Quirk, ...]:
    """The quirks that change something for this configuration.

    Args:
        tree: the resolved configuration as nested plain data.
    """
    found = []
    ours = is_our_recipe(tree)
    loader = tree.get("train_dataloader") or {}
    collate = loader.get("collate_fn") or {}
    epochs = tree.get("epochs") or 0
    stops = collate.get("stop_epoch")
    if not ours and isinstance(stops, int) and stops < epochs:
        if tree.get("use_ema"):
            found.append(INERT_EMA_RESTART)
        found.append(SCHEDULE_REWINDS)
    warmup = (tree.get("lr_warmup_scheduler") or {}).get("warmup_duration", 0)
    milestones = (tree.get("lr_scheduler") or {}).get("milestones") or ()
    if not ours and warmup and any(m < epochs for m in milestones):
        found.append(MILESTONES_WAIT)
    for group in (tree.get("optimizer") or {}).get("params") or ():
        if re.search(r"\(\?[!=][^()]*norm\|bn", str(group.get("params", ""))):
            found.append(EMPTY_NORM_GROUP)
            break
    decoder = tree.get("DFINETransformer") or {}
    if decoder.get("box_noise_scale", 1.0) != 1.0:
        found.append(IGNORED_BOX_NOISE)
    return tuple(found)
