"""What a detector is worth: COCO average precision and recall, and where they are lost."""

from detrkit.metrics.coco import METRIC_NAMES, ClassMetrics, CocoEvaluator, Metrics
from detrkit.metrics.over_activation import (
    OA_NAMES,
    FalseDetections,
    Negatives,
    OverActivation,
    over_activation,
)
from detrkit.metrics.predictions import Predictions
from detrkit.metrics.report import EvaluationReport, evaluate
from detrkit.metrics.truth import GroundTruth, Truth

__all__ = [
    "METRIC_NAMES",
    "OA_NAMES",
    "ClassMetrics",
    "CocoEvaluator",
    "EvaluationReport",
    "FalseDetections",
    "GroundTruth",
    "Metrics",
    "Negatives",
    "OverActivation",
    "Predictions",
    "Truth",
    "evaluate",
    "over_activation",
]
