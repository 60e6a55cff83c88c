"""`ram_cache`, `disk_cache` and `cache_imgsz`: decoded images at hand during a run.

A cache of full-size pictures changes no result. `cache_imgsz` shrinks training images to at most
so many pixels and with that the training; images to validate on are always cached at full size,
or not at all, so that metrics stay what `detrkit eval` gives.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from detrkit.config.schema import RunConfig
from detrkit.data.caching import (
    ProgressCallback,
    Room,
    cache_in_memory,
    cache_on_disk,
    picture_folder,
)
from detrkit.data.dataset import DetectionDataset
from detrkit.engine.distributed.group import is_main, shared, world_size
from detrkit.engine.machine import free_space, look
from detrkit.errors import ConfigError, DataError
from detrkit.words import amount

if TYPE_CHECKING:
    from detrkit.engine.session import Session

log = logging.getLogger("detrkit")

#: Memory that a cache leaves to loader workers, the model on a CPU and everything else.
MEMORY_RESERVE = (2 << 30, 0.1)  # bytes, and a share of what is free
#: Disk space that it leaves to checkpoints.
DISK_RESERVE = 4 << 30

CacheKind = Literal["ram", "disk"]


def cache_kind(run: RunConfig) -> CacheKind | None:
    """Where the settings keep pictures; None: nowhere.

    Raises:
        ConfigError: in two places, or of no sensible size.
    """
    if run.ram_cache and run.disk_cache:
        raise ConfigError(
            "ram_cache and disk_cache are both on",
            hint="keep one: a cache on disk is held in memory, too, as long as there is room",
        )
    if not run.ram_cache and not run.disk_cache:
        return None
    if run.cache_imgsz is not None and run.cache_imgsz < 32:
        raise ConfigError(
            f"cache_imgsz must be at least 32 pixels, got {run.cache_imgsz}",
            hint="leave it out to cache images at full size",
        )
    return "ram" if run.ram_cache else "disk"


def memory_room() -> Room:
    """Memory that pictures may use now; half of all where the system does not tell (macOS)."""
    machine = look()
    free = machine.memory_available
    if free is None:
        free = (machine.memory or 0) // 2
    fixed, share = MEMORY_RESERVE
    return Room(free, max(fixed, int(free * share)))


def disk_room(folder: Path) -> Room:
    """Disk space that pictures may use now."""
    return Room(free_space(folder), DISK_RESERVE)


def cache_pictures(session: Session, console: Console | None = None) -> None:
    """Fills the caches that the configuration asks for.

    Args:
        session: its data sets get their pictures.
        console: where progress goes; None: nowhere.

    Raises:
        ConfigError: see `cache_kind`; or memory, where several processes train.
        DataError: the training images do not fit. Those to validate on are then left out.
    """
    kind = cache_kind(session.config.run)
    if kind is None:
        return
    if kind == "ram" and world_size() > 1:
        raise ConfigError(
            f"ram_cache would keep every picture {world_size()} times: processes of a run share "
            "no memory",
            hint="--cache disk: all read one copy, which stays in memory as long as there is room",
        )
    shared(lambda: _cache_all(session, kind, console))
    if not is_main():  # finds the folder full
        _cache_all(session, kind, None)


def _cache_all(session: Session, kind: CacheKind, console: Console | None) -> None:
    train = session.train.dataset
    limit, longest = train.max_side, max(session.image_spec.size)
    if limit is not None and limit < longest:
        log.warning(
            "cache_imgsz %d is below the model's input of %d: training images are blurred by "
            "enlarging them again",
            limit,
            longest,
        )
    _cache(train, kind, session, "training", console)
    if session.val is not None:
        try:
            _cache(session.val.dataset, kind, session, "validation", console)
        except DataError as error:
            log.info("validation images are not cached: %s", error.message)


def picture_place(session: Session, dataset: DetectionDataset) -> Path:
    """The folder of a data set's pictures on the disk."""
    chosen = session.config.run.disk_cache
    return picture_folder(dataset, Path(chosen) if isinstance(chosen, str) else None)


def _cache(
    dataset: DetectionDataset,
    kind: CacheKind,
    session: Session,
    name: str,
    console: Console | None,
) -> None:
    threads, place = look().cores, "memory"
    with _bar(console, f"{name} images") as progress:
        if kind == "ram":
            filled = cache_in_memory(dataset, memory_room(), threads=threads, progress=progress)
        else:
            folder = picture_place(session, dataset)
            room, place = disk_room(folder), str(folder)
            filled = cache_on_disk(dataset, folder, room, threads=threads, progress=progress)
    log.info(
        "%d %s images lie decoded in %s: %s, %.1f s%s",
        filled.images,
        name,
        place,
        amount(filled.nbytes),
        filled.seconds,
        f" ({filled.found} were there)" if filled.found else "",
    )
    if filled.reason:
        log.warning("not all %s images are cached: %s", name, filled.reason)


@contextmanager
def _bar(console: Console | None, text: str) -> Iterator[ProgressCallback | None]:
    if console is None or not console.is_terminal:
        yield None
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=30),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task(text, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
