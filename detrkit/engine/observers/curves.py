"""`curves.png`, drawn when training stops."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from detrkit.engine.observers.base import Observer
from detrkit.engine.run_log import read_log
from detrkit.files import write_atomically

log = logging.getLogger("detrkit")


class Curves(Observer):
    """Draws the curves of all epochs so far; an unfinished run needs two of them.

    Args:
        path: of the picture.
        table: `log.jsonl`.
        name: of the run; the title.
        epochs: planned.
        stages: name and first epoch (from 0) of each.
    """

    def __init__(
        self, path: Path, table: Path, name: str, epochs: int, stages: Sequence[tuple[str, int]]
    ) -> None:
        self.path, self.table, self.name = path, table, name
        self.epochs, self.stages = epochs, stages

    def close(self) -> None:
        """Draws; a failure costs the picture only."""
        from detrkit.engine.curves import RunCurves, draw_curves

        try:
            rows = read_log(self.table)
            if not rows or (len(rows) < 2 and rows[-1]["epoch"] + 1 < self.epochs):
                return
            picture = draw_curves([RunCurves(self.name, rows, self.stages)])
            write_atomically(self.path, lambda file: picture.save(file, format="PNG"))
        except Exception as error:  # a picture is not worth a training run
            log.warning("no picture of the curves: %s", error)
