"""Small detectors of every family, as `detrkit.load` gives them."""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor, nn

from detrkit.config import load_config
from detrkit.engine.parts import build_model, build_postprocessor, image_spec_of
from detrkit.engine.predictor import Predictor
from detrkit.engine.runtime import TorchRuntime
from detrkit.models.detector import Detector
from detrkit.models.postprocess import PostProcessor
from detrkit.structures import ClassMap, ImageSpec
from tests.engine.lively import enliven
from tests.export import families

#: Those of `tests.export.families`, and a backbone that is a list of layers.
FAMILIES = (*families.FAMILIES, "graph")


@cache
def detector(name: str) -> Predictor:
    """One detector of a family, fused for inference; weights are random in every tensor."""
    if name != "graph":
        made = families.family(name)
        return _opened(made.detector, made.postprocessor, made.checkpoint.image_spec)
    cfg = load_config(
        "dfine_yolo11_n_coco",
        update=["num_classes=3", "DFINETransformer.num_queries=10", "num_top_queries=20"],
        overrides={"image_size": list(families.SIZE)},
    )
    model = enliven(build_model(cfg, seed=0)).eval()
    return _opened(model, build_postprocessor(cfg), image_spec_of(cfg))


def _opened(model: nn.Module, processor: object, spec: ImageSpec | None) -> Predictor:
    assert isinstance(model, Detector)
    assert isinstance(processor, PostProcessor)
    assert spec is not None
    deployed = model.deploy(fold_norms=True)
    return Predictor(TorchRuntime(deployed, processor, families.CLASSES, spec))


def of_model(
    model: nn.Module, spec: ImageSpec | None = None, classes: ClassMap = families.CLASSES
) -> Predictor:
    """A detector around any module."""
    processor = PostProcessor(num_classes=len(classes))
    return Predictor(TorchRuntime(model, processor, classes, spec or ImageSpec((64, 96))))


class Channels(nn.Module):
    """A "detector" of one query: class k scores the weighted sum of channel k of a map.

    The derivative by its map is known everywhere, and so are all class activation maps.
    """

    def __init__(self, weights: Tensor) -> None:
        super().__init__()
        self.register_buffer("weights", weights)  # (K, h, w)
        self.backbone = nn.AdaptiveAvgPool2d(tuple(weights.shape[1:]))
        self.box = nn.Parameter(torch.tensor([0.5, 0.5, 0.5, 0.5]))

    def forward(self, images: Tensor, targets: object = None) -> dict[str, Tensor]:
        maps = self.backbone(images)
        logits = (maps * self.weights).sum((2, 3))
        shift = maps[:, 0, 0, 0, None] * torch.tensor([1.0, 0, 0, 0])
        return {"pred_logits": logits[:, None], "pred_boxes": (self.box + shift)[:, None]}
