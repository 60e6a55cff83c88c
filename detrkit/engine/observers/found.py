"""What the evaluation of an epoch found, beyond its numbers: the best detections, YOLO's table."""

from __future__ import annotations

import logging
from pathlib import Path

from detrkit.engine.evaluator import Evaluator
from detrkit.engine.observers.base import EpochReport, Observer
from detrkit.errors import DetrkitError
from detrkit.metrics.results_file import write_results

log = logging.getLogger("detrkit")


class Found(Observer):
    """Keeps the detections of the best epoch, and logs the table of every epoch if there is one.

    Where the file cannot be written (a full disk), a warning says so and the run goes on.

    Args:
        evaluator: of the run; it has the detections of the epoch that just ended.
        best: COCO results of the best epoch.
    """

    def __init__(self, evaluator: Evaluator, best: Path) -> None:
        self.evaluator = evaluator
        self.best = best

    def epoch(self, report: EpochReport) -> None:
        """After the evaluation of an epoch."""
        if self.evaluator.table is not None:
            for line in self.evaluator.table.lines():
                log.info("%s", line)
        truth, predictions = self.evaluator.truth, self.evaluator.predictions
        if not report.is_best or not report.metrics or truth is None or predictions is None:
            return
        try:
            write_results(self.best, predictions, truth.image_ids, truth.class_map.category_ids)
        except DetrkitError as error:
            log.warning("%s; the run goes on without", error.message)
