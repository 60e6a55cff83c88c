"""Freed memory stays with the process: page faults are counted in one of its own."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from detrkit.engine.allocator import VARIABLE

#: Prints whether memory is kept, and the page faults of ten turns of allocating and freeing.
_COUNT = """
import ctypes, resource, sys
from detrkit.engine.allocator import keep_freed_memory
kept = keep_freed_memory()
c = ctypes.CDLL(None)
c.malloc.restype, c.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
c.free.argtypes = [ctypes.c_void_p]
def turn():
    blocks = [c.malloc(size << 20) for size in (48, 6, 6)]
    for block, size in zip(blocks, (48, 6, 6)):
        ctypes.memset(block, 1, size << 20)
    for block in blocks:
        c.free(block)
turn()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    turn()
print(int(kept), resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""

glibc = pytest.mark.skipif(
    not sys.platform.startswith("linux") or "glibc" not in str(os.confstr("CS_GNU_LIBC_VERSION")),
    reason="the C library is not glibc",
)


def count(**environment: str) -> tuple[bool, int]:
    named = ("MALLOC_", "GLIBC_TUNABLES", "LD_PRELOAD", VARIABLE)
    clean = {key: value for key, value in os.environ.items() if not key.startswith(named)}
    done = subprocess.run(
        [sys.executable, "-c", _COUNT], env=clean | environment, capture_output=True, text=True,
        check=True,
    )  # fmt: skip
    kept, faults = done.stdout.split()
    return kept == "1", int(faults)


@glibc
def test_pages_are_not_mapped_again() -> None:
    kept, faults = count()
    assert kept
    assert faults < 1000
    kept, before = count(**{VARIABLE: "0"})
    assert not kept
    assert before > 20 * max(faults, 1)  # 60 MiB in 4 kB pages, ten times: 150,000


@glibc
def test_what_the_user_told_malloc_stays() -> None:
    assert not count(MALLOC_TRIM_THRESHOLD_="131072")[0]
