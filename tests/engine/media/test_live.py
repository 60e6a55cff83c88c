"""Live sources: the newest frame, drops that are counted, connections that are lost and found."""

from __future__ import annotations

import io
import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from http.server import BaseHTTPRequestHandler, SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from detrkit.engine.media import live
from detrkit.engine.media.frame import Clip
from detrkit.engine.media.live import read_address, read_camera, read_live
from detrkit.engine.media.places import Address, Camera
from detrkit.errors import DataError
from tests.engine.moving import scene, write_video


def gray(value: int) -> np.ndarray:
    return np.full((4, 6, 3), value, np.uint8)


@pytest.fixture(autouse=True)
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "_WAIT", 0.02)


@contextmanager
def server(handler: Callable[..., Any]) -> Iterator[str]:
    """A web server on the loopback interface; its address."""
    running = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    running.daemon_threads = True
    thread = threading.Thread(target=running.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{running.server_address[1]}"
    finally:
        running.shutdown()
        running.server_close()


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *arguments: Any) -> None:
        pass


class Mjpeg(BaseHTTPRequestHandler):
    """A camera as web cameras are: one JPEG after the other."""

    pictures = 6

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=next")
        self.end_headers()
        for number in range(self.pictures):
            content = io.BytesIO()
            Image.fromarray(scene(number)).save(content, format="JPEG", quality=95)
            part = content.getvalue()
            head = f"--next\r\nContent-Type: image/jpeg\r\nContent-Length: {len(part)}\r\n\r\n"
            try:
                self.wfile.write(head.encode() + part + b"\r\n")
            except OSError:
                return
            time.sleep(0.03)

    def log_message(self, *arguments: Any) -> None:
        pass


def test_the_newest_frame_is_taken_and_the_others_counted() -> None:
    asked = threading.Event()

    def connect() -> Iterator[Callable[[], np.ndarray]]:
        for value in range(10):
            yield partial(gray, value)
        asked.wait(5)
        yield partial(gray, 100)
        time.sleep(5)

    clip = Clip("camera", live=True)
    frames = read_live(clip, connect, timeout=5)
    first = next(frames)  # the thread starts here
    asked.set()
    second = next(frames)
    while second.image[0, 0, 0] != 100:
        second = next(frames)
    frames.close()
    assert second.number == 10
    assert first.number is not None
    assert 0 <= clip.dropped <= 9
    assert (second.seconds or 0) >= (first.seconds or 0)
    assert second.path == "camera"


def test_drops_are_counted() -> None:
    full = threading.Event()

    def connect() -> Iterator[Callable[[], np.ndarray]]:
        yield partial(gray, 0)
        yield partial(gray, 1)
        full.wait(5)
        for value in range(2, 7):
            yield partial(gray, value)
        live_end.wait(5)

    live_end = threading.Event()
    clip = Clip("camera", live=True)
    frames = read_live(clip, connect, timeout=5)
    seen = [next(frames)]
    full.set()
    time.sleep(0.2)  # all five come, the last one stays
    while seen[-1].number != 6:
        seen.append(next(frames))
    live_end.set()
    frames.close()
    assert clip.dropped == 7 - len(seen)
    assert clip.dropped >= 4


def test_a_lost_source_is_opened_again(caplog: pytest.LogCaptureFixture) -> None:
    opened = []

    def connect() -> Iterator[Callable[[], np.ndarray]]:
        opened.append(1)
        if len(opened) == 2:
            raise OSError("no route to host")
        yield partial(gray, len(opened))
        time.sleep(0.15)

    frames = read_live(Clip("door", live=True), connect, timeout=5)
    with caplog.at_level(logging.WARNING, "detrkit"):
        assert [int(next(frames).image[0, 0, 0]) for _ in range(2)] == [1, 3]
    frames.close()
    assert "door: the stream ended; trying again" in caplog.text


def test_patience_has_an_end() -> None:
    def refused() -> Iterator[Callable[[], np.ndarray]]:
        raise OSError("connection refused")
        yield partial(gray, 0)

    began = time.monotonic()
    with pytest.raises(DataError, match=r"door: no frame for 0.3 s: connection refused") as caught:
        list(read_live(Clip("door", live=True), refused, timeout=0.3))
    assert time.monotonic() - began < 5
    assert "--stream-timeout" in (caught.value.hint or "")


def test_it_can_be_stopped() -> None:
    def silent() -> Iterator[Callable[[], np.ndarray]]:
        time.sleep(10)
        yield partial(gray, 0)

    enough = time.monotonic() + 0.2
    frames = read_live(
        Clip("door", live=True), silent, timeout=9, stop=lambda: time.monotonic() > enough
    )
    assert list(frames) == []


def test_camera(monkeypatch: pytest.MonkeyPatch) -> None:
    import cv2

    class FakeCamera:
        def __init__(self, number: int) -> None:
            self.left = 3 if number == 0 else 0
            self.number = number

        def isOpened(self) -> bool:
            return self.number == 0

        def read(self) -> tuple[bool, Any]:
            time.sleep(0.05)
            self.left -= 1
            return self.left >= 0, np.full((4, 6, 3), (10, 20, 30), np.uint8)  # BGR

        def release(self) -> None:
            pass

    monkeypatch.setattr(cv2, "VideoCapture", FakeCamera)
    frames = read_camera(Camera(0), timeout=5)
    frame = next(frames)
    frames.close()
    assert frame.image[:, 0, 0].tolist() == [30, 20, 10]
    assert frame.path == "camera 0"
    with pytest.raises(DataError, match="there is no camera 7"):
        list(read_camera(Camera(7), timeout=0.2))


def test_passwords_are_not_shown() -> None:
    assert str(Address("rtsp://me:secret@10.0.0.5:554/a?b=1")) == "rtsp://10.0.0.5:554/a?b=1"
    assert str(Address("udp://@:1234")) == "udp://:1234"


class TestAddresses:
    @pytest.fixture(autouse=True)
    def _av(self) -> None:
        pytest.importorskip("av")

    def test_a_file_on_a_server_loses_no_frame(self, tmp_path: Path) -> None:
        write_video(tmp_path / "a.mkv", 30)
        with server(partial(Quiet, directory=str(tmp_path))) as address:
            frames = list(read_address(Address(f"{address}/a.mkv"), timeout=10))
        assert [f.number for f in frames] == list(range(30))
        assert frames[0].clip is not None
        assert not frames[0].clip.live

    def test_motion_jpeg(self) -> None:
        class Short(Mjpeg):
            pictures = 3

        with server(Mjpeg) as address:
            frames = read_address(Address(f"{address}/stream"), timeout=5)
            first = next(frames)
            second = next(frames)
            frames.close()
        assert first.clip is not None
        assert first.clip.live
        assert (second.number or 0) > (first.number or 0)
        expected = scene((first.number or 0) % 6)
        assert np.abs(first.image.permute(1, 2, 0).numpy().astype(int) - expected).mean() < 8

    def test_a_stream_over_udp(self) -> None:
        import av

        with __import__("socket").socket(type=__import__("socket").SOCK_DGRAM) as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        address = f"udp://127.0.0.1:{port}"
        done = threading.Event()

        def send() -> None:
            container = av.open(f"{address}?pkt_size=1316", "w", format="mpegts")
            stream: Any = container.add_stream("mpeg2video", rate=25, options={"g": "5"})
            stream.height, stream.width, stream.pix_fmt = 96, 160, "yuv420p"
            number = 0
            while not done.is_set() and number < 500:
                frame = av.VideoFrame.from_ndarray(scene(number % 20), format="rgb24")
                container.mux(stream.encode(frame))
                number += 1
                time.sleep(0.02)
            container.close()

        sender = threading.Thread(target=send, daemon=True)
        sender.start()
        frames = read_address(Address(address), timeout=20)
        try:
            assert next(frames).size == (96, 160)
            assert next(frames).size == (96, 160)
        finally:
            done.set()
            frames.close()
            sender.join(10)

    def test_nobody_answers(self) -> None:
        with pytest.raises(DataError, match=r"rtsp://127\.0\.0\.1:9/x: no frame for 0.4 s"):
            list(read_address(Address("rtsp://user:secret@127.0.0.1:9/x"), timeout=0.4))
        with pytest.raises(DataError, match="no frame for"):
            list(read_address(Address("http://127.0.0.1:9/x.mp4"), timeout=0.4))
