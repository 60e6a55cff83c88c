"""Threads that only loading needed end: they are counted in a process of its own."""

from __future__ import annotations

import ctypes
import subprocess
import sys

import pytest

#: Prints the threads of the process before a computation, after it, and once a runtime was made.
_COUNT = """
import os, torch
from detrkit.engine.runtime import TorchRuntime
from detrkit.structures import ClassMap, ImageSpec
def threads():
    return len(os.listdir("/proc/self/task"))
torch.set_num_threads(4)
before = threads()
torch.ones(1 << 22).exp()
computed = threads()
TorchRuntime(torch.nn.Identity(), None, ClassMap.from_names(["cell"]), ImageSpec((32, 32)))
print(before, computed, threads())
"""


@pytest.mark.skipif(
    not sys.platform.startswith("linux")
    or not hasattr(ctypes.CDLL(None), "omp_pause_resource_all"),
    reason="PyTorch does not compute with GNU's OpenMP here",
)
def test_a_loaded_model_leaves_no_team() -> None:
    done = subprocess.run(
        [sys.executable, "-c", _COUNT], capture_output=True, text=True, check=True
    )
    before, computed, loaded = map(int, done.stdout.split())
    assert computed >= before + 3
    assert loaded <= computed - 3
