"""Loading images in threads, in order and a little in advance."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from detrkit.errors import DataError

#: Threads that read images.
READERS = 4

T = TypeVar("T")
R = TypeVar("R")


def read_ahead(
    items: Iterable[T], load: Callable[[T], R], depth: int
) -> Iterator[tuple[T, R | DataError]]:
    """Items in order with what `load` gives or the error it raises; `depth` of them in advance.

    Reading and decoding images leave Python's lock, so threads suffice.
    """
    pending: deque[tuple[T, Future[R]]] = deque()

    def first() -> tuple[T, R | DataError]:
        item, image = pending.popleft()
        try:
            return item, image.result()
        except DataError as error:
            return item, error

    with ThreadPoolExecutor(max_workers=READERS, thread_name_prefix="read") as readers:
        try:
            for item in items:
                pending.append((item, readers.submit(load, item)))
                if len(pending) >= depth:
                    yield first()
            while pending:
                yield first()
        finally:
            for _, image in pending:
                image.cancel()
