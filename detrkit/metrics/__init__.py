"""What a detector is worth: COCO average precision and recall, false detections."""

from detrkit.metrics.coco import METRIC_NAMES, ClassMetrics, CocoEvaluator, GroundTruth, Metrics
from detrkit.metrics.over_activation import OA_NAMES, OverActivation, over_activation

__all__ = [
    "METRIC_NAMES",
    "OA_NAMES",
    "ClassMetrics",
    "CocoEvaluator",
    "GroundTruth",
    "Metrics",
    "OverActivation",
    "over_activation",
]
