"""`train`, `tune` and `resume` as functions: what the command line and the Python API call."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console

from detrkit.config import Config
from detrkit.data.sampling import Repeated
from detrkit.data.sampling import describe as describe_sampling
from detrkit.engine.checkpoint import Checkpoint
from detrkit.engine.derive import cache_values
from detrkit.engine.distilling.opening import open_distiller
from detrkit.engine.distributed.group import is_main, shared, together, world_size
from detrkit.engine.distributed.meeting import meet, told
from detrkit.engine.earlier_run import (
    describe,
    find_earlier_run,
    last_checkpoint,
    newest_before,
)
from detrkit.engine.final_report import has_report
from detrkit.engine.load_report import LoadReport
from detrkit.engine.observers import until_the_end
from detrkit.engine.observers.factory import build_observers, require_loggers
from detrkit.engine.picture_cache import cache_kind, cache_pictures
from detrkit.engine.run_dir import RunDirectory
from detrkit.engine.run_result import RunResult, result_of, result_of_finished
from detrkit.engine.session import (
    Session,
    build_trainer,
    open_session,
    resume_config,
    start_model,
)
from detrkit.engine.trainer import Trainer
from detrkit.errors import UsageError, WeightsError

log = logging.getLogger("detrkit")


def train(
    cfg: Config,
    *,
    output: str | Path | None = None,
    arguments: dict[str, Any] | None = None,
    console: Console | None = None,
    devices: Sequence[int] | None = None,
    auto_resume: bool = False,
) -> RunResult:
    """Trains from the beginning, in a new folder.

    In a process that `torchrun`, `srun` or detrkit's launcher started, together with the others.

    Args:
        cfg: configuration; `tuning` names weights to start from.
        output: folder; default `output_dir` of the configuration, else `runs/<name>-<n>`.
        arguments: what the user asked for; kept in `args.json`.
        console: where progress goes; None: nowhere.
        devices: GPUs of the processes on this machine.
        auto_resume: continue the run that the same arguments began and did not end, if any.

    Raises:
        DetrkitError: its children say what went wrong.
    """
    require_loggers(cfg.run)
    output = output or cfg.run.output_dir
    with together(cfg.run.device or None, devices):
        find = partial(find_earlier_run, cfg.name, output, arguments or {})
        earlier = shared(find) if auto_resume else None
        if earlier is not None and earlier.checkpoint is not None:
            last = earlier.checkpoint
            if earlier.is_finished:
                return shared(partial(result_of_finished, earlier.directory, last))
            return _continue(earlier.directory, last, {}, console)
        session = open_session(cfg)
        model, loaded = start_model(session)
        distiller = open_distiller(session, model)
        cache_pictures(session, console)
        # everything that a user can get wrong was read by now: a failed start leaves no folder
        create = partial(RunDirectory.create, cfg.name, output)
        directory = earlier.directory if earlier is not None else shared(create)
        with _owned(directory):
            if is_main():
                directory.write_start(session.config.dump(), arguments or {})
            observers = build_observers(session, model, directory, console)
            trainer = build_trainer(session, model, directory, observers, distiller)
            if loaded is not None:
                log.info("%s", loaded.describe())
            _announce(session, trainer, directory)
            return _run(session, trainer, directory, loaded)


def resume(
    path: str | Path,
    *,
    data: str | None = None,
    device: str | None = None,
    workers: int | None = None,
    cache: str | None = None,
    accumulate: int | None = None,
    console: Console | None = None,
    devices: Sequence[int] | None = None,
    fall_back: bool = False,
) -> RunResult:
    """Continues a run in its folder, exactly where it stopped.

    The number of processes may be another than before, as long as they can share the batch.

    Args:
        path: the run's folder, or a checkpoint in it (`last.pth`, `epoch_0012.pth`).
        data: where the same data set lies now, if it was moved.
        device, workers, accumulate: of this machine, if others than before.
        cache: where images are kept decoded, if elsewhere than before: "ram", "disk" or "off".
        console: where progress goes; None: nowhere.
        devices: GPUs of the processes on this machine.
        fall_back: where `last.pth` is damaged, go on from the newest full checkpoint before it.

    Raises:
        UsageError: there is nothing to resume.
        WeightsError: the checkpoint cannot be read or holds only weights.
    """
    with meet() as place:
        found = _to_continue(path, fall_back) if place.rank == 0 else None
        chosen = told("device", lambda: device or _device_of(found, place.world_size))
        with together(chosen or None, devices):
            continued = shared(lambda: found)
            assert continued is not None
            directory, checkpoint = continued
            moved: dict[str, Any] = {}
            if data is not None:
                moved["data"] = data
            if device is not None:
                moved["device"] = device
            if accumulate is not None:
                moved["accumulate"] = accumulate
            if workers is not None:
                for loader in ("train_dataloader", "val_dataloader"):
                    moved[f"{loader}.num_workers"] = workers
            if cache is not None:
                moved |= _moved_cache(resume_config(checkpoint), cache)
            return _continue(directory, checkpoint, moved, console)


def _to_continue(path: str | Path, fall_back: bool) -> tuple[RunDirectory, Checkpoint]:
    directory = RunDirectory.open(path)
    if Path(path).is_file() and Path(path).name != directory.last.name:
        return directory, Checkpoint.load(path)
    checkpoint = last_checkpoint(directory) if fall_back else _last_or_hint(directory)
    if checkpoint is None:
        raise UsageError(
            f"{directory} has no last.pth: nothing was saved yet", hint="start it again"
        )
    return directory, checkpoint


def _last_or_hint(directory: RunDirectory) -> Checkpoint | None:
    """`last.pth`, None without one.

    Raises:
        WeightsError: it is damaged; the hint names the checkpoint to go on from.
    """
    try:
        return Checkpoint.load(directory.last) if directory.last.is_file() else None
    except WeightsError as error:
        found = newest_before(directory)
        if found is not None:
            error.hint = f"go on from {describe(found)}: detrkit resume {found.path}"
        raise


def _continue(
    directory: RunDirectory,
    checkpoint: Checkpoint,
    moved: Mapping[str, Any],
    console: Console | None,
) -> RunResult:
    """Goes on from a checkpoint of a run. `moved`: values of the configuration that are new."""
    if not checkpoint.can_resume:
        raise WeightsError(
            f"{checkpoint.path} holds weights only, without the optimizer",
            hint=f"resume from the run: detrkit resume {directory}; "
            "or start a new run from the weights: detrkit tune CFG --weights FILE",
        )
    cfg = resume_config(checkpoint)
    session = open_session(cfg.with_values({"tuning": None, **moved}, origin="resume"))
    if checkpoint.class_map is not None and session.class_map != checkpoint.class_map:
        raise UsageError(
            f"the data set's classes are not those of {directory}: "
            f"{', '.join(session.class_map.names[:8])}",
            hint="give the data set it was trained on: --data DIR",
        )
    images = len(session.train.dataset)
    if checkpoint.images not in (None, images):
        log.warning(
            "%s was begun with %s training images, now there are %d: their order is another from "
            "here on, and so is the result",
            directory,
            checkpoint.images,
            images,
        )
    batches = session.plan.batches_per_epoch
    epoch = int(checkpoint.position.get("epoch", checkpoint.last_epoch + 1))
    step = int(checkpoint.position.get("step", epoch * batches))
    early = checkpoint.position.get("ended_early")
    ended = early or epoch >= session.plan.epochs
    if ended and _has_last_files(directory, session):
        done = f"it ended early, {early}" if early else f"{session.plan.epochs} epochs are done"
        raise UsageError(
            f"{directory} is finished: {done}",
            hint=f"start a new run from its weights: detrkit tune CFG --weights {directory.best}",
        )
    model, _ = start_model(session, fresh=False)
    distiller = open_distiller(session, model, checkpoint.distiller, epoch)
    cache_pictures(session, console)
    with _owned(directory):
        observers = build_observers(session, model, directory, console, epoch, step)
        trainer = build_trainer(session, model, directory, observers, distiller)
        trainer.resume(checkpoint)
        trainer.keeper.settle(checkpoint)
        state = trainer.state
        if "accumulate" in moved:  # the user knows this machine
            state.splits = 1
        log.info("resuming %s at epoch %d, batch %d", directory, state.epoch + 1, state.batch)
        return _run(session, trainer, directory, None)


def _has_last_files(directory: RunDirectory, session: Session) -> bool:
    """Whether a run came to its very end; it may have been killed while it made these."""
    made = [directory.curves] + ([directory.detections] if session.val is not None else [])
    if has_report(session, directory):
        made.append(directory.report)
    return all(path.is_file() for path in made)


def _device_of(found: tuple[RunDirectory, Checkpoint] | None, processes: int) -> str:
    """The device that the run was begun on, if the user named one; its kind for several."""
    assert found is not None
    device = str((found[1].config or {}).get("device") or "")
    return device if processes == 1 else device.partition(":")[0]


@contextmanager
def _owned(directory: RunDirectory) -> Iterator[None]:
    """Keeps others out of the folder, in the process that writes to it, and tidies it up."""
    if not is_main():
        yield
        return
    with directory.locked():
        directory.clean()
        yield


def _moved_cache(cfg: Config, cache: str) -> dict[str, Any]:
    """Values for another place of the cache; the size of the images stays that of the run."""
    shrunk = cfg.run.cache_imgsz if cache_kind(cfg.run) else None
    if shrunk and cache == "off":
        raise UsageError(
            f"the run trains on images of at most {shrunk} pixels, which needs a cache",
            hint="--cache ram or --cache disk",
        )
    return {**cache_values(cache, cfg), "cache_imgsz": shrunk}


def _announce(session: Session, trainer: Trainer, directory: RunDirectory) -> None:
    parameters = sum(p.numel() for p in trainer.model.parameters()) / 1e6
    val = len(session.val.dataset) if session.val else 0
    height, width = session.image_spec.size
    log.info(
        "%s: %.2f M parameters, %d classes, %d training and %d validation images, %dx%d",
        session.config.name,
        parameters,
        len(session.class_map),
        len(session.train.dataset),
        val,
        height,
        width,
    )
    processes = f"{world_size()} processes with {session.device.type}"
    log.info(
        "%d epochs of %d batches of %d on %s, amp %s, seed %d -> %s",
        session.plan.epochs,
        session.plan.batches_per_epoch,
        session.train.schedule.step_size,
        processes if world_size() > 1 else session.device,
        session.precision.amp,
        session.seed,
        directory,
    )
    run, order = session.config.run, session.train.schedule.images
    if run.sampling is not None and isinstance(order, Repeated):
        log.info("%s", describe_sampling(run.sampling, order, session.train.dataset.index))
    if frozen := trainer.frozen.describe():
        log.info("%s", frozen)
    if run.layer_decay is not None:
        rates = [v for name, v in trainer.lrs.items() if name.startswith("backbone")]
        log.info(
            "layer decay %g: the backbone's rates are %.2g to %.2g",
            run.layer_decay,
            min(rates, default=0.0),
            max(rates, default=0.0),
        )
    derived = run.schedule == "auto"
    log.log(logging.INFO if derived else logging.DEBUG, "%s", session.plan.describe())


def _run(
    session: Session, trainer: Trainer, directory: RunDirectory, loaded: LoadReport | None
) -> RunResult:
    with until_the_end(trainer.observers), closing(session):
        state = trainer.fit()
        result = shared(lambda: result_of(session, trainer, directory, state, loaded))
    # behind `shared`, the others wait for the picture and the observers' end: leaving early
    # would look like a failure
    return shared(lambda: result)
