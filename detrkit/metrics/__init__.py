"""What a detector is worth: COCO average precision and recall."""

from detrkit.metrics.coco import METRIC_NAMES, ClassMetrics, CocoEvaluator, GroundTruth, Metrics

__all__ = ["METRIC_NAMES", "ClassMetrics", "CocoEvaluator", "GroundTruth", "Metrics"]
