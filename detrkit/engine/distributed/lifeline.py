"""The pipe between a launcher and a process it started: when it closes, the process stops.

The launcher holds the writing end of the process's standard input and never writes. It closes it
to have the process save and leave, and the system closes it when the launcher dies: no process
outlives its launcher unnoticed. The same works on Windows, where processes have no signals.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time

#: Set in the environment of a process whose standard input is its lifeline.
LIFELINE = "DETRKIT_LIFELINE"

#: Seconds to save and leave; a process that hangs then ends the hard way.
_GRACE = 600.0


def hold_lifeline() -> None:
    """Watches the lifeline, if there is one: its end is a SIGTERM to this process."""
    if not os.environ.pop(LIFELINE, ""):
        return
    pipe = sys.stdin.fileno()
    threading.Thread(target=_watch, args=(pipe,), name="lifeline", daemon=True).start()


def _watch(pipe: int) -> None:
    try:
        while os.read(pipe, 1024):
            pass
    except OSError:
        pass
    if hasattr(signal, "pthread_kill"):  # also wakes the main thread where it waits
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGTERM)
    else:
        signal.raise_signal(signal.SIGTERM)
    time.sleep(_GRACE)
    os._exit(1)
