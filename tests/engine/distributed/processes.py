"""Runs a function in several processes that meet as those of a run do.

The processes are forked from a server that has imported torch and nothing else happened in, so
that starting one takes a moment.
"""

from __future__ import annotations

import multiprocessing
import os
import pickle
import sys
import tempfile
import traceback
from collections.abc import Callable
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

from detrkit.engine.distributed.place import MEETING_FILE

METHOD = "spawn" if sys.platform == "win32" else "forkserver"
if METHOD == "forkserver":
    multiprocessing.set_forkserver_preload(["tests.engine.distributed.preload"])


def in_processes(
    count: int, function: Callable[..., Any], *arguments: Any, seconds: float = 240
) -> list[Any]:
    """`function(*arguments)` in `count` processes within `together("cpu")`; results by rank.

    An exception in a process is its result.
    """
    context = multiprocessing.get_context(METHOD)
    with tempfile.TemporaryDirectory() as folder:
        meeting = str(Path(folder) / "meeting")
        pipes, processes = [], []
        for rank in range(count):
            reader, writer = context.Pipe(duplex=False)
            process = context.Process(
                target=_run, args=(writer, rank, count, meeting, function, arguments)
            )
            process.start()
            writer.close()
            pipes.append(reader)
            processes.append(process)
        results: dict[int, Any] = {}
        try:
            waiting = dict(enumerate(pipes))
            while waiting:
                ready = wait(list(waiting.values()), timeout=seconds)
                assert ready, f"processes {sorted(waiting)} hang"
                for rank, pipe in list(waiting.items()):
                    if pipe in ready:
                        del waiting[rank]
                        try:
                            results[rank] = pickle.loads(pipe.recv_bytes())
                        except EOFError:
                            processes[rank].join(10)
                            results[rank] = processes[rank].exitcode
        finally:
            for process in processes:
                process.kill()
                process.join()
    return [results[rank] for rank in range(count)]


def _run(
    writer: Any,
    rank: int,
    count: int,
    meeting: str,
    function: Callable[..., Any],
    arguments: tuple[Any, ...],
) -> None:
    from detrkit.engine.distributed.group import together

    os.environ.update(
        RANK=str(rank),
        WORLD_SIZE=str(count),
        LOCAL_RANK=str(rank),
        LOCAL_WORLD_SIZE=str(count),
        GLOO_SOCKET_IFNAME="lo" if sys.platform == "linux" else "lo0",
    )
    os.environ[MEETING_FILE] = meeting
    try:
        with together("cpu"):
            result = function(*arguments)
    except BaseException as error:
        error.add_note(traceback.format_exc()) if sys.version_info >= (3, 11) else None
        result = error
    writer.send_bytes(pickle.dumps(result))  # tensors by value: this process ends
    writer.close()
