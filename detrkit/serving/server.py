"""Listens, serves, and ends without losing a request."""

from __future__ import annotations

import logging
import math
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

import uvicorn

from detrkit.engine.predictor import Predictor
from detrkit.errors import Interrupted, UsageError, WeightsError
from detrkit.serving.app import build_app
from detrkit.serving.service import Service
from detrkit.serving.settings import Settings

log = logging.getLogger("detrkit")

#: Seconds beyond the time limit of a request that an ending service waits for its last answers.
GRACE = 5


def listen(settings: Settings) -> socket.socket:
    """The socket, on which nobody answers yet.

    Raises:
        UsageError: the address is taken, or is none of this machine.
    """
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    try:
        return socket.create_server((settings.host, settings.port), family=family, backlog=2048)
    except (OSError, OverflowError) as error:
        raise UsageError(
            f"cannot listen on {settings.host}:{settings.port}: {error}",
            hint="--port 0 takes any port that is free",
        ) from error


def url_of(listener: socket.socket) -> str:
    """Where clients find it."""
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


class Server(uvicorn.Server):
    """Ends on Ctrl-C and SIGTERM when all requests are answered; on a second one at once."""

    def __init__(self, service: Service) -> None:
        super().__init__(
            uvicorn.Config(
                build_app(service),
                log_config=None,
                access_log=False,
                server_header=False,
                ws="none",
                lifespan="on",
                timeout_keep_alive=30,
                timeout_graceful_shutdown=math.ceil(service.settings.timeout) + GRACE,
            )
        )
        self.service = service
        #: Why the model does not answer.
        self.failure: Exception | None = None

    def start(self, listener: socket.socket) -> None:
        """Serves until it is told to end.

        Raises:
            WeightsError: the model does not answer at all.
            Interrupted: somebody could not wait for the last answers.
        """
        self.service.warm_up(self._give_up)
        try:
            self.run(sockets=[listener])
        finally:
            listener.close()
        if self.failure is not None:
            raise WeightsError(
                f"the model does not answer: {type(self.failure).__name__}: {self.failure}",
                hint="a smaller --batch, or --device cpu, may help",
            ) from self.failure
        if self.force_exit:
            raise Interrupted("interrupted")

    def _give_up(self, failure: Exception) -> None:
        self.failure = failure
        self.should_exit = True

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """In uvicorn's place, which raises the signal again: an ordinary end is no failure."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        numbers = [signal.SIGINT, signal.SIGTERM]
        if hasattr(signal, "SIGBREAK"):  # Windows
            numbers.append(signal.SIGBREAK)
        before = {number: signal.signal(number, self.handle_exit) for number in numbers}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Notices a signal."""
        if self.should_exit:
            self.force_exit = True
            return
        self.should_exit = True
        log.warning("finishing the requests that are here; press Ctrl-C again to stop at once")


def serve(
    detector: Predictor,
    settings: Settings,
    name: str,
    announce: Callable[[str], None] = lambda url: None,
) -> None:
    """Serves a detector until Ctrl-C or SIGTERM.

    Args:
        detector: what finds.
        settings: where, and the limits.
        name: of the weights, for people.
        announce: is told the URL as soon as requests are taken, which may wait for the model.

    Raises:
        UsageError: the address cannot be listened to.
        WeightsError: the model does not answer at all.
        Interrupted: a second signal came before all was answered.
    """
    listener = listen(settings)
    for library in ("uvicorn", "uvicorn.error", "python_multipart"):  # about what clients send
        logging.getLogger(library).setLevel(logging.ERROR)
    server = Server(Service(detector, settings, name))
    announce(url_of(listener))
    server.start(listener)
