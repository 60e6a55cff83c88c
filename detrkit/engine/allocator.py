"""Keeps memory that tensors on a CPU have freed, instead of handing it back to the system.

PyTorch takes CPU memory from `malloc`. That of glibc maps large blocks anew each time and gives the
top of the heap back as soon as a few megabytes of it are free, so a network, which allocates and
frees the same large maps in every pass, has the system clear and map thousands of pages per pass.
A GPU's caching allocator avoids just that. Three settings of `malloc` do the same here
(`mallopt(3)`); results do not change. One of them is for threads: blocks of a heap of their own,
which glibc gives every thread, go back to the system whatever the other two say. The process then
keeps the most memory it has once needed.
"""

from __future__ import annotations

import ctypes
import os
import sys

#: Environment variable; "0" leaves `malloc` as it is.
VARIABLE = "DETRKIT_KEEP_MEMORY"

# Numbers of `malloc.h`.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8
_NEVER = 2**31 - 1
_LARGEST_BLOCK = 2**30
#: Older glibc takes no more than this for the size from which blocks are mapped.
_LARGEST_BLOCK_BEFORE = 2**25

#: Variables by which the user tells glibc the same; what they say stays.
_SAID = (
    "MALLOC_TRIM_THRESHOLD_",
    "MALLOC_MMAP_THRESHOLD_",
    "MALLOC_ARENA_MAX",
    "GLIBC_TUNABLES",
    "LD_PRELOAD",
)


def keep_freed_memory() -> bool:
    """Lets this process keep freed memory, for all that it does from now on.

    Does nothing where the C library is not glibc, and where the user has told `malloc` otherwise or
    put another allocator in its place.

    Returns:
        Whether memory is kept.
    """
    if os.environ.get(VARIABLE) == "0" or any(os.environ.get(name) for name in _SAID):
        return False
    if not sys.platform.startswith("linux"):
        return False
    library = ctypes.CDLL(None)
    if not hasattr(library, "gnu_get_libc_version"):  # musl
        return False
    mallopt = library.mallopt
    mapped = mallopt(_M_MMAP_THRESHOLD, _LARGEST_BLOCK) or mallopt(
        _M_MMAP_THRESHOLD, _LARGEST_BLOCK_BEFORE
    )
    return bool(mapped and mallopt(_M_TRIM_THRESHOLD, _NEVER) and mallopt(_M_ARENA_MAX, 1))
