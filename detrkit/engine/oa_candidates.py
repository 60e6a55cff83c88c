"""Which epoch becomes `best_oa.pth`: good enough, and with the fewest false detections.

Of all epochs whose AP is at most `tolerance` below the best AP of the run, the one with

    the lowest oa_fppi, then the lowest oa_max_score, then the highest AP, then the earliest.

The best AP may rise later and push the chosen epoch out of the tolerance; then an epoch that was
passed over before may be the answer. So the weights of all epochs that can still become it are
kept, in `oa_candidates/`: those within the tolerance to which no other epoch is superior in both
AP and false detections. There are few of them. A file whose metrics have no `oa_fppi` waits for
its numbers; so whatever is pending survives an interruption.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from detrkit.engine.checkpoint import Checkpoint
from detrkit.engine.run_dir import RunDirectory
from detrkit.errors import DetrkitError

log = logging.getLogger("detrkit")

#: Numbers that differ by less are equal: 0.5 - 0.01 is not below 0.49.
_TINY = 1e-9


@dataclass(frozen=True)
class Candidate:
    """An epoch whose false detections are counted.

    Attributes:
        epoch: from 0.
        ap: the metric that makes an epoch the best one.
        fppi, max_score: `oa_fppi` and `oa_max_score`.
    """

    epoch: int
    ap: float
    fppi: float
    max_score: float

    def is_superior(self, other: Candidate) -> bool:
        """Whether this one is chosen before `other` whenever both are within the tolerance, and is
        within it whenever `other` is.
        """
        return self.ap >= other.ap and self._rank < other._rank

    @property
    def _rank(self) -> tuple[float, float, float, int]:
        return self.fppi, self.max_score, -self.ap, self.epoch


@dataclass(frozen=True)
class Waiting:
    """Weights of an epoch whose false detections are not counted yet.

    Attributes:
        path: of the file.
        epoch: from 0.
        step: optimizer steps that were done when it ended.
    """

    path: Path
    epoch: int
    step: int


def chosen(candidates: Iterable[Candidate], best: float, tolerance: float) -> Candidate | None:
    """The candidate for `best_oa.pth`; None where none is within the tolerance."""
    good = [c for c in candidates if c.ap >= best - tolerance - _TINY]
    return min(good, key=lambda c: c._rank, default=None)


def still_possible(
    candidates: Iterable[Candidate], best: float, tolerance: float
) -> list[Candidate]:
    """Those that are chosen now or may be once the best AP has risen."""
    good = [c for c in candidates if c.ap >= best - tolerance - _TINY]
    return [c for c in good if not any(other.is_superior(c) for other in good)]


class CandidateFiles:
    """The candidates' weights in the folder of a run, and `best_oa.pth`.

    Args:
        directory: of the run.
        tolerance: how far below the best AP an epoch may be.
        metric: which metric that is.
    """

    def __init__(self, directory: RunDirectory, tolerance: float, metric: str = "AP") -> None:
        self.folder = directory.oa_candidates
        self.result = directory.best_oa
        self.tolerance, self.metric = tolerance, metric
        self.best: float | None = None
        self.candidates: list[Candidate] = []
        self._written: int | None = None  # epoch in `best_oa.pth`

    def begin(self, epoch: int, best: float | None) -> list[Waiting]:
        """Takes over what an earlier part of the run has left.

        Args:
            epoch: that the run goes on with; what is left of it and later ones is removed.
            best: the best AP so far.

        Returns:
            What waits for its numbers, the earliest first.
        """
        self.best = best
        waiting = []
        for path in sorted(self.folder.glob("epoch_*.pth")):
            found = _read(path)
            if found is None or found.last_epoch >= epoch:
                path.unlink(missing_ok=True)
            elif "oa_fppi" in found.metrics:
                self.candidates.append(self._candidate(found))
            else:
                step = int(found.position.get("step", 0))
                waiting.append(Waiting(path, found.last_epoch, step))
        result = _read(self.result) if self.result.is_file() else None
        self._written = None if result is None else result.last_epoch
        if self._written is not None and self._written >= epoch:
            self.result.unlink()
            self._written = None
        self._choose()
        return waiting

    def path(self, epoch: int) -> Path:
        """Where an epoch's weights are kept."""
        return self.folder / f"epoch_{epoch + 1:04d}.pth"

    def add(self, checkpoint: Checkpoint, step: int) -> Waiting:
        """Keeps weights until their false detections are counted.

        Args:
            checkpoint: weights and metadata, without the state of the training.
            step: optimizer steps done.

        Raises:
            DetrkitError: they cannot be written.
        """
        ap = self._ap(checkpoint.metrics)
        if ap is not None and (self.best is None or ap > self.best):
            self.best = ap
        with suppress(OSError):  # the next line says what is wrong
            self.folder.mkdir(exist_ok=True)
        path = self.path(checkpoint.last_epoch)
        replace(checkpoint, position={"step": step}).save(path)
        return Waiting(path, checkpoint.last_epoch, step)

    def settle(self, path: Path, numbers: Mapping[str, float]) -> None:
        """Decides about an epoch, and anew about all others, once its numbers are there.

        Raises:
            DetrkitError: a file cannot be read or written.
        """
        checkpoint = Checkpoint.load(path)
        checkpoint = replace(checkpoint, metrics={**checkpoint.metrics, **numbers})
        if self._ap(checkpoint.metrics) is None:
            path.unlink()
            return
        checkpoint.save(path)
        self.candidates.append(self._candidate(checkpoint))
        self._choose()

    def drop(self, path: Path) -> None:
        """Gives an epoch up, whose false detections could not be counted."""
        with suppress(OSError):
            path.unlink()

    def clear(self) -> None:
        """Removes all but `best_oa.pth`: the run is over."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _choose(self) -> None:
        if self.best is None:
            return
        kept = still_possible(self.candidates, self.best, self.tolerance)
        best = chosen(kept, self.best, self.tolerance)
        if best is not None and best.epoch != self._written:
            Checkpoint.load(self.path(best.epoch)).save(self.result)
            self._written = best.epoch
        for candidate in self.candidates:
            if candidate not in kept:
                self.drop(self.path(candidate.epoch))
        self.candidates = kept

    def _candidate(self, checkpoint: Checkpoint) -> Candidate:
        metrics = checkpoint.metrics
        return Candidate(
            checkpoint.last_epoch,
            float(metrics[self.metric]),
            float(metrics["oa_fppi"]),
            float(metrics["oa_max_score"]),
        )

    def _ap(self, metrics: Mapping[str, float]) -> float | None:
        """None where nothing was evaluated, or there was nothing to find (COCO's -1)."""
        ap = metrics.get(self.metric)
        return None if ap is None or ap < 0 else float(ap)


def _read(path: Path) -> Checkpoint | None:
    """None, with a warning, where it is damaged."""
    try:
        return Checkpoint.load(path)
    except DetrkitError as error:
        log.warning("%s", error.message)
        return None
