"""Starts the processes of a run on this machine, watches them, and starts them again.

Every process is this same command once more, with its place in the environment as `torchrun`
gives it. It imports no torch itself. torch's own elastic agent would do the starting, but starts
again after every exit code (a misspelt key as often as a lost device), kills after 30 seconds
what is still saving, and adds tracebacks of its own; where it is wanted, for several machines,
`torchrun -m detrkit …` works.

A process that ends badly takes the others with it: they are in the middle of a step that cannot
end. With restarts allowed all of them begin again and continue from the last checkpoint.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from detrkit.engine.distributed.lifeline import LIFELINE
from detrkit.engine.distributed.place import MEETING_FILE
from detrkit.errors import Interrupted

log = logging.getLogger("detrkit")

Child = subprocess.Popen[bytes]

#: Touched by a run that has saved something: what was tried so far was not in vain.
PROGRESS_FILE = "DETRKIT_PROGRESS_FILE"

#: Set for every process of a launcher, so that it does not become a launcher itself.
WATCHED = "DETRKIT_WATCHED"

#: What another attempt cannot mend: success, usage to diverged, interrupted.
FINAL_CODES = frozenset({0, 2, 3, 4, 5, 6, 7, Interrupted.exit_code})

#: Exit code of a process that lost the others: theirs says why.
LOST = 75


@dataclass
class Launcher:
    """Runs a command in several processes.

    Attributes:
        command: of one process.
        processes: how many.
        restarts: new attempts in a row without a checkpoint between them; 0: none.
        backoff: seconds before the first new attempt; doubles up to a minute.
        patience: seconds that the others get to end on their own after one has failed.
    """

    command: Sequence[str]
    processes: int = 1
    restarts: int = 0
    backoff: float = 1.0
    patience: float = 15.0
    _signals: int = field(default=0, init=False)

    def run(self) -> int:
        """Runs to the end and returns the exit code: that of the process which failed first."""
        failures = 0
        with _handling(self._note), tempfile.TemporaryDirectory(prefix="detrkit-") as folder:
            for attempt in range(sys.maxsize):
                progress = Path(folder) / f"progress-{attempt}"
                code = self._attempt(Path(folder) / f"meeting-{attempt}", progress)
                failures = 1 if progress.exists() else failures + 1
                if code in FINAL_CODES or self._signals or failures > self.restarts:
                    break
                wait = min(self.backoff * 2 ** (failures - 1), 60.0)
                log.warning(
                    "starting again in %g s from the last checkpoint (%d of %d)",
                    wait,
                    failures,
                    self.restarts,
                )
                self._sleep(wait)
        if self._signals:
            if code != Interrupted.exit_code:
                log.error("interrupted")
            return Interrupted.exit_code
        if code == LOST:
            log.error("the processes lost each other")
            return 1
        return 128 - code if code < 0 else code  # as shells say it

    def _attempt(self, meeting_file: Path, progress_file: Path) -> int:
        """Starts all processes and waits for them; the code of the first that failed."""
        children: list[Child] = []
        try:
            for rank in range(self.processes):
                children.append(self._start(rank, meeting_file, progress_file))
            return self._watch(children)
        finally:
            _kill(children)
            for child in children:
                child.wait()
                _release(child)

    def _start(self, rank: int, meeting_file: Path, progress_file: Path) -> Child:
        place = {
            "RANK": rank,
            "WORLD_SIZE": self.processes,
            "LOCAL_RANK": rank,
            "LOCAL_WORLD_SIZE": self.processes,
            MEETING_FILE: meeting_file,
            PROGRESS_FILE: progress_file,
            LIFELINE: 1,
            WATCHED: 1,
        }
        env = {**os.environ, **{name: str(value) for name, value in place.items()}}
        if self.processes > 1:
            env.setdefault("OMP_NUM_THREADS", str(max(_cores() // self.processes, 1)))
        if sys.platform in ("linux", "darwin"):
            # one machine: no need to find out under which name others would reach it
            env.setdefault("GLOO_SOCKET_IFNAME", "lo" if sys.platform == "linux" else "lo0")
        # A group of their own: Ctrl-C reaches the launcher alone, which tells them once.
        group: dict[str, Any] = {"start_new_session": True}
        if sys.platform == "win32":
            group = {"creationflags": subprocess.CREATE_NEW_PROCESS_GROUP}
        return subprocess.Popen(list(self.command), env=env, stdin=subprocess.PIPE, **group)

    def _watch(self, children: list[Child]) -> int:
        codes: list[int] = []
        running = dict(enumerate(children))
        deadline = float("inf")
        while running:
            for rank, child in list(running.items()):
                code = child.poll()
                if code is None:
                    continue
                del running[rank]
                codes.append(code)
                if code == Interrupted.exit_code:
                    _release(*running.values())
                elif code:
                    deadline = min(deadline, time.monotonic() + self.patience)
                    self._explain(rank, code)
            if self._signals:
                _release(*running.values())
            if self._signals > 1 or time.monotonic() > deadline:
                _kill(running.values())
            time.sleep(0.05)
        causes = [code for code in codes if code not in (0, LOST)]
        return (causes or [max(codes)])[0]

    def _explain(self, rank: int, code: int) -> None:
        """Speaks for a process that ended without a word."""
        if code in FINAL_CODES or code in (1, LOST) or self._signals:
            return
        which = f"process {rank} of {self.processes}" if self.processes > 1 else "the process"
        how = f"ended with exit code {code}"
        if code < 0:
            with contextlib.suppress(ValueError):
                how = f"was killed by {signal.Signals(-code).name}"
            if -code == getattr(signal, "SIGKILL", None):
                how += ": out of memory? Try fewer --workers or a smaller --batch"
        log.error("%s %s", which, how)

    def _note(self, number: int, frame: object) -> None:
        """The first signal asks all processes to save and leave, the second ends them."""
        self._signals += 1

    def _sleep(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        while time.monotonic() < until and not self._signals:
            time.sleep(0.05)


def note_progress() -> None:
    """Tells the launcher, if there is one, that something was saved."""
    path = os.environ.get(PROGRESS_FILE)
    if path:
        Path(path).touch()


def _release(*children: Child) -> None:
    """Lets go of lifelines: the processes finish their step, save, and leave."""
    for child in children:
        if child.stdin is not None:
            with contextlib.suppress(OSError):
                child.stdin.close()


def _kill(children: Iterable[Child]) -> None:
    """Ends processes and their loader processes at once."""
    for child in children:
        if sys.platform == "win32":
            child.kill()
        else:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(child.pid, signal.SIGKILL)


@contextlib.contextmanager
def _handling(handler: Callable[[int, object], None]) -> Iterator[None]:
    """Calls `handler` on Ctrl-C, and when the launcher is told to end."""
    names = ("SIGINT", "SIGTERM", "SIGHUP")
    numbers = [getattr(signal, name) for name in names if hasattr(signal, name)]
    # what `nohup` or a shell's `&` has switched off stays off
    numbers = [n for n in numbers if signal.getsignal(n) is not signal.SIG_IGN]
    before = {number: signal.signal(number, handler) for number in numbers}
    try:
        yield
    finally:
        for number, old in before.items():
            signal.signal(number, old)


def _cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
