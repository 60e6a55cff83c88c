"""Detectors whose weights are random in every tensor, so that no difference hides behind a zero."""

from __future__ import annotations

import torch
from torch import nn

from detrkit.config import load_config
from detrkit.engine.checkpoint import Checkpoint
from detrkit.engine.known_classes import coco_classes
from detrkit.engine.parts import build_model, image_spec_of
from detrkit.engine.state_names import is_derived
from detrkit.engine.weights import LoadedDetector
from detrkit.structures import ClassMap


def enliven(model: nn.Module, seed: int = 0) -> nn.Module:
    """Every learned tensor drawn anew, about as large as training leaves it."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, value in model.state_dict().items():
            if is_derived(name) or name.endswith((".up", ".reg_scale")):
                continue
            noise = torch.randn(value.shape, generator=generator)
            if value.dim() > 1:
                value.copy_(noise * 1.25 / value[0].numel() ** 0.5)
            elif name.endswith("running_var"):
                value.copy_(1 + 0.3 * noise.clamp(-2, 2))
            elif name.endswith(("weight", "scale")):
                value.copy_(1 + 0.2 * noise)
            else:
                value.copy_(0.2 * noise)
    return model


def lively_detector(config: str, classes: ClassMap | None = None) -> LoadedDetector:
    """The model of a config with lively weights."""
    class_map = classes or coco_classes()
    cfg = load_config(config).with_values({"num_classes": len(class_map)})
    model = enliven(build_model(cfg, seed=0)).eval()
    return LoadedDetector(model, cfg, class_map, image_spec_of(cfg), Checkpoint())


def checkpoint_of(detector: LoadedDetector) -> Checkpoint:
    """As detrkit writes it."""
    return Checkpoint(
        model=detector.model.state_dict(),
        config=detector.config.tree,
        config_name=detector.config.name,
        class_map=detector.class_map,
        image_spec=detector.image_spec,
    )
