"""The processes of a run meet and speak with one voice.

    with meet() as place:
        config = load_config(path)  # a mistake in the file hits all processes; one says so
        …

An error that a user can cause often hits all processes alike, and one that hits a single process
breaks the connections of the others. Whoever fails first tells the others in the store where
they met, and only this one raises its own error; the rest raise `OtherProcessFailed`.
"""

from __future__ import annotations

import json
import logging
import os
import re
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch.distributed as dist

from detrkit.engine.distributed.launch import LOST, WATCHED
from detrkit.engine.distributed.place import Place, find_place
from detrkit.errors import DetrkitError, Interrupted, OtherProcessFailed, UsageError

log = logging.getLogger("detrkit")

#: A process may wait this long for another, e.g. while the main one reads a large data set.
TIMEOUT = timedelta(minutes=30)

_FIRST_ERROR = "detrkit/first-error"
#: What gloo and NCCL say when a process has gone.
_LOST_WORDS = re.compile(r"gloo|nccl|(closed|reset) by peer|broken pipe", re.IGNORECASE)


@dataclass(frozen=True)
class Meeting:
    """Processes that found each other.

    Attributes:
        place: of this one.
        store: holds a few words that all can read.
    """

    place: Place
    store: dist.Store


_present: Meeting | None = None
_has_met = False


def has_met() -> bool:
    """Whether this process has ever been one of several."""
    return _has_met


def present_meeting() -> Meeting | None:
    """The meeting that this process takes part in, if any."""
    return _present


@contextmanager
def meet() -> Iterator[Place]:
    """Meets the other processes that the environment tells of; within a meeting it does nothing.

    Yields:
        The place of this process.

    Raises:
        UsageError: the others do not come.
        OtherProcessFailed: another process failed first, and says why.
    """
    global _present, _has_met
    if _present is not None:
        yield _present.place
        return
    place = find_place()
    if place.world_size == 1:
        yield place
        return
    store = _find_store(place)
    _present = Meeting(place, store)
    _has_met = True
    only_main = _MainSpeaks(place.rank)
    log.addFilter(only_main)
    try:
        yield place
    except BaseException as error:
        own_words = _own_words(error, _present)
        if own_words is error:
            raise
        raise own_words from error
    finally:
        _present = None
        log.removeFilter(only_main)


def _find_store(place: Place) -> dist.Store:
    """Where the processes leave words for each other."""
    from torch.distributed.rendezvous import rendezvous  # absent where torch has no distributed

    url = place.meeting_point
    if not url.startswith("env:"):
        url += f"?rank={place.rank}&world_size={place.world_size}"
    try:
        store, *_ = next(rendezvous(url, timeout=TIMEOUT))
        return _of_this_attempt(store, place)
    except (RuntimeError, ValueError, OSError) as error:
        raise UsageError(
            f"process {place.rank} of {place.world_size} cannot meet the others at "
            f"{place.meeting_point}: {next(iter(str(error).splitlines()), type(error).__name__)}",
            hint="did all start? MASTER_ADDR and MASTER_PORT name the machine of process 0 and a "
            "free port of it",
        ) from error


def _of_this_attempt(store: dist.Store, place: Place) -> dist.Store:
    """The part of the store that no earlier attempt has written to.

    torch's elastic agents keep one store for all attempts, and do not agree on how many there
    were. A process that reads where another one listened in the last attempt waits for ever. So
    the main process draws a name for the attempt and tells it to everybody who asks under a name
    that is new as well, until all have said that they know it.
    """
    if place.rank:
        own = uuid.uuid4().hex
        store.set(f"detrkit/ask/{place.rank}", own)
        name = store.get(f"detrkit/answer/{own}").decode()
        store.set(f"detrkit/{name}/{place.rank}", "")
        return dist.PrefixStore(name, store)
    name = uuid.uuid4().hex
    missing = set(range(1, place.world_size))
    until = time.monotonic() + TIMEOUT.total_seconds()
    while missing:
        for rank in sorted(missing):
            if store.check([f"detrkit/{name}/{rank}"]):
                missing.remove(rank)
            elif store.check([f"detrkit/ask/{rank}"]):
                asked = store.get(f"detrkit/ask/{rank}").decode()
                store.set(f"detrkit/answer/{asked}", name)
        if time.monotonic() > until:
            raise RuntimeError(f"without a word: {', '.join(map(str, sorted(missing)))}")
        time.sleep(0.01)
    return dist.PrefixStore(name, store)


def told(name: str, compute: Callable[[], str]) -> str:
    """A word of the main process, for all; works before they have a process group.

    Args:
        name: of the word; each is told once.
        compute: called in the main process.
    """
    if _present is None:
        return compute()
    key = f"detrkit/{name}"
    if _present.place.rank == 0:
        _present.store.set(key, compute())
    return str(_present.store.get(key).decode())


def agreed(error: DetrkitError) -> DetrkitError:
    """Marks an error that every process raises at the same place: the main one tells it."""
    error.agreed = True
    return error


def _own_words(error: BaseException, meeting: Meeting) -> BaseException:
    """`error` if this process is the one to tell it, else `OtherProcessFailed`."""
    place, store = meeting.place, meeting.store
    if isinstance(error, KeyboardInterrupt):
        code = Interrupted.exit_code
    else:
        code = error.exit_code if isinstance(error, DetrkitError) else 1
    if isinstance(error, DetrkitError) and error.agreed:
        return error if place.rank == 0 else OtherProcessFailed(code)
    lost = _is_lost_connection(error)
    try:
        if lost:
            _wait_for_word(store)
        mine = json.dumps({"rank": place.rank, "code": LOST if lost else code})
        first = json.loads(store.compare_set(_FIRST_ERROR, "", mine))
    except Exception:  # the store went with the main process
        return OtherProcessFailed(LOST) if lost else error
    if first["rank"] != place.rank:
        return OtherProcessFailed(int(first["code"]))
    if not lost:
        return error
    if WATCHED in os.environ:
        return OtherProcessFailed(LOST)  # the launcher knows more
    return DetrkitError(
        "lost the connection to another process of this run",
        hint="it was killed, or its machine is gone; --auto-resume continues after a restart",
    )


def _is_lost_connection(error: BaseException) -> bool:
    return (
        isinstance(error, RuntimeError)
        and not isinstance(error, DetrkitError)
        and (isinstance(error, dist.DistError) or bool(_LOST_WORDS.search(str(error))))
    )


def _wait_for_word(store: dist.Store, seconds: float = 3.0) -> None:
    """Gives the process that failed the time to say so."""
    until = time.monotonic() + seconds
    while not store.check([_FIRST_ERROR]) and time.monotonic() < until:
        time.sleep(0.05)


class _MainSpeaks(logging.Filter):
    """Lets through the log of the main process; of the others errors, and what is theirs alone.

    A record is marked as such by `extra={"every_process": True}`.
    """

    def __init__(self, rank: int) -> None:
        super().__init__()
        self.rank = rank

    def filter(self, record: logging.LogRecord) -> bool:
        if self.rank == 0 or record.levelno >= logging.ERROR:
            return True
        if not getattr(record, "every_process", False):
            return False
        record.msg = f"process {self.rank}: {record.msg}"
        return True
