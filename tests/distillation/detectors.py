"""Small detectors of all families, and a batch."""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor, nn

from detrkit.config import load_config
from detrkit.engine.parts import build_model
from detrkit.structures import Target

SIZE = (64, 64)
CLASSES = 3

#: Catalogue names of the families, and the sections that are made small.
FAMILIES = {
    "dfine_n_coco": "DFINETransformer",
    "rtdetrv2_r18vd_120e_coco": "RTDETRTransformerv2",
    "deimv2_atto_coco": "DEIMTransformer",
    "deimv2_dinov3_s_coco": "DEIMTransformer",
    "dfine_yolo11_n_coco": "DFINETransformer",  # a graph
}


@cache
def detector(name: str, seed: int = 0) -> nn.Module:
    """One detector of a family; the same object for all who ask."""
    decoder = FAMILIES[name]
    cfg = load_config(
        name,
        update=[
            f"{decoder}.num_queries=12",
            f"{decoder}.num_denoising=4",
            f"num_classes={CLASSES}",
            "image_size=64",
        ],
    )
    model = build_model(cfg, seed=seed)
    with torch.no_grad():  # new heads move no box and score all alike
        for part, weights in model.named_parameters():
            if "head" in part and weights.is_floating_point():
                weights += 0.05 * torch.randn_like(weights)
    return model


def batch(images: int = 2) -> tuple[Tensor, list[Target]]:
    """Noise, with boxes in all images but the last."""
    generator = torch.Generator().manual_seed(0)
    pixels = torch.rand(images, 3, *SIZE, generator=generator)
    targets = []
    for number in range(images):
        count = 0 if number == images - 1 else 2
        size = torch.rand(count, 2, generator=generator) * 0.3 + 0.1
        centre = size / 2 + torch.rand(count, 2, generator=generator) * (1 - size)
        labels = torch.randint(0, CLASSES, (count,), generator=generator)
        targets.append(Target(torch.cat([centre, size], -1), labels, image_id=number))
    return pixels, targets
