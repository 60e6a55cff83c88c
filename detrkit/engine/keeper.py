"""Which checkpoints a run keeps, and where."""

from __future__ import annotations

import logging
import os
import shutil
import time
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from detrkit.engine.checkpoint import Checkpoint
from detrkit.engine.distributed.launch import note_progress
from detrkit.engine.run_dir import RunDirectory
from detrkit.errors import DetrkitError, WeightsError
from detrkit.files import patiently, write_atomically
from detrkit.structures import ClassMap, ImageSpec

log = logging.getLogger("detrkit")


@dataclass
class Keeper:
    """Writes a run's checkpoints; only the main process writes.

    Attributes:
        directory: of the run.
        config, config_name, class_map, image_spec: stored in every file.
        images: in the training data; stored as well.
        every: also keep `epoch_NNNN.pth` every so many epochs; 0: never.
        seconds: save `last.pth` inside an epoch when the last save is older than this.
        writes: False in all but the main process.
    """

    directory: RunDirectory
    config: dict[str, Any] | None = None
    config_name: str = ""
    class_map: ClassMap | None = None
    image_spec: ImageSpec | None = None
    images: int | None = None
    every: int = 0
    seconds: float = 1800.0
    writes: bool = True
    _saved_at: float = field(default_factory=time.monotonic)

    def is_due(self) -> bool:
        """Whether it is time to save inside an epoch; never in a process that does not write."""
        return self.writes and time.monotonic() - self._saved_at >= self.seconds

    def can_resume(self) -> bool:
        """Whether there is a `last.pth`."""
        return self.directory.last.is_file()

    def save_last(self, snapshot: Checkpoint) -> None:
        """Writes `last.pth`, and the numbered copy when an epoch that is due has just ended.

        A state inside an epoch, or amid steps that were dropped, leaves the last good one as
        `epoch_start.pth`.

        Raises:
            DetrkitError: `last.pth` cannot be written; the one before is unchanged. The run goes
                on without a numbered copy.
        """
        self._saved_at = time.monotonic()
        snapshot = self.complete(snapshot)
        if not _is_good(snapshot):
            self._keep_start()
        self._write(snapshot, self.directory.last)
        if self.writes:
            note_progress()
        self._follow(snapshot)

    def settle(self, last: Checkpoint) -> None:
        """Does what a process that was killed right behind `last.pth` had still to do."""
        copied = self.directory.numbered(last.last_epoch + 1).exists()
        self._follow(self.complete(last), copy=not copied)

    def _follow(self, last: Checkpoint, *, copy: bool = True) -> None:
        """What comes behind `last.pth`."""
        if self.writes and _is_good(last):
            self.directory.epoch_start.unlink(missing_ok=True)
        done, ended = last.last_epoch + 1, last.position.get("batch", 0) == 0
        if copy and self.every and ended and done and done % self.every == 0:
            try:
                self._write(last, self.directory.numbered(done))
            except DetrkitError as error:
                log.warning("%s; the run goes on without this copy", error.message)

    def save_start(self, snapshot: Checkpoint) -> None:
        """Writes the state with which a run begins or continues at the start of an epoch."""
        self._write(self.complete(snapshot), self.directory.epoch_start)

    def load_good(self) -> Checkpoint | None:
        """The state at the latest start of an epoch that no dropped step came right before.

        Without `epoch_start.pth` this is `last.pth`; None: neither can be read.
        """
        for file in (self.directory.epoch_start, self.directory.last):
            if not file.is_file():
                continue
            try:
                return Checkpoint.load(file)
            except WeightsError as error:
                log.warning("%s", error)
        return None

    def _keep_start(self) -> None:
        last, start = self.directory.last, self.directory.epoch_start
        if not self.writes or start.exists() or not last.exists():
            return
        try:
            os.link(last, start)
        except OSError:  # a file system without links
            with last.open("rb") as file:
                write_atomically(start, lambda copy: shutil.copyfileobj(file, copy))

    def save_best(self, snapshot: Checkpoint, *, for_restart: bool) -> None:
        """Writes `best.pth` (averaged weights only).

        Args:
            snapshot: the full state.
            for_restart: also write the full state that stage 2 will start from.
        """
        snapshot = self.complete(snapshot)
        if for_restart:
            self._write(snapshot, self.directory.best_stage1)
        self._write(snapshot.stripped(), self.directory.best)

    def load_best_stage1(self) -> Checkpoint | None:
        """The full state at the best epoch of stage 1, or None (with a warning) without one."""
        if not self.directory.best_stage1.is_file():
            log.warning(
                "%s is missing: stage 2 goes on from the present weights",
                self.directory.best_stage1,
            )
            return None
        return Checkpoint.load(self.directory.best_stage1)

    def complete(self, snapshot: Checkpoint) -> Checkpoint:
        """With the configuration, the classes and the ImageSpec of the run."""
        return replace(
            snapshot,
            config=self.config,
            config_name=self.config_name,
            class_map=self.class_map,
            image_spec=self.image_spec,
            images=self.images,
        )

    def _write(self, checkpoint: Checkpoint, path: Path) -> None:
        if self.writes:
            patiently(partial(checkpoint.save, path), path)


def _is_good(state: Checkpoint) -> bool:
    """Whether it is the start of an epoch that no dropped step came right before."""
    return not state.position.get("batch", 0) and not state.position.get("skips_in_a_row")
