"""What a training run ends with: its numbers, its files, and the last of them to be made."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from detrkit.engine.checkpoint import Checkpoint
from detrkit.engine.final_report import write_final_report
from detrkit.engine.load_report import LoadReport
from detrkit.engine.observers import Tracking
from detrkit.engine.parts import build_postprocessor
from detrkit.engine.pictures import detections_picture
from detrkit.engine.run_dir import RunDirectory
from detrkit.engine.run_log import read_log, seconds_of
from detrkit.engine.session import Session
from detrkit.engine.state import TrainState
from detrkit.engine.trainer import Trainer

log = logging.getLogger("detrkit")


@dataclass
class RunResult:
    """A finished run.

    Attributes:
        directory: its folder.
        best: the best checkpoint.
        epochs: of the plan.
        trained: how many of them were trained; fewer where the run ended early.
        best_epoch: from 0.
        best_metric: what made it the best.
        ended_early: why the run ended before its plan; None: it did not.
        metrics: of the best epoch; empty without validation data.
        picture: detections on validation images, or None.
        loaded: what was loaded from tuning weights, or None.
        seconds: of training and evaluation, over all parts of an interrupted run.
        links: where trackers show it, by their names.
    """

    directory: Path
    best: Path
    epochs: int
    best_epoch: int
    metrics: dict[str, float] = field(default_factory=dict)
    picture: Path | None = None
    loaded: LoadReport | None = None
    seconds: float = 0.0
    links: dict[str, str] = field(default_factory=dict)
    trained: int = 0
    best_metric: str = "AP"
    ended_early: str | None = None

    @property
    def files(self) -> dict[str, Path]:
        """What the run left, by what it is; only what is there."""
        run = RunDirectory(self.directory)
        found = {
            "run": run.path,
            "weights": run.best,
            "best_oa": run.best_oa,
            "last": run.last,
            "log": run.log,
            "table": run.results,
            "curves": run.curves,
            "detections": run.detections,
            "report": run.report,
            "batches": run.batches,
            "profile": run.profile,
        }
        return {name: path for name, path in found.items() if path.exists()}

    def to_dict(self) -> dict[str, Any]:
        """Plain data for `--json`."""
        return {
            "directory": str(self.directory),
            "best": str(self.best),
            "epochs": self.epochs,
            "trained_epochs": self.trained,
            "ended_early": self.ended_early,
            "best_epoch": self.best_epoch + 1,
            "best_metric": self.best_metric,
            "metrics": self.metrics,
            "picture": str(self.picture) if self.picture else None,
            "loaded": self.loaded.to_dict() if self.loaded else None,
            "seconds": round(self.seconds, 1),
            "files": {name: str(path) for name, path in self.files.items()},
            "links": self.links,
        }


def result_of(
    session: Session,
    trainer: Trainer,
    directory: RunDirectory,
    state: TrainState,
    loaded: LoadReport | None,
) -> RunResult:
    """The result of a run that ends now; draws the last picture and writes the report.

    Args:
        session, trainer, directory: of the run.
        state: in which it ended.
        loaded: what was loaded from tuning weights, if any.
    """
    best = Checkpoint.load(directory.best)
    picture = _final_picture(session, trainer, directory, best)
    write_final_report(session, directory)
    links: dict[str, str] = {}
    for observer in trainer.observers:
        if isinstance(observer, Tracking):
            links |= observer.links
    return RunResult(
        directory=directory.path,
        best=directory.best,
        epochs=session.plan.epochs,
        best_epoch=state.best_epoch,
        metrics=best.metrics,
        picture=picture,
        loaded=loaded,
        seconds=seconds_of(read_log(directory.log)),
        links=links,
        trained=state.epoch - state.skipped,
        best_metric=trainer.judge.metric,
        ended_early=state.ended_early,
    )


def result_of_finished(directory: RunDirectory, last: Checkpoint) -> RunResult:
    """The result of a run that has ended before."""
    state = TrainState.from_checkpoint(last, 1)
    config = last.config or {}
    why = f": ended early, {state.ended_early}" if state.ended_early else ""
    log.info("%s is finished%s", directory, why)
    best = Checkpoint.load(directory.best)
    picture = directory.detections
    return RunResult(
        directory=directory.path,
        best=directory.best,
        epochs=int(config.get("epochs") or state.epoch),
        trained=state.epoch - state.skipped,
        ended_early=state.ended_early,
        best_epoch=state.best_epoch,
        best_metric=str(config.get("best_metric") or "AP"),
        metrics=best.metrics,
        picture=picture if picture.is_file() else None,
        seconds=seconds_of(read_log(directory.log)),
    )


def _final_picture(
    session: Session, trainer: Trainer, directory: RunDirectory, best: Checkpoint
) -> Path | None:
    if session.val is None:
        return None
    model = trainer.averaged
    model.load_state_dict(best.weights)
    try:
        return detections_picture(
            model,
            session.val.dataset,
            build_postprocessor(session.config),
            session.class_map,
            session.image_spec,
            directory.detections,
        )
    except Exception as error:
        # the run is done and saved; a picture must not make it look failed
        log.warning("no picture of detections: %s", error)
        return None
