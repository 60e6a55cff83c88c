"""The end of a pipeline: what becomes of pixels and boxes when a sample joins a batch."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from detrkit.data.sample import Sample
from detrkit.registry import MODULES


@MODULES.register(family="transform", example={})
class ConvertPILImage:
    """Asks for float pixels. The batch is converted at once, so here this is only noted.

    Args:
        dtype: only "float32".
        scale: divide by 255.
    """

    def __init__(self, dtype: str = "float32", scale: bool = True) -> None:
        if dtype != "float32":
            raise ValueError(f"images become float32, got dtype {dtype!r}")
        self.factor = 1 / 255 if scale else 1.0

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        """Notes the factor."""
        sample.scale = self.factor
        return sample


@MODULES.register(family="transform", example={"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]})
class Normalize:
    """(x - mean) / std per channel, after scaling to 0–1. Noted here, done by the batch.

    Args:
        mean: per channel.
        std: per channel.
        inplace: accepted and without effect.
    """

    def __init__(self, mean: Sequence[float], std: Sequence[float], inplace: bool = False) -> None:
        if not len(mean) == len(std) > 0:
            raise ValueError(
                f"mean and std need a value per channel, got {len(mean)} and {len(std)}"
            )
        if not all(s > 0 for s in std):
            raise ValueError(f"std must be positive, got {list(std)}")
        self.mean = tuple(float(m) for m in mean)
        self.std = tuple(float(s) for s in std)

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        """Notes mean and deviation."""
        sample.mean, sample.std = self.mean, self.std
        return sample


@MODULES.register(family="transform", example={})
class ConvertBoxes:
    """Accepted for the authors' files: targets always leave as cxcywh fractions.

    Args:
        fmt: "cxcywh", or empty.
        normalize: whether the boxes are fractions.
    """

    def __init__(self, fmt: str = "cxcywh", normalize: bool = True) -> None:
        if fmt and fmt.lower() != "cxcywh":
            raise ValueError(f"targets are cxcywh, got fmt {fmt!r}")

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        """Nothing to do."""
        return sample


@MODULES.register(family="transform", example={})
class EmptyTransform:
    """Does nothing."""

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        """Nothing to do."""
        return sample
