"""Too many, too slow, gone away, told to stop: what a service does under pressure."""

from __future__ import annotations

import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from PIL import Image

from detrkit.structures import Detections
from tests.serving.running import Answer, Client, GatedRuntime, encoded, form, running, until


def start(client: Client, count: int) -> tuple[ThreadPoolExecutor, list]:
    threads = ThreadPoolExecutor(count)
    return threads, [threads.submit(client.post, encoded()) for _ in range(count)]


def test_a_full_queue_says_when_to_ask_again() -> None:
    runtime = GatedRuntime()
    with running(runtime, queue=2, batch=1) as client:
        runtime.gate.clear()
        threads, first = start(client, 1)
        until(lambda: len(runtime.batches) == 1)
        more_threads, waiting = start(client, 2)
        until(lambda: client.service.batcher.waiting == 2)
        refused = client.post(encoded())
        assert (refused.status, refused.headers["retry-after"]) == (503, "1")
        assert refused.json["detail"] == "the queue is full"
        assert client.get("/health").status == 200  # what takes no model goes on
        assert b"detrkit_queue_images 2" in client.get("/metrics").body
        runtime.gate.set()
        assert [f.result(30).status for f in first + waiting] == [200, 200, 200]
        threads.shutdown()
        more_threads.shutdown()


def test_a_slow_model_is_not_waited_for() -> None:
    runtime = GatedRuntime()
    with running(runtime, timeout=0.3, batch=1) as client:
        runtime.gate.clear()
        threads, found = start(client, 2)
        assert [f.result(30).status for f in found] == [504, 504]
        assert found[0].result().json["detail"] == "no answer in time"
        runtime.gate.set()
        threads.shutdown()
        until(lambda: client.service.batcher.waiting == 0)
        assert client.post(encoded()).status == 200
        assert runtime.batches == [1, 1]  # the one that still waited was not computed


def test_a_slow_upload_is_not_waited_for() -> None:
    with (
        running(timeout=0.3) as client,
        socket.create_connection((client.host, client.port), timeout=30) as slow,
    ):
        slow.sendall(b"POST /detect HTTP/1.1\r\nHost: x\r\nContent-Length: 99\r\n\r\nab")
        answer = slow.recv(4096)
        assert answer.startswith(b"HTTP/1.1 408")
        assert client.post(encoded()).status == 200


def test_clients_that_went_away_cost_no_pass() -> None:
    runtime = GatedRuntime()
    with running(runtime, batch=1) as client:
        runtime.gate.clear()
        threads, first = start(client, 1)
        until(lambda: len(runtime.batches) == 1)
        leaving = client.connect()
        leaving.request("POST", "/detect", encoded())
        until(lambda: client.service.batcher.waiting == 1)
        leaving.close()
        counted = b'detrkit_requests_total{path="/detect",status="499"} 1'
        until(lambda: counted in client.get("/metrics").body)
        runtime.gate.set()
        assert first[0].result(30).status == 200
        threads.shutdown()
        until(lambda: client.service.batcher.waiting == 0)
        assert client.post(encoded()).status == 200
        assert runtime.batches == [1, 1]
        assert client.service.memory.used == 0


def test_clients_that_leave_in_the_middle_of_an_upload() -> None:
    with running() as client:
        for _ in range(3):
            with socket.create_connection((client.host, client.port), timeout=30) as leaving:
                leaving.sendall(b"POST /detect HTTP/1.1\r\nHost: x\r\nContent-Length: 99\r\n\r\nab")
        counted = b'detrkit_requests_total{path="/detect",status="499"} 3'
        until(lambda: counted in client.get("/metrics").body)
        assert client.service.memory.used == 0
        assert client.post(encoded()).status == 200


def test_no_http_at_all() -> None:
    with running() as client:
        with socket.create_connection((client.host, client.port), timeout=30) as other:
            other.sendall(b"\x16\x03\x01\x02\x00\x01\r\n\r\n")
            assert other.recv(4096).startswith(b"HTTP/1.1 400")
        assert client.post(encoded()).status == 200


def test_memory_is_bounded() -> None:
    """Pictures of many pixels in few bytes: refused before they are decoded."""
    big = encoded(Image.fromarray(np.zeros((2000, 2000), bool)))  # 12 MB decoded
    runtime = GatedRuntime()
    with running(runtime, batch=1) as client:
        client.service.memory.limit = 30_000_000
        runtime.gate.clear()
        with ThreadPoolExecutor(2) as threads:
            found = [threads.submit(client.post, big) for _ in range(2)]
            until(lambda: client.service.memory.used > 24_000_000)
            assert client.post(big).status == 503
            runtime.gate.set()
            assert [f.result(30).status for f in found] == [200, 200]
        until(lambda: client.service.memory.used == 0)
        body, kind = form(*[(f"{i}.png", big) for i in range(3)])
        statuses = [
            image.get("status", 200)
            for image in client.post(body, "/detect/batch", Content_Type=kind).json["images"]
        ]
        assert sorted(statuses) == [200, 200, 413]  # too much for one request, now and later


def test_a_failing_model_is_a_500_that_says_nothing_of_the_inside() -> None:
    runtime = GatedRuntime()
    with running(runtime) as client:
        runtime.failing = True
        answer = client.post(encoded())
        assert (answer.status, answer.json) == (500, {"detail": "the model failed on this image"})


class NotNumbers(GatedRuntime):
    """Its first box is lost in an overflow."""

    def predict(self, *arguments: Any, **options: Any) -> list[Detections]:
        found = super().predict(*arguments, **options)
        for detections in found:
            detections.boxes_xyxy[0, 2] = np.inf
            detections.scores[1] = np.nan
        return found


def test_boxes_that_are_no_numbers(caplog: pytest.LogCaptureFixture) -> None:
    with running(NotNumbers()) as client:
        answer = client.post(encoded(), "/detect?conf=0")
        assert (answer.status, len(answer.json["detections"])) == (200, 7)
    assert "no numbers: 1 boxes" in caplog.text


def test_stopping_answers_those_who_wait() -> None:
    runtime = GatedRuntime()
    answers: list[Answer] = []
    with running(runtime, batch=2) as client:
        runtime.gate.clear()
        threads = [
            threading.Thread(target=lambda: answers.append(client.post(encoded())))
            for _ in range(5)
        ]
        for thread in threads:
            thread.start()
        until(lambda: client.service.batcher.waiting + sum(runtime.batches) == 5)
        opener = threading.Timer(0.5, runtime.gate.set)
        opener.start()
        leaving = time.monotonic()
        # here the service is told to stop
        runtime_gate, runtime.gate = runtime.gate, _Never(runtime.gate)
    assert time.monotonic() - leaving > 0.4
    for thread in threads:
        thread.join(30)
    assert [a.status for a in answers] == [200] * 5
    assert runtime_gate.is_set()


class _Never(threading.Event):
    """The gate, which the end of the `with` block does not open."""

    def __init__(self, gate: threading.Event) -> None:
        super().__init__()
        self._gate = gate

    def set(self) -> None:
        pass

    def wait(self, timeout: float | None = None) -> bool:
        return self._gate.wait(timeout)
