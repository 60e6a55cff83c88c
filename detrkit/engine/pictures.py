"""Pictures that a run leaves behind: augmented batches, detections on validation images."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image
from torch import nn

from detrkit.drawing import draw_detections, draw_targets, grid, viewable
from detrkit.engine.runtime import PostProcessor
from detrkit.files import write_atomically
from detrkit.structures import Batch, ClassMap, ImageSpec

#: Pictures on one sheet.
MOST = 16
#: Pixels of a picture's longer side from which on names leave enough of it to be seen.
READABLE = 320


def batch_picture(batch: Batch, class_map: ClassMap, spec: ImageSpec) -> Image.Image:
    """A training batch as the model sees it, with its targets."""
    images = batch.images[:MOST].detach().float().cpu()
    factor = math.ceil(READABLE / max(images.shape[-2:]))
    if factor > 1:  # names would cover small images
        images = images.repeat_interleave(factor, -2).repeat_interleave(factor, -1)
    pairs = list(zip(images, batch.targets[:MOST], strict=True))
    return grid(
        [draw_targets(image, target, class_map, image_spec=spec) for image, target in pairs],
        titles=[str(target.image_id) for _, target in pairs],
    )


@torch.no_grad()
def detections_picture(
    model: nn.Module,
    dataset: object,
    postprocessor: PostProcessor,
    class_map: ClassMap,
    spec: ImageSpec,
    path: Path,
    *,
    numbers: Sequence[int] | None = None,
    count: int = 9,
    min_score: float = 0.4,
) -> Path:
    """Writes a sheet of validation images with what the model finds.

    Args:
        model: on any device; its mode is restored.
        dataset: a DetectionDataset; images come from its index.
        postprocessor: outputs -> detections.
        class_map, spec: of the model.
        path: of the picture.
        numbers: which images; default `count` spread evenly over the data set.
        min_score: what is drawn.
    """
    from detrkit.data.dataset import DetectionDataset
    from detrkit.data.image_check import read_indexed
    from detrkit.errors import DataError

    assert isinstance(dataset, DetectionDataset)
    index = dataset.index
    if numbers is None:
        step = max(len(index) / count, 1.0)
        numbers = [int(i * step) for i in range(min(count, len(index)))]
    device = next(model.parameters()).device
    was_training = model.training
    model.eval()
    pictures, titles = [], []
    for number in numbers:
        try:
            image = read_indexed(index, number, spec.in_channels).image
        except DataError:
            continue
        size = (int(image.shape[-2]), int(image.shape[-1]))
        outputs = model(spec.prepare(image)[None].to(device))
        (found,) = postprocessor.postprocess(outputs, [size], spec, class_map)
        pictures.append(
            draw_detections(found, viewable(image), min_score=min_score, enlarge_to=480)
        )
        titles.append(Path(index.paths[number]).name)
    model.train(was_training)
    sheet = grid(pictures, titles=titles)
    write_atomically(path, lambda file: sheet.save(file, format="JPEG", quality=92))
    return path
