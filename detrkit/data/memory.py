"""Small pictures kept for the next time they are needed: faster, and nothing else.

A process keeps here what it made of images. The images themselves, decoded, are kept for all
processes by `detrkit.data.caching`.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

from detrkit.data.sample import Sample


class PictureMemory:
    """The samples that were used last, as far as they fit.

    What is found in it equals what would be read again, so no result depends on its content.
    Whoever takes a sample out must not write to it.

    Args:
        limit: bytes of pixels.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.used = 0
        self._samples: OrderedDict[int, Sample] = OrderedDict()

    def __len__(self) -> int:
        return len(self._samples)

    def get(self, number: int) -> Sample | None:
        """The sample kept under `number`."""
        sample = self._samples.get(number)
        if sample is not None:
            self._samples.move_to_end(number)
        return sample

    def put(self, number: int, sample: Sample) -> None:
        """Keeps a sample and drops those that were not used for longest."""
        self._drop(number)
        self._samples[number] = sample
        self.used += sample.image.nbytes
        while self.used > self.limit:
            self._drop(next(iter(self._samples)))

    def clear(self) -> None:
        """Drops all."""
        self._samples.clear()
        self.used = 0

    def _drop(self, number: int) -> None:
        sample = self._samples.pop(number, None)
        if sample is not None:
            self.used -= sample.image.nbytes

    def __getstate__(self) -> dict[str, Any]:
        """Processes start with an empty one."""
        return {"limit": self.limit, "used": 0, "_samples": OrderedDict()}
