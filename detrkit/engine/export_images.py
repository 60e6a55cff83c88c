"""The images of an export: to calibrate on, and to compare on."""

from __future__ import annotations

import itertools
import logging
import math
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from detrkit.data.detect import open_dataset, open_splits, split_to_measure
from detrkit.data.image_check import read_indexed
from detrkit.data.index import DatasetIndex
from detrkit.engine.sources import expand, load_image
from detrkit.errors import DataError
from detrkit.structures import ImageSpec

log = logging.getLogger("detrkit")

#: Images that are compared where AP is not counted, at most.
MOST = 32


def calibration_batches(
    data: str | Path, spec: ImageSpec, count: int, batch: int | None = None
) -> Iterator[npt.NDArray[np.float32]]:
    """Preprocessed training images (N, C, h, w), spread evenly over the data set.

    Args:
        data: a data set of any layout; its training part, else all of it.
        spec: how images become the input.
        count: how many images, about.
        batch: N, where it is fixed.

    Raises:
        DataError: there is no image that can be read.
    """
    splits = open_splits(data)
    index = (splits.get("train") or DatasetIndex.concat(list(splits.values()))).spread(count)
    count = len(index)
    size = batch or max(1, min(8, count))
    log.info("calibrating on %d images of %s", count, data)
    images: list[Tensor] = []
    found = 0
    # a fixed batch is filled up from the beginning
    for number in itertools.islice(itertools.cycle(range(count)), math.ceil(count / size) * size):
        try:
            image = read_indexed(index, number, spec.in_channels).image
        except DataError as error:
            log.warning("%s; not calibrated on", error.message)
            continue
        images.append(spec.prepare(image))
        if len(images) == size:
            yield torch.stack(images).numpy()
            found += size
            images = []
    if not found:
        raise DataError(f"{data} has no images to calibrate on")


def pictures_to_compare(
    spec: ImageSpec,
    images: str | Path | None = None,
    data: str | Path | None = None,
    split: str | None = None,
) -> tuple[list[Tensor], str]:
    """Pixels (C, H, W) of the user's pictures, else of the data set, else generated ones.

    Args:
        spec: `size` and `in_channels` count.
        images: folder or pattern.
        data, split: data set, and part of it.

    Returns:
        the images, at most `MOST`, and where they are from, in words.

    Raises:
        DataError: none can be read.
    """
    channels = spec.in_channels
    loads: Iterator[Callable[[], Tensor]]
    if images is not None:
        name = str(images)
        loads = (partial(load_image, found, channels) for found in expand(images))
    elif data is not None:
        part = split or split_to_measure(data)
        name, index = f"{data}, {part}", open_dataset(data, part)
        loads = (partial(_pixels, index, number, channels) for number in range(len(index)))
    else:
        return textures(spec.size, channels), "generated textures"
    found_images: list[Tensor] = []
    for load in loads:
        try:
            found_images.append(load())
        except DataError as error:
            log.warning("%s; not compared on", error.message)
        if len(found_images) == MOST:
            break
    if not found_images:
        raise DataError(f"{name} has no image to compare on")
    return found_images, name


def _pixels(index: DatasetIndex, number: int, channels: int) -> Tensor:
    return read_indexed(index, number, channels).image


def textures(size: tuple[int, int], channels: int = 3, count: int = 8) -> list[Tensor]:
    """Generated pictures, always the same ones: noise of several grains with rectangles on it.

    Args:
        size: (h, w) about.
        channels: C.
        count: how many; their sizes differ.

    Returns:
        uint8 (C, H, W) each; float32 for other channels than three, as such images are read.
    """
    generator = torch.Generator().manual_seed(0)
    pictures = []
    for number in range(count):
        h, w = (max(32, round(side * (0.7 + 0.1 * number))) for side in size)
        picture = torch.zeros(channels, h, w)
        for grain in (4, 16, 64):
            shape = (math.ceil(h / grain), math.ceil(w / grain))
            noise = torch.rand(1, channels, *shape, generator=generator)
            picture += F.interpolate(noise, size=(h, w), mode="bilinear")[0] / 3
        for _ in range(6):
            y, x = (int(torch.randint(side - 16, (), generator=generator)) for side in (h, w))
            color = torch.rand(channels, 1, 1, generator=generator)
            picture[:, y : y + h // 3, x : x + w // 4] = color
        pixels = (255 * picture).round()
        pictures.append(pixels.to(torch.uint8) if channels == 3 else pixels)
    return pictures
