"""From a configuration to the training that a data set is judged for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from detrkit.analysis import TrainingSetup
from detrkit.config import Config
from detrkit.engine.parts import batch_size_of, image_spec_of, split_of
from detrkit.engine.stages import transforms_of

_DEFAULTS = TrainingSetup()


def training_setup(cfg: Config, size: tuple[int, int] | None = None) -> TrainingSetup:
    """What the analysis of a data set needs to know of a configuration.

    Args:
        cfg: names a model; its data set is not opened.
        size: (h, w) of another input.
    """
    from dataclasses import replace

    spec = image_spec_of(cfg)
    model = str(cfg.get("model") or "")
    decoder = str(cfg.get(f"{model}.decoder") or "")
    queries = cfg.get(f"{decoder}.num_queries")
    strides = cfg.get(f"{decoder}.feat_strides")
    return TrainingSetup(
        image_spec=replace(spec, size=size) if size else spec,
        num_queries=int(queries or _DEFAULTS.num_queries),
        num_top_queries=int(_top_queries(cfg) or _DEFAULTS.num_top_queries),
        strides=tuple(int(s) for s in strides) if strides else _DEFAULTS.strides,
        batch=batch_size_of(split_of(cfg, "train_dataloader"), default=_DEFAULTS.batch),
        epochs=cfg.run.epochs,
        mosaic=_mosaic(transforms_of(cfg.tree)),
        source=cfg.name,
        queries_key=f"{decoder}.num_queries" if decoder else "",
    )


def _top_queries(cfg: Config) -> int | None:
    postprocessor = str(cfg.get("postprocessor") or "")
    own: int | None = cfg.get(f"{postprocessor}.num_top_queries")
    return own or cfg.run.num_top_queries


def _mosaic(transforms: Mapping[str, Any]) -> bool:
    """Whether the training transforms put pictures together."""
    types = [op.get("type") for op in transforms.get("ops") or () if isinstance(op, Mapping)]
    return "Mosaic" in types and bool(transforms.get("mosaic_prob", 1.0))
