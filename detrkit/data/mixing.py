"""Augmentations that mix the images of a batch: MixUp and CopyBlend.

MixUp: Zhang et al., ICLR 2018, arXiv:1710.09412. CopyBlend: DEIMv2, arXiv:2509.20787. Ratios and
rules are those of the authors' collate function. Theirs mixes floats; mixing bytes rounds to
whole levels of 255.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from detrkit.data.canvas import Canvas
from detrkit.data.pixels import Pixels, blend
from detrkit.data.sample import Sample

#: The share of an image's own pixels where another one is mixed in is drawn from this range.
OWN_SHARE = (0.45, 0.55)


@dataclass(frozen=True)
class Window:
    """How often, and in which epochs.

    Attributes:
        probability: per batch.
        start: first epoch, counted from 0.
        stop: first epoch after it.
    """

    probability: float
    start: int
    stop: int

    def hits(self, epoch: int, rng: np.random.Generator) -> bool:
        """Draws whether the batch at hand is mixed."""
        return bool(self.start <= epoch < self.stop and rng.random() < self.probability)


def mix_up(samples: Sequence[Sample], rng: np.random.Generator) -> list[Sample]:
    """Blends every image with the one before it, the first with the last; both keep their boxes.

    A single image is left alone: blended with itself it would only get its boxes twice.

    Args:
        samples: of equal size.
        rng: for the ratio, one for the whole batch.
    """
    if len(samples) < 2:
        return list(samples)
    share = rng.uniform(*OWN_SHARE)
    images = [_pixels(sample) for sample in samples]
    return [
        _with_boxes(sample, blend(image, previous, share), samples[i - 1])
        for i, (sample, image, previous) in enumerate(
            zip(samples, images, images[-1:] + images[:-1], strict=True)
        )
    ]


@dataclass(frozen=True)
class CopyBlend:
    """Copies objects of the whole batch to random places of every image.

    Each image gets different objects, as they were before anything was copied; they may come from
    the image itself and may cover what is there. Boxes of what was there stay.

    Attributes:
        paste: replace pixels in place of blending them half and half.
        area_threshold: square pixels that the annotation must give an object, in its image file.
        num_objects: most objects per image; fewer when the batch has fewer.
        random_num_objects: draw their number, from 1.
        expand_ratios: range of how much of an object's surroundings comes along on each side, as
            a fraction of its width and height; None for nothing. The box stays that of the object.
    """

    paste: bool = False
    area_threshold: float = 100
    num_objects: int = 3
    random_num_objects: bool = False
    expand_ratios: tuple[float, float] | None = None

    def __call__(self, samples: Sequence[Sample], rng: np.random.Generator) -> list[Sample]:
        """The batch with the copies; samples of equal size."""
        share = rng.uniform(*OWN_SHARE)
        images = [_pixels(sample) for sample in samples]
        owners = np.repeat(np.arange(len(samples)), [len(sample) for sample in samples])
        rows = np.concatenate([np.arange(len(sample)) for sample in samples])
        large = np.concatenate([sample.area for sample in samples]) >= self.area_threshold
        pool = np.stack([owners[large], rows[large]], axis=1)
        most = min(self.num_objects, len(pool))
        if most < 1:
            return list(samples)
        results = []
        for sample, image in zip(samples, images, strict=True):
            count = int(rng.integers(1, most + 1)) if self.random_num_objects else most
            canvas = image.copy()
            copies = []
            for owner, row in pool[rng.choice(len(pool), count, replace=False)]:
                box = self._copy(images[owner], samples[owner].boxes_xyxy[row], canvas, share, rng)
                if box is not None:
                    copies.append((samples[owner], row, box))
            results.append(_with_boxes(sample, canvas, *(_only(*copy) for copy in copies)))
        return results

    def _copy(
        self,
        image: Pixels,
        box_xyxy: np.ndarray,
        canvas: Pixels,
        share: float,
        rng: np.random.Generator,
    ) -> list[int] | None:
        """Copies one object onto the canvas; its box there, None when it has no whole pixel."""
        height, width = canvas.shape[:2]
        limits = (width, height, width, height)
        x1, y1, x2, y2 = (
            min(max(int(v), 0), limit) for v, limit in zip(box_xyxy, limits, strict=True)
        )
        w, h = x2 - x1, y2 - y1
        if w <= 0 or h <= 0:
            return None
        left, top = int(rng.integers(width - w + 1)), int(rng.integers(height - h + 1))
        before_x = after_x = before_y = after_y = 0
        if self.expand_ratios is not None:  # as far as both images reach
            ratio = rng.uniform(*self.expand_ratios)
            more_x, more_y = int(w * ratio), int(h * ratio)
            before_x, after_x = min(more_x, x1, left), min(more_x, width - x2, width - left - w)
            before_y, after_y = min(more_y, y1, top), min(more_y, height - y2, height - top - h)
        source = image[y1 - before_y : y2 + after_y, x1 - before_x : x2 + after_x]
        place = canvas[top - before_y : top + h + after_y, left - before_x : left + w + after_x]
        place[:] = source if self.paste else blend(place, source, share)
        return [left, top, left + w, top + h]


def _pixels(sample: Sample) -> Pixels:
    pixels: Pixels = sample.image.permute(1, 2, 0).numpy()
    return pixels


def _only(sample: Sample, row: int, box_xyxy: Sequence[float]) -> Sample:
    """One object of a sample, somewhere else."""
    return replace(
        sample,
        boxes_xyxy=np.array([box_xyxy], np.float32),
        labels=sample.labels[row : row + 1],
        area=sample.area[row : row + 1],
    )


def _with_boxes(sample: Sample, pixels: Pixels, *others: Sample) -> Sample:
    """The sample with other pixels, and with the boxes of others besides its own."""
    every = (sample, *others)
    return replace(
        sample,
        canvas=Canvas.of(torch.from_numpy(pixels).permute(2, 0, 1)),
        boxes_xyxy=np.concatenate([item.boxes_xyxy for item in every]),
        labels=np.concatenate([item.labels for item in every]),
        area=np.concatenate([item.area for item in every]),
    )
