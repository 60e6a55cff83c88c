"""A "detector" that answers with the bright rectangle in a picture: its truth is known exactly."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from detrkit.engine.checkpoint import Checkpoint
from detrkit.engine.runtime import TorchRuntime
from detrkit.models.postprocess import PostProcessor
from detrkit.structures import ClassMap, ImageSpec

CLASSES = ClassMap(("cat", "猫", "dog"), (4, 9, 2))
SPEC = ImageSpec((64, 96))


class BrightBox(nn.Module):
    """One query per class; the class whose colour channel is bright gets the rectangle."""

    def __init__(self) -> None:
        super().__init__()
        self.unused = nn.Parameter(torch.zeros(1))
        self.dropout = nn.Dropout(0.5)  # shows whether the mode is right
        self.batches: list[int] = []

    def forward(self, images: Tensor, targets: Any = None) -> dict[str, Tensor]:
        self.batches.append(len(images))
        h, w = images.shape[-2:]
        logits = torch.full((len(images), 3, 3), -5.0)
        boxes = torch.full((len(images), 3, 4), 0.5)
        for i, image in enumerate(images):
            for c in range(3):
                rows, columns = (image[c] > 0.5).nonzero(as_tuple=True)
                if len(rows):
                    x1, x2 = columns.min().item() / w, (columns.max().item() + 1) / w
                    y1, y2 = rows.min().item() / h, (rows.max().item() + 1) / h
                    boxes[i, c] = torch.tensor([(x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1])
                    logits[i, c, c] = 3.0 - c
        return {"pred_logits": self.dropout(logits), "pred_boxes": boxes}


def picture(
    size: tuple[int, int] = (128, 192), box: Sequence[int] = (48, 32, 120, 96), channel: int = 0
) -> Image.Image:
    """A dark picture of `size` (h, w) with a bright rectangle."""
    pixels = np.zeros((*size, 3), np.uint8)
    x1, y1, x2, y2 = box
    pixels[y1:y2, x1:x2, channel] = 255
    return Image.fromarray(pixels)


def bright_runtime(spec: ImageSpec = SPEC, classes: ClassMap = CLASSES) -> TorchRuntime:
    """A runtime around `BrightBox`."""
    return TorchRuntime(BrightBox(), PostProcessor(num_classes=3), classes, spec)


def small_detector(path: Path, size: tuple[int, int] = (64, 96)) -> Path:
    """Writes a checkpoint of a real, untrained D-FINE-N of three classes."""
    import detrkit
    from detrkit.engine.parts import image_spec_of

    cfg = detrkit.load_config(
        "dfine_n_coco",
        update=["num_classes=3", "DFINETransformer.num_queries=20", "num_top_queries=20"],
        overrides={"image_size": list(size)},
    )
    Checkpoint(
        model=detrkit.build_model(cfg, seed=0).state_dict(),
        config=cfg.tree,
        config_name=cfg.name,
        class_map=CLASSES,
        image_spec=image_spec_of(cfg),
    ).save(path)
    return path
