"""From samples to a batch, at one of several sizes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import default_collate

from detrkit.data.mixing import CopyBlend, Window, mix_up
from detrkit.data.pixels import nearest, normalized
from detrkit.data.sample import Sample
from detrkit.errors import ConfigError
from detrkit.registry import MODULES
from detrkit.structures import Batch, ImageSpec, Target

_STRIDE = 32


def generate_scales(base_size: int, base_size_repeat: int) -> list[int]:
    """Image sides from 0.75 to 1.25 of `base_size` in steps of 32, the base itself repeated."""
    low, high = (int(base_size * f / _STRIDE) * _STRIDE for f in (0.75, 1.25))
    steps = range((base_size - low) // _STRIDE)
    return [
        *(low + i * _STRIDE for i in steps),
        *[base_size] * base_size_repeat,
        *(high - i * _STRIDE for i in steps),
    ]


@dataclass(slots=True)
class PixelBatch:
    """A batch as it travels from a loader worker: bytes, and arrays of all boxes together.

    A quarter of the memory of the finished batch, and one shared tensor in place of one for
    each image's boxes and labels.

    Attributes:
        pixels: (B, H, W, C): uint8, or float32 on a scale of 0–255.
        boxes_cxcywh: (N, 4) float32, of all images, as fractions of their image.
        labels: (N,) int64.
        counts: boxes of each image.
        image_ids: B ids.
        orig_sizes: (h, w) of each image file.
        spec: how bytes become the model's input.
    """

    pixels: Tensor
    boxes_cxcywh: npt.NDArray[np.float32]
    labels: npt.NDArray[np.int64]
    counts: list[int]
    image_ids: list[int | str]
    orig_sizes: list[tuple[int, int]]
    spec: ImageSpec

    def __len__(self) -> int:
        return len(self.counts)

    def pin_memory(self) -> PixelBatch:
        """Called by the data loader when `pin_memory` is on."""
        return replace(self, pixels=self.pixels.pin_memory())

    def finish(self, device: torch.device | str = "cpu") -> Batch:
        """float32 images (B, C, H, W) on `device`; equal to `ImageSpec.normalized` bit by bit."""
        if torch.device(device).type == "cpu":
            images = normalized(self.pixels, self.spec)
        else:
            pixels = self.pixels.to(device, non_blocking=True).permute(0, 3, 1, 2).contiguous()
            images = self.spec.normalized(pixels)
        boxes = torch.from_numpy(self.boxes_cxcywh).to(device).split(self.counts)
        labels = torch.from_numpy(self.labels).to(device).split(self.counts)
        targets = map(Target, boxes, labels, self.image_ids, self.orig_sizes)
        return Batch(images, list(targets))


@MODULES.register(family="data", example={})
class BatchImageCollateFunction:
    """Mixes the images of a batch and stacks them, at a size drawn per batch.

    A batch is mixed by MixUp or, failing that, by CopyBlend, each in its epochs and with its
    probability; then it is resized. What is drawn depends on (seed, epoch, step) and, for the
    mixing, on the first image's number. Pixels are resized without smoothing (nearest), as the
    authors do.

    Args:
        stop_epoch: multi-scale ends with this epoch (counted from 0); None never ends it.
        ema_restart_decay: kept for the trainer, which reads it when strong augmentation ends.
        base_size: side of the images, or (h, w).
        base_size_repeat: weight of the base size among the sizes; None for one size only.
        mixup_prob: share of the batches that MixUp blends.
        mixup_epochs: first epoch of MixUp, and the first after it.
        copyblend_prob: share of the other batches that CopyBlend copies objects in.
        copyblend_epochs: likewise.
        copyblend_type: "blend"; anything else pastes.
        conflict_with_mixup: accepted and without effect, as in the authors' code.
        area_threshold: see `CopyBlend`.
        num_objects: see `CopyBlend`.
        with_expand: whether surroundings are copied too.
        expand_ratios: how much of them, see `CopyBlend`.
        random_num_objects: see `CopyBlend`.
        data_vis: accepted and without effect: runs keep pictures of their batches anyway.
        vis_save: likewise.
        scales: RT-DETRv2's form of multi-scale: all the sides, or (h, w), to draw from.
        seed: of the sizes and the mixing.
    """

    def __init__(
        self,
        stop_epoch: int | None = None,
        ema_restart_decay: float = 0.9999,
        base_size: int | Sequence[int] = 640,
        base_size_repeat: int | None = None,
        mixup_prob: float = 0.0,
        mixup_epochs: Sequence[int] = (0, 0),
        copyblend_prob: float = 0.0,
        copyblend_epochs: Sequence[int] = (0, 0),
        copyblend_type: str = "blend",
        conflict_with_mixup: bool = False,
        area_threshold: float = 100,
        num_objects: int = 3,
        with_expand: bool = False,
        expand_ratios: Sequence[float] = (0.1, 0.25),
        random_num_objects: bool = False,
        data_vis: bool = False,
        vis_save: str = "./vis_dataset/",
        scales: Sequence[int | Sequence[int]] | None = None,
        seed: int = 0,
    ) -> None:
        if scales and base_size_repeat is not None:
            raise ValueError("`scales` lists the sizes and `base_size_repeat` derives them: one")
        self.stop_epoch = stop_epoch
        self.ema_restart_decay = ema_restart_decay
        self.base_size = base_size
        self.base_size_repeat = base_size_repeat
        self.mixup = _window("mixup", mixup_prob, mixup_epochs)
        self.copyblend = _window("copyblend", copyblend_prob, copyblend_epochs)
        low, high = (float(ratio) for ratio in expand_ratios)
        self.copy_objects = CopyBlend(
            paste=copyblend_type != "blend",
            area_threshold=area_threshold,
            num_objects=num_objects,
            random_num_objects=random_num_objects,
            expand_ratios=(low, high) if with_expand else None,
        )
        self.seed = seed
        self.scales: list[tuple[int, int]] = []
        if scales:
            self.scales = [_hw(side) for side in scales]
        elif base_size_repeat is not None:
            self.scales = _sizes(base_size, base_size_repeat)

    def size_at(self, epoch: int, step: int) -> tuple[int, int] | None:
        """(h, w) of a batch; None leaves it as it is."""
        if not self.scales or (self.stop_epoch is not None and epoch >= self.stop_epoch):
            return None
        rng = np.random.default_rng([self.seed, epoch, step, 0x517E])
        return self.scales[rng.integers(len(self.scales))]

    def mixed(self, samples: Sequence[Sample]) -> list[Sample]:
        """The samples, blended with one another where that is drawn; all of equal size."""
        key = samples[0].key
        rng = np.random.default_rng([self.seed, key.epoch, key.step, key.index, 0x3172])
        if self.mixup.hits(key.epoch, rng):
            return mix_up(samples, rng)
        if self.copyblend.hits(key.epoch, rng):
            return self.copy_objects(samples, rng)
        return list(samples)

    def gather(self, samples: Sequence[Sample]) -> PixelBatch:
        """Mixes, resizes and stacks the pixels: the half of the work that loader workers do.

        Raises:
            ConfigError: the images differ in size.
        """
        key = samples[0].key
        _check_sizes(samples)
        samples = self.mixed(_of_one_type(samples))
        images = [sample.image.permute(1, 2, 0) for sample in samples]
        size = self.size_at(key.epoch, key.step)
        if size is not None:
            images = [_nearest(image, size) for image in images]
        first = samples[0]
        spec = ImageSpec(
            size=(images[0].shape[0], images[0].shape[1]),
            scale=1.0 if first.scale is None else first.scale,
            mean=first.mean or (0.0,),
            std=first.std or (1.0,),
            in_channels=images[0].shape[2],
        )
        return PixelBatch(
            pixels=default_collate(images),  # into shared memory, when called in a worker
            boxes_cxcywh=np.concatenate([sample.boxes_cxcywh() for sample in samples]),
            labels=np.concatenate([sample.labels for sample in samples]),
            counts=[len(sample) for sample in samples],
            image_ids=[sample.image_id for sample in samples],
            orig_sizes=[sample.orig_size for sample in samples],
            spec=spec,
        )

    def __call__(self, samples: Sequence[Sample]) -> Batch:
        """Makes the batch.

        Raises:
            ConfigError: the images differ in size.
        """
        return self.gather(samples).finish()


@MODULES.register("batch_image_collate_fn", family="data", example={})
class BatchImages(BatchImageCollateFunction):
    """Stacks images, all at their own size."""

    def __init__(self) -> None:
        super().__init__()


def _sizes(base_size: int | Sequence[int], repeat: int) -> list[tuple[int, int]]:
    if isinstance(base_size, int):
        return [(side, side) for side in generate_scales(base_size, repeat)]
    height, width = (int(v) for v in base_size)
    longer = max(height, width)
    # the longer side as the authors' rule says, the other one in proportion

    def scaled(length: int, side: int) -> int:
        return max(round(length * side / longer / _STRIDE), 1) * _STRIDE

    return [
        (height, width) if side == longer else (scaled(height, side), scaled(width, side))
        for side in generate_scales(longer, repeat)
    ]


def _nearest(image: Tensor, size: tuple[int, int]) -> Tensor:
    """(h, w, C) -> (*size, C)."""
    if tuple(image.shape[:2]) == size:
        return image
    pixels = np.ascontiguousarray(image.numpy())
    return torch.from_numpy(nearest(pixels, size))


def _check_sizes(samples: Sequence[Sample]) -> None:
    sizes = {sample.size for sample in samples}
    if len(sizes) > 1:
        (h, w), (h2, w2) = sorted(sizes)[:2]
        raise ConfigError(
            f"images of one batch differ in size: {w}x{h} and {w2}x{h2}",
            hint="end the transforms with {type: Resize, size: [h, w]}",
        )


def _of_one_type(samples: Sequence[Sample]) -> Sequence[Sample]:
    """All uint8 or all float32: files of a data set may have different numbers of bits."""
    if len({sample.image.dtype for sample in samples}) > 1:
        for sample in samples:
            sample.image = sample.image.float()
    return samples


def _window(name: str, probability: float, epochs: Sequence[int]) -> Window:
    if len(epochs) != 2:
        raise ValueError(f"{name}_epochs must be [first, end], got {list(epochs)}")
    return Window(probability, int(epochs[0]), int(epochs[1]))


def _hw(side: int | Sequence[int]) -> tuple[int, int]:
    return (side, side) if isinstance(side, int) else (int(side[0]), int(side[-1]))
