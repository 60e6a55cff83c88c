"""Pictures of the batches that the model really sees: the first thing to look at."""

from __future__ import annotations

import logging
from pathlib import Path

from detrkit.engine.observers.base import Observer, StepReport
from detrkit.files import write_atomically
from detrkit.structures import ClassMap, ImageSpec

log = logging.getLogger("detrkit")


class BatchPictures(Observer):
    """Draws the first training batches of an epoch as `batches/epoch_000_batch_0.jpg`.

    Args:
        folder: made when the first picture is written.
        class_map: names and colours.
        spec: to turn images back into 0-255 RGB.
        epochs: the epochs whose batches are drawn: the first, and the first of each stage.
        count: batches per epoch.
    """

    def __init__(
        self,
        folder: Path,
        class_map: ClassMap,
        spec: ImageSpec,
        epochs: frozenset[int] = frozenset({0}),
        count: int = 2,
    ) -> None:
        self.folder = folder
        self.class_map = class_map
        self.spec = spec
        self.epochs = epochs
        self.count = count

    def step(self, report: StepReport) -> None:
        """Draws the batch if it is one of the chosen."""
        if (
            report.phase != "train"
            or report.epoch not in self.epochs
            or report.batch >= self.count
            or report.data is None
        ):
            return
        from detrkit.engine.pictures import batch_picture

        try:
            picture = batch_picture(report.data, self.class_map, self.spec)
            self.folder.mkdir(exist_ok=True)
            path = self.folder / f"epoch_{report.epoch:03d}_batch_{report.batch}.jpg"
            write_atomically(path, lambda file: picture.save(file, format="JPEG", quality=90))
        except Exception as error:
            # a picture is not worth a training run
            log.warning("no picture of batch %d: %s", report.batch, error)
            self.count = 0
