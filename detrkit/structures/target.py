"""Ground truth of one image, and a batch of images with theirs."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise

import torch
from torch import Tensor


@dataclass(slots=True)
class Target:
    """What an image holds. No boxes is a normal image.

    Attributes:
        boxes_cxcywh: (N, 4) float32, centre and size as fractions of the image, 0–1.
        labels: (N,) int64, contiguous class indices from 0.
        image_id: the data set's own id of the image, int or str.
        orig_size: (h, w) of the image file in pixels, EXIF orientation applied.
    """

    boxes_cxcywh: Tensor
    labels: Tensor
    image_id: int | str = 0
    orig_size: tuple[int, int] = (0, 0)

    def __len__(self) -> int:
        return len(self.labels)

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Target:
        """The same target with its tensors on `device`."""
        return replace(
            self,
            boxes_cxcywh=self.boxes_cxcywh.to(device, non_blocking=non_blocking),
            labels=self.labels.to(device, non_blocking=non_blocking),
        )


@dataclass(slots=True)
class Batch:
    """Images and their targets.

    Attributes:
        images: (B, C, H, W) float32, as ImageSpec.prepare makes them.
        targets: B targets.
    """

    images: Tensor
    targets: list[Target]

    def __len__(self) -> int:
        return len(self.targets)

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Batch:
        """The same batch on `device`."""
        return Batch(
            self.images.to(device, non_blocking=non_blocking),
            [target.to(device, non_blocking) for target in self.targets],
        )

    def split(self, parts: int) -> list[Batch]:
        """Up to `parts` batches of nearly equal size, in order; they share the images' memory."""
        parts = min(parts, max(len(self), 1))
        if parts == 1:
            return [self]
        bounds = [len(self) * part // parts for part in range(parts + 1)]
        return [
            Batch(self.images[first:end], self.targets[first:end])
            for first, end in pairwise(bounds)
        ]

    def pin_memory(self) -> Batch:
        """Called by the data loader when `pin_memory` is on."""
        return Batch(
            self.images.pin_memory(),
            [
                replace(t, boxes_cxcywh=t.boxes_cxcywh.pin_memory(), labels=t.labels.pin_memory())
                for t in self.targets
            ],
        )
