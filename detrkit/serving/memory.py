"""How many bytes of uploads and pictures are held, so that clients cannot fill the memory."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from detrkit.serving.refusals import Refused, busy


class Memory:
    """A number of bytes that requests share.

    Args:
        limit: bytes.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.used = 0
        self._lock = threading.Lock()

    @contextmanager
    def held(self) -> Iterator[Held]:
        """What one request holds, until it is left."""
        held = Held(self)
        try:
            yield held
        finally:
            held.release()

    def take(self, amount: int, own: int) -> None:
        """Counts `amount` bytes for a request that holds `own` already.

        Raises:
            Refused: the request alone needs too much (413), or together with others (503).
        """
        if own + amount > self.limit:
            raise Refused(413, "the request needs too much memory", hint="send fewer pictures")
        with self._lock:
            if self.used + amount > self.limit:
                raise busy("too much is being worked on")
            self.used += amount

    def give_back(self, amount: int) -> None:
        """Undoes `take`."""
        with self._lock:
            self.used -= amount


class Held:
    """The bytes of one request."""

    def __init__(self, memory: Memory) -> None:
        self._memory = memory
        self._amount = 0
        self._lock = threading.Lock()

    def take(self, amount: int) -> None:
        """Counts that many more; as `Memory.take`."""
        with self._lock:  # pictures of one request are decoded in several threads
            self._memory.take(amount, self._amount)
            self._amount += amount

    def release(self) -> None:
        """Gives all of it back."""
        with self._lock:
            self._memory.give_back(self._amount)
            self._amount = 0
