"""Silence for C libraries that write to stderr by themselves, as libjpeg does on slight damage.

The C library's `stderr` is exchanged, not file descriptor 2: what Python, progress bars and other
threads write meanwhile is shown. Only glibc is known to allow that; elsewhere nothing happens.
"""

from __future__ import annotations

import ctypes
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

#: One entry per thread that is inside. The variable is one for all of them: the last one out puts
#: back what it held at first. Appending and popping need no lock, which a fork could leave taken.
_inside: list[None] = []


@cache
def _streams() -> tuple[ctypes.c_void_p, int | None, int] | None:
    """The C variable `stderr`, what it holds, and a stream to nowhere."""
    if platform.libc_ver()[0] != "glibc":
        return None
    library = ctypes.CDLL(None)
    library.fopen.restype = ctypes.c_void_p
    nowhere = library.fopen(os.devnull.encode(), b"w")
    variable = ctypes.c_void_p.in_dll(library, "stderr")
    return (variable, variable.value, nowhere) if nowhere else None


@contextmanager
def quiet_c_stderr() -> Iterator[None]:
    """While entered, what C code prints to stderr is dropped; costs a few microseconds."""
    streams = _streams()
    if streams is None:
        yield
        return
    stderr, usual, nowhere = streams
    _inside.append(None)
    stderr.value = nowhere
    try:
        yield
    finally:
        _inside.pop()
        if not _inside:
            stderr.value = usual
