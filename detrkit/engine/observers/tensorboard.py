"""TensorBoard events, in the run's folder or below `summary_dir`."""

from __future__ import annotations

import io
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from detrkit.engine.observers.tracker import Outcome, RunFacts, Tracker

#: Pixels of a picture's longer side; events hold every picture as a whole.
_LARGEST = 1280


class TensorBoard(Tracker):
    """Curves and pictures; after an interruption, points that will be made again are hidden.

    Args:
        folder: where events go; None: the run's.
    """

    name = "tensorboard"

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # tensorboard's own imports warn on new Pythons
            from torch.utils.tensorboard import SummaryWriter

        self._open: Any = SummaryWriter

    def begin(self, run: RunFacts) -> Mapping[str, str]:
        """Opens a new file of events beside those of the run's earlier parts."""
        folder = self.folder or run.folder
        self.writer = self._open(str(folder), purge_step=run.first_step or None)
        self.where = f"tensorboard --logdir {folder}"
        return {}

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        """Points of curves; metrics reach the disk at once."""
        for name, value in values.items():
            self.writer.add_scalar(name, value, step)
        if "epoch" in values:
            self.writer.flush()

    def picture(self, name: str, path: Path, step: int) -> None:
        """The picture, not larger than a screen.

        As the JPEG that it is: `add_image` takes pixels, packs them as PNG of several times the
        size and sums that up byte by byte in Python, which takes longer than a step of training.
        """
        from PIL import Image
        from tensorboard.compat.proto.summary_pb2 import Summary

        with Image.open(path) as image:
            kind, large = image.format, max(image.size) > _LARGEST
            image.thumbnail((_LARGEST, _LARGEST))
            packed = io.BytesIO()
            if large:
                image.save(packed, kind, quality=90)
            shown = Summary.Image(
                width=image.width,
                height=image.height,
                colorspace=len(image.getbands()),
                encoded_image_string=packed.getvalue() if large else path.read_bytes(),
            )
        summary = Summary(value=[Summary.Value(tag=name, image=shown)])
        self.writer.file_writer.add_summary(summary, step)

    def end(self, outcome: Outcome, best: Mapping[str, float], files: Sequence[Path]) -> None:
        """Closes the file; tables stay where they are."""
        self.writer.close()
