"""The training that a data set is judged for: input size, queries, length."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from detrkit.structures import ImageSpec


@dataclass(frozen=True)
class TrainingSetup:
    """What the analysis needs to know of a configuration; the defaults are those of most models.

    Attributes:
        image_spec: how pictures become the input.
        num_queries: objects that the decoder can look for in one image.
        num_top_queries: detections kept per image.
        strides: of the feature maps, finest first.
        batch: images per step.
        epochs: None: not decided yet.
        mosaic: whether four pictures are put together; None: not known.
        source: name of the configuration; empty: none was given.
        queries_key: dotted key of `num_queries` in that configuration.
    """

    image_spec: ImageSpec = field(default_factory=lambda: ImageSpec((640, 640)))
    num_queries: int = 300
    num_top_queries: int = 300
    strides: tuple[int, ...] = (8, 16, 32)
    batch: int = 16
    epochs: int | None = None
    mosaic: bool | None = None
    source: str = ""
    queries_key: str = ""

    @property
    def size(self) -> tuple[int, int]:
        """(h, w) of the input."""
        return self.image_spec.size

    @property
    def most_found(self) -> int:
        """Objects of one image that can be found at most."""
        return min(self.num_queries, self.num_top_queries)

    @property
    def size_text(self) -> str:
        """The input as it is written in sentences."""
        return size_text(self.size)

    def scales(
        self, sizes: npt.NDArray[np.integer], size: tuple[int, int] | None = None
    ) -> npt.NDArray[np.float64]:
        """Factors from pixels of the files to pixels of the input.

        Args:
            sizes: (N, 2) h, w of the files.
            size: (h, w) of another input; default this one's.

        Returns:
            (N, 2) factors of x and y.
        """
        target = np.asarray(size or self.size, np.float64)
        factors = target / np.maximum(sizes, 1)  # (N, 2) of y and x
        if self.image_spec.resize == "letterbox":
            factors = np.repeat(factors.min(axis=1, keepdims=True), 2, axis=1)
        return factors[:, ::-1]

    def to_dict(self) -> Mapping[str, Any]:
        """Plain values, for JSON."""
        return {**asdict(self), "image_spec": self.image_spec.to_dict()}


def size_text(size: tuple[int, int]) -> str:
    """`640x640`; `480x640 (height x width)`, which is how `--size` takes it."""
    h, w = size
    return f"{h}x{w}" if h == w else f"{h}x{w} (height x width)"
