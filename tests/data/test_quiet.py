"""The silence of C libraries ends, however many threads asked for it."""

from __future__ import annotations

import threading

import pytest

from detrkit.data import quiet


def test_threads_leave_stderr_as_it_was() -> None:
    streams = quiet._streams()
    if streams is None:
        pytest.skip("no glibc, nothing is exchanged")
    stderr, usual, nowhere = streams
    first_is_in, second_is_in, first_is_out = (threading.Event() for _ in range(3))
    seen = []

    def first() -> None:
        with quiet.quiet_c_stderr():
            first_is_in.set()
            second_is_in.wait(10)
        first_is_out.set()

    def second() -> None:
        first_is_in.wait(10)
        with quiet.quiet_c_stderr():
            second_is_in.set()
            first_is_out.wait(10)
            seen.append(stderr.value)

    threads = [threading.Thread(target=f) for f in (first, second)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen == [nowhere]  # still quiet for the one inside
    assert stderr.value == usual
