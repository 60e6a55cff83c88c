"""The whole examination, section by section: as many as the findings before leave possible."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from detrkit.config import Config
from detrkit.data.caching import picture_bytes, pixel_bytes
from detrkit.engine.batch_size import choose_for
from detrkit.engine.derive import TrainFlags, load_with_flags
from detrkit.engine.doctor.cleaned import cleaned_check, write_cleaned
from detrkit.engine.doctor.data import DataSeen, examine_data, read_data, read_parts
from detrkit.engine.doctor.environment import Environment, examine_environment, is_busy
from detrkit.engine.doctor.forecast import Forecast, measure_run
from detrkit.engine.doctor.forecast_checks import (
    batch_check,
    cache_check,
    disk_check,
    loader_check,
    memory_check,
    plan_checks,
    shared_memory_check,
    step_check,
    time_check,
)
from detrkit.engine.doctor.image_checks import decode_check
from detrkit.engine.doctor.overfit import overfit, overfit_check
from detrkit.engine.doctor.report import Check, Section, Status, guarded, note, warning
from detrkit.engine.doctor.settings import data_of_broken, examine_settings
from detrkit.engine.doctor.weights import examine_weights
from detrkit.engine.machine import Machine, existing, free_space, look
from detrkit.engine.observers.bottleneck import remedies
from detrkit.engine.observers.factory import loader_facts
from detrkit.engine.overheard import overheard
from detrkit.engine.parts import batch_size_of, split_of
from detrkit.engine.picture_cache import cache_kind, disk_room, memory_room, picture_place
from detrkit.engine.run_dir import RunDirectory
from detrkit.engine.runtime import choose_device
from detrkit.engine.session import Session, session_of, with_absolute_paths
from detrkit.engine.step_probe import StepCost, StepProbe
from detrkit.errors import UsageError

log = logging.getLogger("detrkit")


@dataclass(frozen=True)
class Request:
    """What to look at.

    Attributes:
        config: file or name; None: the machine only.
        flags: those of `train`.
        update, plugins: likewise.
        auto_batch: find the batch.
        quick: nothing that takes long: no measured steps, no decoding.
        overfit: steps of the one-batch test; None: no test.
        fix: write a cleaned copy of the annotations.
        output: where runs will go; with `fix` the folder of the copy.
    """

    config: str | None = None
    flags: TrainFlags = field(default_factory=TrainFlags)
    update: Sequence[str] = ()
    plugins: Sequence[Path] = ()
    auto_batch: bool = False
    quick: bool = False
    overfit: int | None = None
    fix: bool = False
    output: Path | None = None


def examine(request: Request, environment: Environment | None = None) -> Iterator[Section]:
    """The sections, each as soon as it is done.

    Raises:
        UsageError: a flag makes no sense.
    """
    env = environment or Environment(run_folder=_runs(request))
    yield examine_environment(env)
    if request.config is None:
        return
    settings, cfg = examine_settings(request.config, request.flags, request.update, request.plugins)
    yield settings
    if cfg is None:
        yield from _data_alone(request, env.machine)
        return
    cfg = with_absolute_paths(cfg)
    seed = cfg.run.seed or 0
    log.info("reading the data set")
    seen = read_data(cfg, seed)
    seconds = 0.0 if request.quick else _SECONDS
    yield examine_data(seen, cfg, cores=env.machine.cores, seconds=seconds)
    if request.fix:
        yield _fixed(request, seen, cfg)
    first = next(iter(seen.parts.values()), None)
    weights = examine_weights(cfg, first.class_map if first else None)
    if weights is not None:
        yield weights
    if seen.train is None:
        text = "left out: there is no data set to train on"
        yield Section("plan", [note("plan", text, "see the problems of the data above")])
        return
    section, run = _plan(request, cfg, seen, seed)
    yield section
    if run is None:
        return
    if not request.quick:
        yield _forecast(request, run, env.machine)
    if request.overfit is not None:
        yield _overfit(request.overfit, cfg, seen, run.session)


@dataclass
class _Run:
    """A run that could start.

    Attributes:
        session: with its data.
        probe: steps of it, where `--batch auto` needed them already.
        costs: of steps that were measured already.
    """

    session: Session
    probe: StepProbe | None = None
    costs: Sequence[StepCost] = ()


#: Seconds that decoding, and comparing files, may take.
_SECONDS = 5.0

#: Seconds between two signs of life.
_SILENCE = 15.0


def _runs(request: Request) -> Path:
    return request.output if request.output and not request.fix else Path("runs")


def _data_alone(request: Request, machine: Machine) -> Iterator[Section]:
    """The data set of a configuration that is wrong otherwise."""
    assert request.config is not None
    data = data_of_broken(request.config, request.flags, request.update)
    if data is None:
        return
    seen = DataSeen()
    with overheard(quiet=True) as seen.said:
        read_parts(seen, data)
    yield examine_data(seen, None, cores=machine.cores, seconds=0.0 if request.quick else _SECONDS)
    if request.fix:
        yield _fixed(request, seen, None)


def _fixed(request: Request, seen: DataSeen, cfg: Config | None) -> Section:
    def write() -> list[Check]:
        if not seen.parts:
            raise UsageError("--fix: nothing of the data set could be read")
        data = request.flags.data or (cfg.run.data if cfg else None) or "data"
        name = Path(str(data).split("?")[0].rstrip(":/")).expanduser().name or "data"
        log.info("decoding every image")
        every, broken = _decode_all(seen, cfg)
        folder = RunDirectory.create("clean", request.output or f"{name}-clean").path
        return [*every, cleaned_check(write_cleaned(seen.parts, broken, folder))]

    return Section("fix", guarded("fix", write))


def _decode_all(seen: DataSeen, cfg: Config | None) -> tuple[list[Check], dict[str, list[int]]]:
    """Decodes every image; the check is left out where all are well."""
    channels = cfg.run.in_channels if cfg is not None else 3
    check, broken = decode_check(seen.parts, look().cores, None, channels)
    return ([] if check.status is Status.OK else [check]), broken


def _plan(request: Request, cfg: Config, seen: DataSeen, seed: int) -> tuple[Section, _Run | None]:
    section = Section("plan")
    train, run = seen.train, None
    assert train is not None

    def start() -> list[Check]:
        nonlocal run
        device = choose_device(cfg.run.device or None)
        with overheard(quiet=True):  # how many classes there are stands above
            run = _Run(session_of(cfg, train, seen.val, seed, device))
        return []

    section.checks += guarded("plan", start)
    if run is None:
        return section, None
    found: _Run = run
    if request.auto_batch:
        section.checks += guarded("plan.batch", lambda: _choose_batch(request, found))
    section.checks += guarded("plan", lambda: plan_checks(found.session.plan))
    return section, found


def _choose_batch(request: Request, run: _Run) -> Check:
    """Finds the batch and gives the run a session with it."""
    if request.quick:
        return note("plan.batch", "auto: not tried", "leave out --quick")
    log.info("measuring training steps on %s", run.session.device)
    own = batch_size_of(split_of(run.session.config, "train_dataloader"), default=4)
    with overheard():
        run.probe = StepProbe(run.session)
        choice = choose_for(run.session, run.probe)
    check = batch_check(choice, own)
    run.costs = [cost for cost in choice.trials if cost.batch <= choice.batch][-2:]
    run.session = _with_batch(request, run.session, choice.batch)
    return check


def _forecast(request: Request, run: _Run, machine: Machine) -> Section:
    section = Section("forecast")
    if run.probe is None:
        log.info("measuring training steps on %s", run.session.device)

    def measure() -> Iterator[Check]:
        probe = run.probe or StepProbe(run.session)
        forecast = measure_run(run.session, probe, machine, known=run.costs)
        yield from _judged(forecast, run.session, request, machine)

    with overheard() as said:
        section.checks += guarded("forecast", measure)
    section.checks += [warning("forecast.said", line) for line in dict.fromkeys(said)]
    return section


def _judged(
    forecast: Forecast, session: Session, request: Request, machine: Machine
) -> Iterator[Check]:
    yield step_check(forecast, is_busy(machine))
    yield memory_check(forecast)
    yield loader_check(forecast, lambda share: remedies(loader_facts(session), share))
    yield from _cached(session)
    yield from shared_memory_check(forecast, machine)
    yield time_check(forecast)
    folder = existing(_runs(request))
    every = session.config.run.checkpoint_freq
    yield disk_check(forecast, session.plan, every, folder, free_space(folder))


def _cached(session: Session) -> Iterator[Check]:
    kind = cache_kind(session.config.run)
    if kind is not None:
        data = session.train.dataset
        need = picture_bytes(data.index.sizes, data.max_side, pixel_bytes(data))
        room = memory_room() if kind == "ram" else disk_room(picture_place(session, data))
        yield cache_check(kind, need, room)


def _with_batch(request: Request, session: Session, batch: int) -> Session:
    """The session with another batch, and with everything that hangs on it."""
    assert request.config is not None
    cfg = load_with_flags(
        request.config,
        replace(request.flags, batch=batch, linear_rates=True),
        update=request.update,
        plugins=request.plugins,
    )
    val = session.val.dataset if session.val else None
    with overheard(quiet=True):
        return session_of(cfg, session.train.dataset, val, session.seed, session.device)


def _overfit(steps: int, cfg: Config, seen: DataSeen, session: Session) -> Section:
    train = seen.train
    assert train is not None

    told = time.perf_counter()

    def tell(done: int, steps: int) -> None:
        nonlocal told
        if time.perf_counter() - told > _SILENCE:
            told = time.perf_counter()
            log.info("%d of %d steps", done, steps)

    def learn() -> Check:
        return overfit_check(
            overfit(cfg, train, session.device, steps=steps, seed=session.seed, progress=tell)
        )

    log.info("learning one batch by heart, %d steps at most", steps)
    with overheard():
        return Section("overfit", guarded("overfit", learn))
