"""Runs a detector over images without targets and collects the scores of what it finds."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from torch import Tensor

from detrkit.data.image_check import read_indexed
from detrkit.data.index import DatasetIndex
from detrkit.engine.evaluator import Progress
from detrkit.engine.read_ahead import read_ahead
from detrkit.engine.runtime import Runtime
from detrkit.errors import DataError
from detrkit.metrics import OverActivation, over_activation


@dataclass(frozen=True)
class FalseDetections:
    """What was found where there is nothing.

    Attributes:
        scores: of each image that could be read, (number of detections,), best first.
        paths: of these images.
        broken: why the others could not be read, by path.
    """

    scores: list[npt.NDArray[np.float32]]
    paths: list[str]
    broken: dict[str, str]

    def at(self, threshold: float) -> OverActivation:
        """Their numbers from a score on.

        Raises:
            DataError: no image could be read.
        """
        if not self.scores:
            raise DataError(
                f"none of the {len(self.broken)} images without targets can be read, "
                f"e.g. {next(iter(self.broken.values()), 'there are none')}"
            )
        return over_activation(self.scores, [threshold])[0]


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

    found = FalseDetections([], [], {})
    numbers = range(len(index))
    images = read_ahead(numbers, load, 2 * batch) if ahead else _read(numbers, load)
    batches = -(-len(index) // batch)
    for done in range(batches):
        if stop is not None and stop():
            return None
        readable: list[Tensor] = []
        for _ in range(min(batch, len(index) - done * batch)):
            number, image = next(images)
            path = index.paths[number]
            if isinstance(image, DataError):
                found.broken[path] = image.message
            else:
                found.paths.append(path)
                readable.append(image)
        found.scores.extend(answer.scores for answer in runtime.predict(readable))
        if progress is not None:
            progress(done + 1, batches)
    return found


def _read(
    numbers: range, load: Callable[[int], Tensor]
) -> Iterator[tuple[int, Tensor | DataError]]:
    """As `read_ahead`, one after the other."""
    for number in numbers:
        try:
            yield number, load(number)
        except DataError as error:
            yield number, error
