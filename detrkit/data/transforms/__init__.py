"""Transforms under the authors' names; see `compose.Transform` for how to write one."""

from detrkit.data.transforms.color import RandomPhotometricDistort
from detrkit.data.transforms.compose import Compose, Transform
from detrkit.data.transforms.convert import ConvertBoxes, ConvertPILImage, EmptyTransform, Normalize
from detrkit.data.transforms.geometry import (
    PadToSize,
    RandomCrop,
    RandomHorizontalFlip,
    RandomIoUCrop,
    RandomZoomOut,
    Resize,
    SanitizeBoundingBoxes,
)
from detrkit.data.transforms.mosaic import Mosaic

__all__ = [
    "Compose",
    "ConvertBoxes",
    "ConvertPILImage",
    "EmptyTransform",
    "Mosaic",
    "Normalize",
    "PadToSize",
    "RandomCrop",
    "RandomHorizontalFlip",
    "RandomIoUCrop",
    "RandomPhotometricDistort",
    "RandomZoomOut",
    "Resize",
    "SanitizeBoundingBoxes",
    "Transform",
]
