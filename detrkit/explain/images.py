"""The images of a data set as a detector's input, and what its decoder makes of them."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice

import numpy as np
import torch
from torch import Tensor

from detrkit.data.image_check import check_bands, read_indexed
from detrkit.data.index import DatasetIndex
from detrkit.engine.read_ahead import read_ahead
from detrkit.engine.runtime import TorchRuntime
from detrkit.errors import DataError
from detrkit.explain.decoder_trace import Decoded, DecoderTrace
from detrkit.explain.layers import network
from detrkit.models.outputs import Outputs
from detrkit.ops.boxes import xyxy_to_cxcywh
from detrkit.structures import ImageSpec, Target

log = logging.getLogger("detrkit")


@dataclass(frozen=True)
class Shown:
    """An image of a data set.

    Attributes:
        number: in the index.
        input: (C, h, w) float32, as `ImageSpec.prepare` makes it.
        size: (H, W) of the picture.
        target: its boxes in fractions of the input; crowd regions are left out, as in training.
    """

    number: int
    input: Tensor
    size: tuple[int, int]
    target: Target


def batches_of(
    index: DatasetIndex, spec: ImageSpec, batch: int, broken: list[str] | None = None
) -> Iterator[list[Shown]]:
    """All images in order; those that cannot be read are told and passed over.

    Args:
        index: of the data set.
        spec: of the detector.
        batch: images at a time; less where some cannot be read, also none.
        broken: gets the paths of those.
    """
    images = read_ahead(range(len(index)), lambda number: _read(index, number, spec), 2 * batch)
    while chunk := list(islice(images, batch)):
        shown = []
        for number, image in chunk:
            if isinstance(image, DataError):
                log.warning("%s; passed over", image.message)
                if broken is not None:
                    broken.append(index.paths[number])
            else:
                shown.append(image)
        yield shown


@dataclass(frozen=True)
class DecodedBatch:
    """A batch of a data set that went through a detector.

    Attributes:
        shown: its images, at least one.
        outputs: of the model.
        decoded: what the decoder did.
    """

    shown: list[Shown]
    outputs: Outputs
    decoded: Decoded


def decoded_batches(
    runtime: TorchRuntime,
    index: DatasetIndex,
    batch: int,
    broken: list[str],
    progress: Callable[[int, int], None] | None = None,
) -> Iterator[DecodedBatch]:
    """Runs a detector over a data set and watches its decoder.

    Args:
        runtime: a checkpoint's.
        index: of the data set.
        batch: images at a time.
        broken: gets the paths of images that cannot be read.
        progress: called after each batch with (batches done, batches).

    Raises:
        UsageError: the decoder cannot be looked into.
        DataError: the images have other bands than the detector takes.
    """
    model, spec = network(runtime), runtime.image_spec
    check_bands(index, spec.in_channels)
    batches = -(-len(index) // batch)
    with DecoderTrace(model) as trace:
        for done, shown in enumerate(batches_of(index, spec, batch, broken), 1):
            if shown:
                inputs = torch.stack([image.input for image in shown]).to(runtime.device)
                with torch.inference_mode():
                    outputs = model(inputs)
                yield DecodedBatch(shown, outputs, trace.last)
            if progress is not None:
                progress(done, batches)


def _read(index: DatasetIndex, number: int, spec: ImageSpec) -> Shown:
    found = read_indexed(index, number, spec.in_channels)
    size = (int(found.image.shape[-2]), int(found.image.shape[-1]))
    rows = np.arange(*index.boxes_of(number).indices(index.num_boxes))
    rows = rows[~index.iscrowd[rows]]
    limits = np.array(size[::-1] * 2, np.float32)
    boxes = (index.boxes_xyxy[rows] * np.array(found.scale * 2, np.float32)).clip(0, limits)
    extent = torch.tensor(spec.extent(size)[::-1] * 2, dtype=torch.float32)
    return Shown(
        number=number,
        input=spec.prepare(found.image),
        size=size,
        target=Target(
            xyxy_to_cxcywh(torch.from_numpy(boxes.astype(np.float32)) / extent),
            torch.from_numpy(index.labels[rows].copy()),
            image_id=index.image_id(number),
            orig_size=size,
        ),
    )
