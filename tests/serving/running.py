"""A service on a free port, and a client that speaks plain HTTP to it."""

from __future__ import annotations

import http.client
import io
import json
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from PIL import Image
from torch import Tensor

from detrkit.engine.predictor import Predictor
from detrkit.engine.runtime import Runtime
from detrkit.serving.server import Server, listen, url_of
from detrkit.serving.service import Service
from detrkit.serving.settings import Settings
from detrkit.structures import Detections
from tests.engine.bright import bright_runtime, picture


@dataclass(frozen=True)
class Answer:
    """What came back."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Client:
    """Asks one service, with a connection for each request."""

    def __init__(self, url: str, service: Service | None = None) -> None:
        self.url = url
        self.host, self.port = str(urlsplit(url).hostname), int(urlsplit(url).port or 0)
        self._service = service

    @property
    def service(self) -> Service:
        assert self._service is not None
        return self._service

    def connect(self, timeout: float = 60) -> http.client.HTTPConnection:
        return http.client.HTTPConnection(self.host, self.port, timeout=timeout)

    def ask(self, method: str, path: str, body: bytes | None = None, **headers: str) -> Answer:
        connection = self.connect()
        try:
            names = {name.replace("_", "-"): value for name, value in headers.items()}
            connection.request(method, path, body, names)
            response = connection.getresponse()
            return Answer(
                response.status,
                {name.lower(): value for name, value in response.getheaders()},
                response.read(),
            )
        finally:
            connection.close()

    def get(self, path: str, **headers: str) -> Answer:
        return self.ask("GET", path, **headers)

    def post(self, body: bytes, path: str = "/detect", **headers: str) -> Answer:
        return self.ask("POST", path, body, **headers)

    def wait_until_ready(self) -> None:
        until(lambda: self.get("/health").status == 200)


class GatedRuntime(Runtime):
    """The detector of the bright rectangle, which waits at a gate and notes its batches."""

    def __init__(self) -> None:
        self.inner = bright_runtime()
        self.class_map, self.image_spec = self.inner.class_map, self.inner.image_spec
        self.device = self.inner.device
        self.gate = threading.Event()
        self.gate.set()
        self.failing = False
        self.batches: list[int] = []

    def predict(
        self, images: Sequence[Tensor], paths: Sequence[str | None] | None = None
    ) -> list[Detections]:
        self.batches.append(len(images))
        self.gate.wait(30)
        if self.failing:
            raise RuntimeError("out of memory")
        return self.inner.predict(images, paths)


@contextmanager
def running(runtime: Runtime | None = None, **settings: Any) -> Iterator[Client]:
    """A service in this process; it has answered once, unless its gate is shut."""
    chosen = Settings(**{"port": 0, **settings})
    listener = listen(chosen)
    server = Server(Service(Predictor(runtime or bright_runtime()), chosen, "bright.pth"))
    thread = threading.Thread(target=server.start, args=(listener,), daemon=True)
    thread.start()
    client = Client(url_of(listener), server.service)
    try:
        if not isinstance(runtime, GatedRuntime) or runtime.gate.is_set():
            client.wait_until_ready()
            if isinstance(runtime, GatedRuntime):
                runtime.batches.clear()
        yield client
    finally:
        if isinstance(runtime, GatedRuntime):
            runtime.gate.set()
        server.should_exit = True
        thread.join(30)
        assert not thread.is_alive()


def until(condition: Any, seconds: float = 30) -> None:
    """Waits for something that happens elsewhere."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it never happened"
        time.sleep(0.005)


def encoded(image: Image.Image | None = None, kind: str = "PNG", **options: Any) -> bytes:
    """An image file; default that of a bright rectangle."""
    file = io.BytesIO()
    (image or picture()).save(file, kind, **options)
    return file.getvalue()


def form(*files: tuple[str, bytes], field: str = "image") -> tuple[bytes, str]:
    """Body and content type of a form with (name, content)."""
    parts = b"".join(
        b'--line\r\nContent-Disposition: form-data; name="%s"; filename="%s"\r\n\r\n%s\r\n'
        % (field.encode(), name.encode(), content)
        for name, content in files
    )
    return parts + b"--line--\r\n", "multipart/form-data; boundary=line"
