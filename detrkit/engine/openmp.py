"""Ends OpenMP threads that have nothing more to do.

OpenMP keeps a team of threads for every thread that has computed. In GNU's (`libgomp`, which
PyTorch has on Linux), once all teams together are larger than the processor, a thread that waits
for its team sleeps at once instead of spinning, and each layer of a small network waits for many to
be woken: a detector in a worker thread takes half as long again, only because the main
thread has loaded it (`tests/benchmarks/threads.py`).
"""

from __future__ import annotations

import ctypes
import sys

_SOFT = 1  # omp_pause_soft: what was set stays


def end_team() -> None:
    """Ends the threads that OpenMP keeps for this one; the next computation starts new ones.

    Costs that one less than a millisecond. Does nothing where PyTorch has another OpenMP.
    """
    if not sys.platform.startswith("linux"):
        return
    pause = getattr(ctypes.CDLL(None), "omp_pause_resource_all", None)  # since OpenMP 5.0
    if pause is not None:
        pause(_SOFT)
