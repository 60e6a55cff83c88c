"""What a detector is worth: COCO average precision and recall."""

from detrkit.metrics.coco import METRIC_NAMES, ClassMetrics, CocoEvaluator, Metrics
from detrkit.metrics.truth import GroundTruth

__all__ = ["METRIC_NAMES", "ClassMetrics", "CocoEvaluator", "GroundTruth", "Metrics"]
