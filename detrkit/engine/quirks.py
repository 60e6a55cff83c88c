"""Behaviour of the authors' code that its authors probably did not mean.

A file in the authors' dialect gets the authors' behaviour exactly, quirks included; a file with
`recipe: detrkit` switches off those that can be. Each quirk has a name, one sentence and one
place in the code. `detrkit show-config --quirks` lists the ones in force.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
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
RESTART_KEEPS_RATE = Quirk(
    "restart-keeps-rate",
    "the first step after going back to the best stage-1 weights runs at the rate that was in "
    "force when they were saved",
    "detrkit.engine.trainer",
)
MILESTONES_WAIT = Quirk(
    "milestones-wait",
    "`milestones` count epochs after the warm-up has ended, not epochs",
    "detrkit.engine.schedules",
)
RATES_LAG = Quirk(
    "rates-lag",
    "flat-cosine rates are written after the optimizer step and count from 0: the first step runs "
    "at 1 / `warmup_duration` of the linear warm-up, the second at rate 0, each other one at the "
    "curve's value for the step before",
    "detrkit.engine.schedules",
)
ZERO_WARMUP = Quirk(
    "zero-warmup",
    "`warmup_iter: 0` divides by zero in the first step of the authors' flat-cosine schedule; "
    "here the second step keeps the rate of the first",
    "detrkit.engine.schedules",
)
EMPTY_NORM_GROUP = Quirk(
    "empty-norm-group",
    'an expression such as `(?!.*norm|bn)` means "not starting with bn": the group without '
    "weight decay matches nothing, and the backbone's norms and biases are decayed",
    "detrkit.engine.optim",
    optional=False,
)
FAST_BACKBONE_NORMS = Quirk(
    "fast-backbone-norms",
    "the backbone's norms fall into a group without a rate of its own: they train at the full "
    "learning rate, the rest of the backbone at its own",
    "detrkit.engine.optim",
    optional=False,
)
DECAYED_VIT_NORMS = Quirk(
    "decayed-vit-norms",
    "norms inside the ViT's `sta` (numbered, not named) and in `backbone.norms` match no "
    "exception: their weights are decayed",
    "detrkit.engine.optim",
    optional=False,
)
IGNORED_BOX_NOISE = Quirk(
    "ignored-box-noise-scale",
    "`box_noise_scale` of the decoder has no effect: denoising always uses 1.0",
    "detrkit.models.denoising",
    optional=False,
)
HALVED_LABEL_NOISE = Quirk(
    "halved-label-noise",
    "`label_noise_ratio` changes only half of that share of the labels, and a draw may repeat "
    "the old label",
    "detrkit.models.denoising",
    optional=False,
)
CROSSED_NEGATIVES = Quirk(
    "crossed-negatives",
    "a negative denoising box whose corners cross keeps them so: its width or height is clamped "
    "near zero",
    "detrkit.models.denoising",
    optional=False,
)
DUMMY_PAIRS = Quirk(
    "dummy-pairs",
    "a batch without boxes gets one made-up denoising pair for each image, whose class loss is "
    "not zero",
    "detrkit.models.denoising",
    optional=False,
)

QUIRKS = (
    INERT_EMA_RESTART,
    SCHEDULE_REWINDS,
    RESTART_KEEPS_RATE,
    MILESTONES_WAIT,
    RATES_LAG,
    ZERO_WARMUP,
    EMPTY_NORM_GROUP,
    FAST_BACKBONE_NORMS,
    DECAYED_VIT_NORMS,
    IGNORED_BOX_NOISE,
    HALVED_LABEL_NOISE,
    CROSSED_NEGATIVES,
    DUMMY_PAIRS,
)

#: A convolution and a norm of each backbone whose norms an expression may miss.
_BACKBONE_NAMES = {
    "HGNetv2": ("backbone.stages.0.blocks.0.layers.0.conv.weight", "backbone.stem.stem1.bn.weight"),
    "PResNet": ("backbone.conv1.conv1_1.conv.weight", "backbone.conv1.conv1_1.norm.weight"),
}


def is_our_recipe(tree: Mapping[str, Any]) -> bool:
    """Whether the configuration says `recipe: detrkit`."""
    return tree.get("recipe") == "detrkit"


def quirks_in_force(tree: Mapping[str, Any]) -> tuple[Quirk, ...]:
    """The quirks that change something for this configuration.

    Args:
        tree: the resolved configuration as nested plain data.
    """
    found = [] if is_our_recipe(tree) else [*_schedule_quirks(tree)]
    found += [*_group_quirks(tree), *_denoising_quirks(tree)]
    return tuple(found)


def _schedule_quirks(tree: Mapping[str, Any]) -> Iterator[Quirk]:
    epochs = tree.get("epochs") or 0
    collate = (tree.get("train_dataloader") or {}).get("collate_fn") or {}
    stops = collate.get("stop_epoch")
    flat_cosine = bool(tree.get("lr_scheduler_kind"))
    restarts = tree.get("restart_from_best") is not False
    if restarts and isinstance(stops, int) and stops < epochs:
        if tree.get("use_ema"):
            yield INERT_EMA_RESTART
        yield RESTART_KEEPS_RATE if flat_cosine else SCHEDULE_REWINDS
    if flat_cosine:
        yield RATES_LAG
        if tree.get("warmup_iter") == 0:
            yield ZERO_WARMUP
    else:
        warmup = (tree.get("lr_warmup_scheduler") or {}).get("warmup_duration", 0)
        milestones = (tree.get("lr_scheduler") or {}).get("milestones") or ()
        if warmup and any(m < epochs for m in milestones):
            yield MILESTONES_WAIT


def _group_quirks(tree: Mapping[str, Any]) -> Iterator[Quirk]:
    groups = [g for g in (tree.get("optimizer") or {}).get("params") or () if g.get("params")]
    backbone = _part(tree, "backbone")
    frozen = (tree.get(backbone) or {}).get("freeze_norm") is True
    vague = any(re.search(r"\(\?[!=][^()]*norm\|bn", str(group["params"])) for group in groups)
    if vague and not frozen and backbone in ("", "HGNetv2"):  # only HGNetv2 calls its norms `bn`
        yield EMPTY_NORM_GROUP
    names = _BACKBONE_NAMES.get(backbone)
    if names and not frozen:
        conv, norm = (_rate_of(name, groups) for name in names)
        if conv is not None and norm is None:
            yield FAST_BACKBONE_NORMS
    if backbone == "DINOv3STAs" and groups:
        yield DECAYED_VIT_NORMS


def _rate_of(name: str, groups: Sequence[Mapping[str, Any]]) -> float | None:
    """The own rate of the group that a parameter falls into; None: the optimizer's."""
    for group in groups:
        if re.search(str(group["params"]), name):
            return group.get("lr")
    return None


def _denoising_quirks(tree: Mapping[str, Any]) -> Iterator[Quirk]:
    name = _part(tree, "decoder")
    decoder = tree.get(name) or {}
    if not name or decoder.get("num_denoising", 100) <= 0:
        return
    if name in ("DFINETransformer", "DEIMTransformer") and decoder.get("box_noise_scale", 1) != 1:
        yield IGNORED_BOX_NOISE
    if decoder.get("label_noise_ratio", 0.5) > 0:
        yield HALVED_LABEL_NOISE
    if name == "RTDETRTransformerv2" and tree.get("model") == "RTDETR":
        yield CROSSED_NEGATIVES
        yield DUMMY_PAIRS


def _part(tree: Mapping[str, Any], slot: str) -> str:
    """The component that the detector's section names for a slot; empty if none."""
    model = tree.get("model")
    section = tree.get(model) if isinstance(model, str) else model
    value = section.get(slot) if isinstance(section, Mapping) else None
    if isinstance(value, Mapping):
        value = value.get("type")
    return value if isinstance(value, str) else ""
