"""Everything that detections and boxes say about a detector, from one matching pass."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from detrkit.metrics.average_precision import RECALLS
from detrkit.metrics.breakdown import Breakdown, breakdown
from detrkit.metrics.calibration import SHOWN, Calibration, calibration
from detrkit.metrics.coco import DEFAULT_BACKEND, Backend, Metrics, count
from detrkit.metrics.confusion import Confusion, confusion
from detrkit.metrics.curves import CONFIDENCES, ConfidenceCurves
from detrkit.metrics.matching import Matches, match
from detrkit.metrics.predictions import Predictions
from detrkit.metrics.schema import (
    SCHEMA,
    CurvesJson,
    EvaluationJson,
    KindJson,
    ModelJson,
    OverActivationJson,
    SpeedJson,
    WorstJson,
)
from detrkit.metrics.tide import Tide, tide
from detrkit.metrics.truth import Truth
from detrkit.metrics.worst import Kind, Sources, Worst, worst
from detrkit.metrics.yolo_table import YoloTable, yolo_table

#: Of the thresholds that are counted, so many apart are written to JSON.
_EVERY = 10
#: Of each kind of error, so many cases are.
_CASES = 100


@dataclass(frozen=True)
class EvaluationReport:
    """What an evaluation found; `to_dict` is the layout of `metrics.json` (see `schema`).

    Attributes:
        metrics: COCO's numbers, in all and per class.
        yolo: precision, recall and F1 at the best threshold.
        curves: counts over the confidence.
        confusion: which class is taken for which.
        tide: why AP is lost.
        calibration: whether scores are probabilities.
        breakdown: recall by size and density.
        worst: errors worth looking at, of the detector and perhaps of the labels.
        matches: who found what, for pictures of errors; the truth is in it.
        predictions: all detections, in the order of the images.
    """

    metrics: Metrics
    yolo: YoloTable
    curves: ConfidenceCurves
    confusion: Confusion
    tide: Tide
    calibration: Calibration
    breakdown: Breakdown
    worst: Worst
    matches: Matches
    predictions: Predictions

    def to_dict(
        self,
        speed: SpeedJson | None = None,
        model: ModelJson | None = None,
        sources: Sources | None = None,
        over_activation: OverActivationJson | None = None,
    ) -> EvaluationJson:
        """Plain values for JSON.

        Args:
            speed, model: of the model that was run; None where there was none.
            sources: the data set, for files and ids of annotations.
            over_activation: on images without targets, where they were looked at.
        """
        numbers = self.metrics.to_dict()
        return {
            "schema": SCHEMA,
            "metrics": numbers["metrics"],
            "classes": numbers["classes"],
            "images": numbers["images"],
            "boxes": numbers["boxes"],
            "detections": numbers["detections"],
            "backend": numbers["backend"],
            "yolo": _plain(self.yolo),
            "curves": self._curves(),
            "confusion": {
                "confidence": self.confusion.confidence,
                "names": list(self.confusion.names),
                "counts": self.confusion.counts.tolist(),
            },
            "tide": _plain(self.tide),
            "calibration": _plain(self.calibration),
            "breakdown": _plain(self.breakdown),
            "worst": self._worst(sources),
            "over_activation": over_activation,
            "speed": speed,
            "model": model,
        }

    def _curves(self) -> CurvesJson:
        curves = self.curves
        return {
            "recalls": RECALLS.tolist(),
            "precision_50": self.metrics.precision_50.round(6).tolist(),
            "confidences": CONFIDENCES[::_EVERY].tolist(),
            "precision": curves.precision[:, ::_EVERY].round(6).tolist(),
            "recall": curves.recall[:, ::_EVERY].round(6).tolist(),
            "f1": curves.f1[:, ::_EVERY].round(6).tolist(),
        }

    def _worst(self, sources: Sources | None) -> WorstJson:
        truth = self.matches.truth

        def of(kind: Kind) -> KindJson:
            cases = self.worst[kind]
            first = cases.first(_CASES)
            return {
                "total": len(cases),
                "cases": first.describe(truth, self.predictions, sources),
            }

        return {
            "false_positive": of(Kind.FALSE_POSITIVE),
            "miss": of(Kind.MISS),
            "confusion": of(Kind.CONFUSION),
            "missing_label": of(Kind.MISSING_LABEL),
            "wrong_class": of(Kind.WRONG_CLASS),
            "unsupported": of(Kind.UNSUPPORTED),
        }


def evaluate(
    truth: Truth, predictions: Predictions, backend: Backend = DEFAULT_BACKEND
) -> EvaluationReport:
    """Measures detections.

    Args:
        truth: N images with their boxes.
        predictions: finite, of any order, with labels of the truth's classes.
        backend: what counts COCO's numbers; the rest is counted here.
    """
    predictions = predictions.by_image()
    matches = match(truth, predictions)
    metrics = count(truth, predictions, backend, matches)
    outcome = matches.at_50
    curves = ConfidenceCurves.of(truth, outcome)
    table = yolo_table(truth, outcome, curves, metrics)
    confidence = SHOWN if table.confidence is None else table.confidence
    return EvaluationReport(
        metrics=metrics,
        yolo=table,
        curves=curves,
        confusion=confusion(truth, outcome, confidence),
        tide=tide(truth, predictions),
        calibration=calibration(outcome),
        breakdown=breakdown(truth, outcome, confidence),
        worst=worst(truth, outcome, confidence),
        matches=matches,
        predictions=predictions,
    )


def _plain(value: Any) -> Any:
    """A dataclass as dictionaries and lists."""
    found = asdict(value)
    return {k: list(v) if isinstance(v, tuple) else v for k, v in found.items()}
