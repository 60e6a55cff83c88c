"""A tiny COCO data set of coloured rectangles, written in a moment."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from PIL import Image

COLORS = {"red": (220, 40, 40), "green": (40, 200, 60)}


def write_coco(root: Path, train: int = 8, val: int = 4, size: tuple[int, int] = (64, 64)) -> Path:
    """`images/` and `annotations/instances_{train,val}.json`; the last image has no boxes."""
    rng = np.random.default_rng(0)
    (root / "images").mkdir(parents=True)
    (root / "annotations").mkdir()
    number = 0
    for split, count in (("train", train), ("val", val)):
        images, annotations = [], []
        for position in range(count):
            number += 1
            pixels = rng.integers(90, 130, (*size, 3)).astype(np.uint8)
            for _ in range(0 if position == count - 1 else int(rng.integers(1, 4))):
                w, h = (int(v) for v in rng.integers(12, 30, 2))
                x, y = int(rng.integers(0, size[1] - w)), int(rng.integers(0, size[0] - h))
                kind = int(rng.integers(0, 2))
                pixels[y : y + h, x : x + w] = list(COLORS.values())[kind]
                annotations.append(
                    {
                        "id": len(annotations) + 1,
                        "image_id": number,
                        "category_id": (3, 7)[kind],
                        "bbox": [x, y, w, h],
                        "area": w * h,
                        "iscrowd": 0,
                    }
                )
            name = f"{number:03d}.png"
            Image.fromarray(pixels).save(root / "images" / name)
            images.append({"id": number, "file_name": name, "height": size[0], "width": size[1]})
        content = {
            "images": images,
            "annotations": annotations,
            "categories": [{"id": 3, "name": "red"}, {"id": 7, "name": "green"}],
        }
        (root / "annotations" / f"instances_{split}.json").write_text(json.dumps(content))
    return root


TINY_YAML = """
__include__: [{base}]
epochs: 4
schedule: auto
restart_from_best: true
image_size: 64
seed: 7
use_ema: true
HGNetv2: {{name: Atto, return_idx: [1, 2], pretrained: false}}
HybridEncoder: {{in_channels: [256, 256], feat_strides: [8, 16]}}
DFINETransformer: {{feat_strides: [8, 16], num_queries: 20, num_denoising: 10, num_layers: 2}}
train_dataloader: {{total_batch_size: 2, num_workers: 0}}
val_dataloader: {{total_batch_size: 4, num_workers: 0}}
checkpoint_freq: 100
"""


def write_config(folder: Path, repository: Path) -> Path:
    """A D-FINE with the smallest backbone, which trains in seconds."""
    base = repository / "configs" / "dfine" / "custom" / "dfine_hgnetv2_n_custom.yml"
    file = folder / "tiny.yml"
    file.write_text(TINY_YAML.format(base=base.as_posix()))
    return file


#: The smallest model, with mosaic, three stages, averaged weights and a restart from the best
#: ones; `last.pth` is written after nearly every batch.
SMALLEST_YAML = """
__include__: [{base}]
epochs: 4
schedule: auto
restart_from_best: true
image_size: 64
seed: 7
use_ema: true
HGNetv2: {{pretrained: false}}
DEIMTransformer: {{num_queries: 20, num_denoising: 10}}
train_dataloader: {{total_batch_size: 2, num_workers: 0}}
val_dataloader: {{total_batch_size: 4, num_workers: 0}}
checkpoint_freq: 3
checkpoint_minutes: 0.0005
"""


def write_smallest(folder: Path, repository: Path, train: int = 6) -> None:
    """`tiny.yml`, whose checkpoints are small, and `data/`."""
    write_coco(folder / "data", train=train, val=3)
    base = repository / "configs" / "deimv2" / "custom" / "deimv2_hgnetv2_atto_custom.yml"
    (folder / "tiny.yml").write_text(SMALLEST_YAML.format(base=base.as_posix()))
