"""Loader processes and signals: only the main process decides when they end.

Ctrl-C, a batch system or a container sends its signal to every process of the group. The main
process then wants to finish its step and save, which it can only do if its workers go on; and
when it leaves, it ends them itself.
"""

from __future__ import annotations

import os
import shutil
import signal
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from multiprocessing import parent_process
from multiprocessing.process import BaseProcess

from detrkit.data.pixels import use_one_thread
from detrkit.errors import DetrkitError

_STOPPING = frozenset({signal.SIGINT, signal.SIGTERM})


class WorkerLost(DetrkitError):
    """A loader process ended that nobody had asked to end.

    Attributes:
        signal: name of the signal that killed it; empty: it left by itself.
    """

    signal = ""

    @classmethod
    def among(cls, workers: Iterable[BaseProcess]) -> WorkerLost | None:
        """The error for the first of `workers` that ended badly; None: all are well."""
        for worker in workers:
            if worker.exitcode:
                return cls._of(worker.pid, worker.exitcode)
        return None

    @classmethod
    def _of(cls, pid: int | None, code: int) -> WorkerLost:
        try:
            name = signal.Signals(-code).name
        except ValueError:
            return cls(f"a loader process (pid {pid}) ended with exit code {code}")
        how, hint = f"was killed by {name}", None
        if name == "SIGKILL":
            how += ": out of memory?"
            hint = "try fewer --workers or a smaller --batch"
        error = cls(f"a loader process (pid {pid}) {how}", hint=hint)
        error.signal = name
        return error


def shared_memory_room() -> int:
    """Bytes of /dev/shm in all, through which batches come on Linux; 0 where there is none."""
    try:
        return shutil.disk_usage("/dev/shm").total
    except OSError:
        return 0


@contextmanager
def shielded() -> Iterator[None]:
    """Holds signals back while processes start, so that none is hit before `start_worker`.

    They inherit this; the present process gets its signals at the end.
    """
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _STOPPING)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def unheard() -> Iterator[None]:
    """Undoes that torch, as it starts workers, wants to know of each one's end at once.

    Its handler of SIGCHLD raises wherever the main process happens to be: in the middle of a step
    or of writing a checkpoint. Without it the end of a worker is noticed when its next batch is
    waited for, within five seconds, where the state of a run is whole.
    """
    if not hasattr(signal, "SIGCHLD") or threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGCHLD)
    try:
        yield
    finally:
        signal.signal(signal.SIGCHLD, before if before is not None else signal.SIG_DFL)


def start_worker(worker: int) -> None:
    """Called first in a loader process: one core, and deaf to all but its parent.

    Where the system does not say who sent a signal (macOS, Windows), SIGTERM ends it as usual.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, "sigwaitinfo"):
        signal.pthread_sigmask(signal.SIG_BLOCK, _STOPPING)
        threading.Thread(target=_obey_parent, name="signals", daemon=True).start()
    elif hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _STOPPING)
    use_one_thread()


def _obey_parent() -> None:
    parent = parent_process()  # who asked for this one; with a fork server not who forked it
    owner = parent.pid if parent else os.getppid()
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != owner:
        pass
    os._exit(0)
