"""Stands for a process that the server forks; imports little.

    python -I -S client.py SOCKET ARGUMENTS...

The forked process gets its arguments, environment, folder and streams, and the signals that are
sent to it. When the client is killed, the server kills the process and what it has started.
"""

import json
import os
import signal
import socket
import struct
import sys
from types import FrameType


def main() -> None:
    """Ends with the exit code, or by the signal, of the forked process."""
    server = socket.socket(socket.AF_UNIX)
    server.connect(sys.argv[1])
    request = {"arguments": sys.argv[2:], "environment": dict(os.environ), "folder": os.getcwd()}
    body = json.dumps(request).encode()
    socket.send_fds(server, [struct.pack("!I", len(body))], [0, 1, 2])
    server.sendall(body)
    answers = server.makefile()
    process = int(answers.readline())

    def pass_on(number: int, frame: FrameType | None) -> None:
        os.kill(process, number)

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, pass_on)
    code = int(answers.readline())
    if code < 0:
        if -code != signal.SIGKILL:
            signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    os._exit(code)


if __name__ == "__main__":
    main()
