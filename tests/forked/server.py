"""Forks a process for each client that connects.

    python -m tests.forked.server SOCKET

It only imports: torch's threads do not survive a fork. What asks for the terminal or the
environment when it is imported (`detrkit.cli`), is left to the forked process.
"""

from __future__ import annotations

import atexit
import importlib
import json
import os
import select
import shutil
import signal
import socket
import struct
import sys
import traceback
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn

import tests.engine.distributed.preload  # noqa: F401
from tests.garbage import freeze

#: What a run imports only when it needs it.
HEAVY = (
    "detrkit.engine.curves",
    "matplotlib.backends.backend_agg",
    "torch._dynamo",
    "torchvision.transforms.v2",
)


def main() -> None:
    """Serves until stdin has anything to say; the folder of the socket goes with it."""
    for name in HEAVY:
        importlib.import_module(name)
    freeze()
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(sys.argv[1])
    listener.listen()
    print("ready", flush=True)
    running: dict[int, tuple[int, socket.socket]] = {}  # handle -> process, its client
    while True:
        clients = {client: process for process, client in running.values()}
        ready, _, _ = select.select([sys.stdin, listener, *running, *clients], [], [])
        for one in ready:
            if one is sys.stdin:
                for process, _ in running.values():
                    _kill(process)
                shutil.rmtree(Path(sys.argv[1]).parent)
                return
            if one is listener:
                client = listener.accept()[0]
                process = _forked(client, [listener, *clients])
                running[os.pidfd_open(process)] = (process, client)
            elif one in running:
                process, client = running.pop(one)
                os.close(one)
                code = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
                with suppress(OSError), client:  # it may have been killed
                    client.sendall(f"{code}\n".encode())
                break  # the client is not to be looked at any more
            elif not _is_there(one):
                _kill(clients[one])
                break


def _is_there(client: socket.socket) -> bool:
    """Whether the client lives: it says nothing more."""
    try:
        return bool(client.recv(1))
    except OSError:
        return False


def _kill(process: int) -> None:
    with suppress(ProcessLookupError):
        os.killpg(process, signal.SIGKILL)


def _forked(client: socket.socket, others: list[socket.socket]) -> int:
    size, streams, _, _ = socket.recv_fds(client, 4, 3)
    body = client.makefile("rb").read(struct.unpack("!I", size)[0])
    process = os.fork()
    if not process:
        for each in (client, *others):
            each.close()
        _run(json.loads(body), streams)
    for stream in streams:
        os.close(stream)
    client.sendall(f"{process}\n".encode())
    return process


def _run(request: dict[str, Any], streams: list[int]) -> NoReturn:
    """What `python -m detrkit` does, in this process."""
    code = 1
    try:
        os.setsid()
        for number, stream in enumerate(streams):
            os.dup2(stream, number)
            os.close(stream)
        os.chdir(request["folder"])
        os.environ.clear()
        os.environ.update(request["environment"])
        sys.stdin = os.fdopen(0, encoding="utf-8")
        sys.stdout = os.fdopen(1, "w", encoding="utf-8")
        sys.stderr = os.fdopen(2, "w", encoding="utf-8", errors="backslashreplace", buffering=1)
        sys.argv = ["detrkit", *request["arguments"]]
        from detrkit.cli.app import entry

        entry()
    except SystemExit as left:
        code = left.code if isinstance(left.code, int) else 1
    except BaseException:
        traceback.print_exc()
    finally:
        with suppress(OSError):
            atexit._run_exitfuncs()
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    main()
