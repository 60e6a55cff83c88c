"""The contracts that flow through detrkit: targets, image preparation, classes, detections."""

from detrkit.structures.class_map import ClassMap
from detrkit.structures.detections import Detections
from detrkit.structures.image_spec import ImageSpec
from detrkit.structures.target import Batch, Target

__all__ = ["Batch", "ClassMap", "Detections", "ImageSpec", "Target"]
