"""Work beside the detector, never more than a little ahead of it or behind it."""

from __future__ import annotations

import queue
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

T = TypeVar("T")

#: Seconds between looks at whether to stop, while there is nothing to take.
GLANCE = 0.1

_END = object()


class _Raised:
    def __init__(self, error: BaseException) -> None:
        self.error = error


def never() -> bool:
    """Nobody asks to stop."""
    return False


def in_background(
    items: Iterable[T], depth: int, stop: Callable[[], bool] = never
) -> Generator[T, None, None]:
    """The same items, taken by a thread, at most `depth` of them in advance.

    An error of `items` comes out here, after what came before it.

    Args:
        items: are taken, and closed, in the other thread only.
        depth: how many may wait.
        stop: ends the iteration when it says so; also while `items` keep one waiting.
    """
    waiting: queue.Queue[Any] = queue.Queue(depth)
    left = threading.Event()

    def put(item: Any) -> bool:
        while not left.is_set():
            try:
                waiting.put(item, timeout=GLANCE)
                return True
            except queue.Full:
                continue
        return False

    def work() -> None:
        try:
            for item in items:
                if not put(item):
                    return
            put(_END)
        except BaseException as error:
            put(_Raised(error))
        finally:
            if isinstance(items, Generator):
                items.close()

    threading.Thread(target=work, name="read-ahead", daemon=True).start()
    try:
        while True:
            try:
                item = waiting.get(timeout=GLANCE)
            except queue.Empty:
                if stop():
                    return
                continue
            if item is _END:
                return
            if isinstance(item, _Raised):
                raise item.error
            yield item
    finally:
        left.set()


class Workers:
    """Threads for jobs without results, with a short queue; `submit` waits while that is full.

    Args:
        threads: with one, the jobs run in the order in which they came.
        waiting: jobs that may be queued or running.
    """

    def __init__(self, threads: int, waiting: int) -> None:
        self._executor = ThreadPoolExecutor(threads, thread_name_prefix="write")
        self._most = waiting
        self._pending: deque[Future[None]] = deque()

    def submit(self, job: Callable[..., None], *arguments: Any) -> None:
        """Queues a job; raises the error of an earlier one, if there was one."""
        while self._pending and (len(self._pending) >= self._most or self._pending[0].done()):
            self._pending.popleft().result()
        self._pending.append(self._executor.submit(job, *arguments))

    def finish(self) -> None:
        """Waits for all jobs; raises the first error among them."""
        try:
            while self._pending:
                self._pending.popleft().result()
        finally:
            self.abandon()

    def abandon(self) -> None:
        """Lets running jobs end and drops the others."""
        self._executor.shutdown(wait=True, cancel_futures=True)
        self._pending.clear()
