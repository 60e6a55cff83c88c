"""The observers that a configuration asks for."""

from __future__ import annotations

import importlib.util
import logging
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from rich.console import Console
from torch import nn

from detrkit.config.schema import RunConfig
from detrkit.engine.distributed.group import is_main
from detrkit.engine.machine import look
from detrkit.engine.observers.base import Observer
from detrkit.engine.observers.batches import BatchPictures
from detrkit.engine.observers.bottleneck import Bottleneck, LoaderFacts
from detrkit.engine.observers.curves import Curves
from detrkit.engine.observers.logs import CSVLog, JSONLog
from detrkit.engine.observers.origin import OriginLines
from detrkit.engine.observers.profile import StepProfile
from detrkit.engine.observers.progress import Progress
from detrkit.engine.observers.tracker import RunFacts, Tracker
from detrkit.engine.observers.tracking import Tracking
from detrkit.engine.picture_cache import disk_room, memory_room, picture_place
from detrkit.engine.plan import Plan
from detrkit.engine.run_dir import RunDirectory, environment
from detrkit.errors import MissingExtraError

if TYPE_CHECKING:
    from detrkit.engine.session import Session

log = logging.getLogger("detrkit")

#: Steps between two lines where nothing says how many.
PRINT_FREQ = 100
_PURPOSES = {"wandb": "logging to Weights & Biases", "mlflow": "logging to MLflow"}


def require_loggers(run: RunConfig) -> None:
    """Finds out before anything is made whether the packages of all loggers are there.

    Raises:
        MissingExtraError: one is not.
    """
    for name in run.chosen_loggers:
        if name in _PURPOSES and importlib.util.find_spec(name) is None:
            raise MissingExtraError(name, "loggers", _PURPOSES[name])


def build_observers(
    session: Session,
    model: nn.Module,
    directory: RunDirectory,
    console: Console | None,
    first_epoch: int = 0,
    first_step: int = 0,
) -> list[Observer]:
    """All that watch a run, in the order in which they are told; the main process has them.

    Args:
        session: with its data.
        model: that trains.
        directory: of the run.
        console: where progress goes; None: nowhere.
        first_epoch, first_step: where a resumed run goes on.
    """
    if not is_main():
        return []
    run, plan = session.config.run, session.plan
    stages = [(stage.name, stage.first) for stage in plan.stages]
    observers: list[Observer] = [
        JSONLog(directory.log, first_epoch),
        CSVLog(directory.results, first_epoch),
        BatchPictures(
            directory.batches,
            session.class_map,
            session.image_spec,
            drawn_epochs(plan, run.plot_train_batch_freq),
        ),
        Bottleneck(loader_facts(session)),
        Curves(directory.curves, directory.log, directory.path.name, plan.epochs, stages),
    ]
    trackers = _trackers(run, directory, resumed=first_step > 0)
    if trackers:
        observers.append(_tracking(trackers, session, directory, first_step))
    if run.profile:
        observers.append(
            StepProfile(directory.profile, run.profile, session.device, console, model)
        )
    if console is not None:
        observers.append(
            OriginLines(console, PRINT_FREQ if run.print_freq is None else run.print_freq)
            if run.verbose_type == "origin"
            else Progress(console, print_freq=run.print_freq)
        )
    return observers


def drawn_epochs(plan: Plan, every: int | None) -> frozenset[int]:
    """The epochs, from 0, whose first batches are drawn.

    Args:
        plan: the first epoch of each stage is drawn.
        every: and each so-and-so-manieth; None: no others; 0: none at all.
    """
    if every == 0:
        return frozenset()
    repeated = range(0, plan.epochs, every) if every else (0,)
    return frozenset({*repeated, *(stage.first for stage in plan.stages)})


def loader_facts(session: Session) -> LoaderFacts:
    """What advice about a run's loader depends on."""
    dataset = session.train.dataset
    return LoaderFacts(
        workers=session.train.num_workers,
        cores=look().cores,
        busy=torch.get_num_threads() if session.device.type == "cpu" else 1,
        input_side=max(session.image_spec.size),
        cached=dataset.store is not None,
        memory=memory_room,
        disk=lambda: disk_room(picture_place(session, dataset)),
        dataset=dataset,
    )


def _trackers(run: RunConfig, directory: RunDirectory, *, resumed: bool) -> list[Tracker]:
    trackers: list[Tracker] = []
    for name in run.chosen_loggers:
        try:
            trackers.append(_tracker(name, run, directory))
        except MissingExtraError as error:
            if not resumed:  # a run goes on where it can, also on another machine
                raise
            log.warning("%s; the run goes on without (%s)", error.message, error.hint)
    return trackers


def _tracker(name: str, run: RunConfig, directory: RunDirectory) -> Tracker:
    if name == "wandb":
        from detrkit.engine.observers.wandb import WandB

        return WandB()
    if name == "mlflow":
        from detrkit.engine.observers.mlflow import MLflow

        return MLflow()
    from detrkit.engine.observers.tensorboard import TensorBoard

    return TensorBoard(Path(run.summary_dir, directory.path.name) if run.summary_dir else None)


def _tracking(
    trackers: list[Tracker], session: Session, directory: RunDirectory, first_step: int
) -> Tracking:
    run = session.config.run
    facts = RunFacts(
        folder=directory.path,
        name=run.exp_name or directory.path.name,
        project=run.project_name or "detrkit",
        config=session.config.tree,
        environment=environment(),
        classes=session.class_map.names,
        first_step=first_step,
        files=[p for p in directory.start_files if p.is_file()],
    )
    return Tracking(
        trackers,
        facts,
        state=directory.loggers,
        table=directory.log,
        pictures=directory.batches,
        final=(directory.curves, directory.detections, directory.results, directory.log),
    )
