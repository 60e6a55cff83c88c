"""Ctrl-C and SIGTERM: finish the step, save, leave."""

from __future__ import annotations

import logging
import os
import signal
import threading
from types import FrameType
from typing import Any

log = logging.getLogger("detrkit")


class Stop(Exception):
    """Leave the loop at a place where the state is whole."""


class InterruptGuard:
    """While entered, the first signal only sets `requested`; the second one breaks off.

    Outside the main thread signals cannot be caught, and the guard does nothing.
    """

    def __init__(self) -> None:
        self.requested = False
        self._process = os.getpid()
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> InterruptGuard:
        self.requested = False
        self._process = os.getpid()
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._previous[number] = signal.signal(number, self._notice)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous.clear()

    def _notice(self, number: int, _: FrameType | None) -> None:
        if os.getpid() != self._process:
            return  # a loader worker: Ctrl-C reaches the whole group, this process goes on serving
        if self.requested:
            raise KeyboardInterrupt
        self.requested = True
        log.warning("stopping after this step; press Ctrl-C again to stop at once")
