"""Runs a detector over images without targets and collects the scores of what it finds."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator

import numpy as np
from torch import Tensor

from detrkit.data.image_check import read_indexed
from detrkit.data.index import DatasetIndex
from detrkit.engine.distributed.group import gathered, rank, shared, world_size
from detrkit.engine.evaluator import Progress
from detrkit.engine.read_ahead import read_ahead
from detrkit.engine.runtime import Runtime
from detrkit.errors import DataError
from detrkit.metrics import FalseDetections
from detrkit.metrics.over_activation import THRESHOLDS

log = logging.getLogger("detrkit.evaluator")


def find_false_detections(
    runtime: Runtime,
    index: DatasetIndex,
    *,
    batch: int = 8,
    ahead: bool = True,
    stop: Callable[[], bool] | None = None,
    progress: Progress | None = None,
) -> FalseDetections | None:
    """Runs a detector of any kind over images in which there is nothing to find.

    Args:
        runtime: takes pictures.
        index: the images.
        batch: images per forward pass.
        ahead: read images in threads of their own, before they are needed.
        stop: asked before each batch; when it says so, the answer is None.
        progress: called after each batch.
    """
    channels = runtime.image_spec.in_channels

    def load(number: int) -> Tensor:
        return read_indexed(index, number, channels).image

    found = FalseDetections()
    numbers = range(len(index))
    images = read_ahead(numbers, load, 2 * batch) if ahead else _read(numbers, load)
    batches = -(-len(index) // batch)
    for done in range(batches):
        if stop is not None and stop():
            return None
        paths: list[str] = []
        readable: list[Tensor] = []
        for _ in range(min(batch, len(index) - done * batch)):
            number, image = next(images)
            path = index.paths[number]
            if isinstance(image, DataError):
                found.broken[path] = image.message
            else:
                paths.append(path)
                readable.append(image)
        for path, answer in zip(paths, runtime.predict(readable), strict=True):
            found.add(path, answer)
        if progress is not None:
            progress(done + 1, batches)
    return found


def measure_false_detections(
    runtime: Runtime, index: DatasetIndex, *, batch: int = 8, progress: Progress | None = None
) -> FalseDetections:
    """As `find_false_detections`, by all processes together; all of them get the result.

    Raises:
        DataError: no image can be read.
    """
    own = index.subset(np.arange(rank(), len(index), world_size()))
    found = find_false_detections(runtime, own, batch=batch, progress=progress)
    assert found is not None  # nothing stopped it
    everyone = gathered(found) or []
    joined = shared(lambda: FalseDetections.joined(everyone))
    joined.at(THRESHOLDS[0])
    dropped = sum(int((~np.isfinite(scores)).sum()) for scores in joined.scores)
    if dropped:
        log.warning("%d detections on negatives with NaN or infinite scores left out", dropped)
        joined.scores[:] = [scores[np.isfinite(scores)] for scores in joined.scores]
    return joined


def _read(
    numbers: range, load: Callable[[int], Tensor]
) -> Iterator[tuple[int, Tensor | DataError]]:
    """As `read_ahead`, one after the other."""
    for number in numbers:
        try:
            yield number, load(number)
        except DataError as error:
            yield number, error
