"""`detrkit` commands in processes that cost no import of torch.

A fresh interpreter imports for seconds before a command begins. Where a test is about a process
(its streams, its signals, its death) and not about its start, a server that has imported forks one
for it; `client` stands in its place in the meantime, and ends as it ends.
"""

from __future__ import annotations

import atexit
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from detrkit.engine.distributed.launch import Launcher

_FOLDER = Path(__file__).parent
_REPOSITORY = _FOLDER.parents[1]


def detrkit() -> list[str]:
    """The beginning of a command line, to be followed by `detrkit`'s arguments."""
    if sys.platform != "linux":
        return [sys.executable, "-m", "detrkit"]
    return [sys.executable, "-I", "-S", str(_FOLDER / "client.py"), _server()]


def forking_launcher(command: Sequence[str], *options: int) -> Launcher:
    """`Launcher`, whose processes are forked."""
    start = [sys.executable, "-m", "detrkit"]
    assert list(command[:3]) == start
    return Launcher([*detrkit(), *command[3:]], *options)


@cache
def _server() -> str:
    """The socket of this process's server, which ends when this process does."""
    place = f"{tempfile.mkdtemp(prefix='detrkit-')}/socket"
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.forked.server", place],
        cwd=_REPOSITORY,
        env={**os.environ, "PYTHONPATH": str(_REPOSITORY), "OMP_NUM_THREADS": "1"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,  # Ctrl-C is for the tests
    )
    # told so: the end of its stdin may not come, since a loader process that a test forks has the
    # pipe as well
    atexit.register(process.communicate, "end\n")
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return place
