"""The losses that a `distillation` section names."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import nn

from detrkit.config import Config, build_component
from detrkit.distillation.layout import MapPair
from detrkit.distillation.losses.base import ClassLoss, EdgeLoss, FeatureLoss
from detrkit.distillation.pairing import Pairing
from detrkit.distillation.settings import Distillation
from detrkit.distillation.taps import split
from detrkit.distillation.terms import FeatureTerm, LogitLosses
from detrkit.errors import ConfigError, did_you_mean
from detrkit.registry import MODULES


def _loss(cfg: Config, given: Any, kind: type[Any], where: str) -> Any:
    """A loss by name or from a mapping with `type`.

    Raises:
        ConfigError: there is none of this name, or it is one of another kind.
    """
    name = given if isinstance(given, str) else given.get("type")
    if isinstance(name, str) and name not in MODULES and cfg.get(name) is None:
        known = sorted({e.name for e in MODULES if _is_a(e.factory, kind)})
        raise ConfigError(
            f"distillation.{where}: unknown component `{name}`{did_you_mean(name, known)}",
            hint=f"losses of this kind: {', '.join(known)}",
        )
    loss = build_component(cfg, {"type": given} if isinstance(given, str) else given)
    if not isinstance(loss, kind):
        raise ConfigError(
            f"distillation.{where}: `{type(loss).__name__}` is no {kind.__name__}",
            hint="`detrkit modules distillation` lists the losses",
        )
    return loss


def _is_a(factory: Any, kind: type[Any]) -> bool:
    return isinstance(factory, type) and issubclass(factory, kind)


def check_losses(settings: Distillation, cfg: Config) -> None:
    """Builds every loss once, so that a mistake is found before the teacher is read."""
    for number, feature in enumerate(settings.chosen_features):
        _loss(cfg, feature["loss"], FeatureLoss, f"features[{number}].loss")
        _check_weight(f"features[{number}].weight", feature.get("weight", 1.0))
    if settings.learns_logits:
        logit_losses(settings, cfg, torch.zeros(0, dtype=torch.int64))


def _check_weight(where: str, value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < math.inf:
        raise ConfigError(f"distillation.{where}: expected a number from 0 up, got {value!r}")


def terms_of(
    settings: Distillation, cfg: Config, layout: Sequence[Sequence[MapPair]]
) -> nn.ModuleList:
    """The feature losses, each with its adapters for the pairs of maps of `layout`."""
    terms: list[FeatureTerm] = []
    for feature, pairs in zip(settings.chosen_features, layout, strict=True):
        new_loss = partial(_loss, cfg, feature["loss"], FeatureLoss, "features")
        sample = new_loss()
        stage = str(feature.get("stage", "encoder"))
        if split(stage)[1] is not None:  # encoder.-1 by its number
            stage = pairs[0].student
        name = f"{type(sample).__name__.lower()}_{stage.replace('.', '_')}"
        number = 1 + sum(t.name == name or t.name.startswith(f"{name}-") for t in terms)
        weight = feature.get("weight", sample.default_weight)
        name = name if number == 1 else f"{name}-{number}"
        terms.append(FeatureTerm(name, weight, pairs, new_loss))
    return nn.ModuleList(terms)


def logit_losses(settings: Distillation, cfg: Config, columns: torch.Tensor) -> LogitLosses:
    """The losses of detections.

    Args:
        settings: of the distillation.
        cfg: sections of the losses.
        columns: the student's indices of the classes that both have.

    Raises:
        ConfigError: a value makes no sense.
    """
    given = dict(settings.logit)
    classes = _loss(cfg, given.pop("classes", "SigmoidKL"), ClassLoss, "logit.classes")
    edges = _loss(cfg, given.pop("localisation", "LocalisationKL"), EdgeLoss, "logit.localisation")
    queries = given.pop("queries", 100)
    if not isinstance(queries, int) or queries < 1:
        raise ConfigError(f"distillation.logit.queries: must be at least 1, got {queries!r}")
    if given.get("layers", "last") not in ("last", "all"):
        raise ConfigError(f"distillation.logit.layers: last or all, got {given['layers']!r}")
    weights = {name: value for name, value in given.items() if name.startswith("weight_")}
    for name, value in weights.items():
        _check_weight(f"logit.{name}", value)
    return LogitLosses(
        columns,
        classes,
        edges,
        pairing=Pairing(queries),
        layers=given.get("layers", "last"),
        **weights,
    )
