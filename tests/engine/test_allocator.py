"""Freed memory stays with the process: page faults are counted in one of its own."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from detrkit.engine.allocator import VARIABLE

#: Prints whether memory is kept, and the page faults of ten turns of allocating and freeing, in
#: the main thread or another.
_COUNT = """
import ctypes, resource, sys, threading
from detrkit.engine.allocator import keep_freed_memory
kept = keep_freed_memory()
c = ctypes.CDLL(None)
c.malloc.restype, c.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
c.free.argtypes = [ctypes.c_void_p]
def turn():
    blocks = [c.malloc(size << 20) for size in (48, 30, 6)]
    for block, size in zip(blocks, (48, 30, 6)):
        ctypes.memset(block, 1, size << 20)
    for block in blocks:
        c.free(block)
def turns():
    turn()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(10):
        turn()
    print(int(kept), resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
if "thread" in sys.argv:
    thread = threading.Thread(target=turns)
    thread.start()
    thread.join()
else:
    turns()
"""

glibc = pytest.mark.skipif(
    not sys.platform.startswith("linux") or "glibc" not in str(os.confstr("CS_GNU_LIBC_VERSION")),
    reason="the C library is not glibc",
)


def count(*arguments: str, **environment: str) -> tuple[bool, int]:
    named = ("MALLOC_", "GLIBC_TUNABLES", "LD_PRELOAD", VARIABLE)
    clean = {key: value for key, value in os.environ.items() if not key.startswith(named)}
    done = subprocess.run(
        [sys.executable, "-c", _COUNT, *arguments],
        env=clean | environment,
        capture_output=True,
        text=True,
        check=True,
    )
    kept, faults = done.stdout.split()
    return kept == "1", int(faults)


@glibc
@pytest.mark.parametrize("where", ["main", "thread"])
def test_pages_are_not_mapped_again(where: str) -> None:
    kept, faults = count(where)
    assert kept
    assert faults < 1000
    kept, before = count(where, **{VARIABLE: "0"})
    assert not kept
    assert before > 20 * max(faults, 1)  # 84 MiB in 4 kB pages, ten times: 215,000


@glibc
def test_what_the_user_told_malloc_stays() -> None:
    assert not count(MALLOC_TRIM_THRESHOLD_="131072")[0]
