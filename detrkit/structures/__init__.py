"""The contracts that flow through detrkit: targets, image preparation, classes, detections."""

from typing import TYPE_CHECKING

from detrkit.lazy import lazily

if TYPE_CHECKING:
    from detrkit.structures.class_map import ClassMap
    from detrkit.structures.detections import Detections
    from detrkit.structures.image_spec import ImageSpec
    from detrkit.structures.target import Batch, Target

__all__ = ["Batch", "ClassMap", "Detections", "ImageSpec", "Target"]

__getattr__ = lazily(
    __name__,
    {
        "Batch": "target",
        "ClassMap": "class_map",
        "Detections": "detections",
        "ImageSpec": "image_spec",
        "Target": "target",
    },
)
