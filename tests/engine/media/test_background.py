"""Work beside the detector: order, bounds, errors, and ends."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest

from detrkit.engine.media.background import Workers, in_background


def test_order_and_bound() -> None:
    taken = []

    def numbers() -> Iterator[int]:
        for number in range(100):
            taken.append(number)
            yield number

    items = in_background(numbers(), 4)
    assert [next(items) for _ in range(10)] == list(range(10))
    time.sleep(0.05)
    assert len(taken) <= 10 + 4 + 1
    assert list(items) == list(range(10, 100))


def test_errors_come_after_what_was_before_them() -> None:
    def numbers() -> Iterator[int]:
        yield 1
        raise ZeroDivisionError

    items = in_background(numbers(), 4)
    assert next(items) == 1
    with pytest.raises(ZeroDivisionError):
        next(items)


def test_leaving_early_closes_the_source() -> None:
    closed = threading.Event()

    def numbers() -> Iterator[int]:
        try:
            number = 0
            while True:
                yield number
                number += 1
        finally:
            closed.set()

    items = in_background(numbers(), 2)
    next(items)
    items.close()
    assert closed.wait(5)


def test_stop_ends_a_wait() -> None:
    def silent() -> Iterator[int]:
        time.sleep(3)
        yield 1

    began = time.monotonic()
    assert list(in_background(silent(), 2, stop=lambda: True)) == []
    assert time.monotonic() - began < 2


class TestWorkers:
    def test_few_wait(self) -> None:
        go, running = threading.Event(), []
        workers = Workers(1, 2)
        for number in range(2):
            workers.submit(lambda n: (running.append(n), go.wait(5)), number)
        late = threading.Thread(target=workers.submit, args=(running.append, 2))
        late.start()
        late.join(0.1)
        assert late.is_alive()  # the third one has to wait for a place
        go.set()
        late.join(5)
        workers.finish()
        assert running == [0, 1, 2]

    def test_an_error_comes_out(self) -> None:
        def fail() -> None:
            raise ZeroDivisionError

        workers = Workers(1, 2)
        workers.submit(fail)
        with pytest.raises(ZeroDivisionError):
            workers.finish()
