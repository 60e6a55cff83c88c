"""Cameras and streams: the newest frame counts.

A thread reads without pause and keeps one frame, the newest. What comes while the detector is busy
is dropped and counted, so that what is shown is never older than one frame. A source that goes
away is opened again and again, until no frame has come for `timeout` seconds.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Generator, Iterator
from functools import partial
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import numpy.typing as npt

from detrkit.engine.media.background import GLANCE, in_background, never
from detrkit.engine.media.frame import Clip, Frame
from detrkit.engine.media.places import Address, Camera
from detrkit.engine.media.pyav import import_av, reason
from detrkit.engine.media.video import read_video, to_image, upright
from detrkit.errors import DataError

log = logging.getLogger("detrkit")

#: Seconds without a frame after which a live source is given up.
STREAM_TIMEOUT = 30.0

#: Seconds before a lost source is opened again; doubled each time, up to the second.
_WAIT, _LONGEST_WAIT = 0.5, 8.0

#: Frames of a video on a server that are decoded in advance.
_AHEAD = 16

#: A frame that becomes pixels, (H, W, 3) uint8 RGB, when it is wanted.
Pixels = Callable[[], npt.NDArray[np.uint8]]

#: Opens a source and gives its frames; ends, or raises an OSError, when the source goes away.
Connect = Callable[[], Iterator[Pixels]]


def read_camera(camera: Camera, **options: Any) -> Generator[Frame, None, None]:
    """Frames of a camera of this machine, through OpenCV.

    Args:
        camera: which.
        options: of `read_live`.
    """

    def connect() -> Iterator[Pixels]:
        import cv2

        capture = cv2.VideoCapture(camera.number)
        try:
            if not capture.isOpened():
                raise OSError(f"there is no {camera}, or another program uses it")
            while True:
                good, picture = capture.read()
                if not good:
                    raise OSError("the camera gives no more pictures")
                yield partial(_from_bgr, picture)
        finally:
            capture.release()

    return read_live(Clip(str(camera), live=True), connect, **options)


def _from_bgr(picture: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    return np.ascontiguousarray(picture[..., ::-1], np.uint8)


def read_address(
    address: Address,
    *,
    step: int = 1,
    channels: int = 3,
    timeout: float = STREAM_TIMEOUT,
    **options: Any,
) -> Generator[Frame, None, None]:
    """Frames from the network: of a stream, or of a video file that a web server has.

    A file (its length is known beforehand) is read like one on the disk: no frame is dropped.

    Args:
        address: rtsp://, http://, udp://, …
        step, channels: as in `read_video`.
        timeout: seconds without a frame after which a stream is given up.
        options: of `read_live`.
    """
    av = import_av()
    url, name = address.url, str(address)
    if urlsplit(url).scheme in ("http", "https"):
        try:
            with av.open(url, timeout=timeout) as container:
                known = bool(container.duration and container.streams.video)
        except (av.FFmpegError, OSError):
            known = False
        if known:
            frames = read_video(url, name=name, step=step, channels=channels)
            yield from in_background(frames, _AHEAD, options.get("stop", never))
            return

    def connect() -> Iterator[Pixels]:
        try:
            with _opened(av, url, timeout) as container:
                for frame in container.decode(video=0):
                    yield partial(upright, frame)
        except (av.FFmpegError, IndexError) as error:
            raise OSError(reason(error)) from error

    yield from read_live(
        Clip(name, live=True), connect, step=step, channels=channels, timeout=timeout, **options
    )


def _opened(av: Any, url: str, timeout: float) -> Any:
    """A container; RTSP over TCP, which loses nothing, or over UDP where the server lacks that."""
    if not url.lower().startswith("rtsp"):
        return av.open(url, timeout=timeout)
    try:
        return av.open(url, options={"rtsp_transport": "tcp"}, timeout=timeout)
    except (av.FFmpegError, OSError):
        return av.open(url, options={"rtsp_transport": "udp"}, timeout=timeout)


def read_live(
    clip: Clip,
    connect: Connect,
    *,
    step: int = 1,
    channels: int = 3,
    timeout: float = STREAM_TIMEOUT,
    stop: Callable[[], bool] = never,
) -> Generator[Frame, None, None]:
    """The newest frame, whenever one is asked for.

    Args:
        clip: says what it is; what is dropped is counted there.
        connect: opens the source.
        step, channels: as in `read_video`; frames that `step` passes over are not dropped ones.
        timeout: seconds without a frame after which the source is given up.
        stop: ends the reading when it says so.

    Raises:
        DataError: no frame came for `timeout` seconds.
    """
    watcher = _Watcher(clip, connect, step, timeout)
    try:
        while not stop():
            taken = watcher.take()
            if taken is not None:
                number, seconds, pixels = taken
                yield Frame(to_image(pixels(), channels), clip.name, clip, number, seconds)
    finally:
        watcher.close()


class _Watcher:
    """The thread that reads a live source."""

    def __init__(self, clip: Clip, connect: Connect, step: int, timeout: float) -> None:
        self.clip, self.connect, self.step, self.timeout = clip, connect, step, timeout
        self.changed = threading.Condition()
        self.newest: tuple[int, float, Pixels] | None = None
        self.count = 0
        self.began: float | None = None
        self.last = time.monotonic()  # when a frame came
        self.trouble = "nothing came"
        self.closed = threading.Event()
        threading.Thread(target=self._work, name="live", daemon=True).start()

    def take(self) -> tuple[int, float, Pixels] | None:
        """Number, seconds and pixels of the newest frame that was not taken yet; waits a moment.

        Raises:
            DataError: none came for too long.
        """
        with self.changed:
            if self.newest is None:
                self.changed.wait(GLANCE)
            taken, self.newest = self.newest, None
            if taken is None and time.monotonic() - self.last > self.timeout:
                done = f" after {self.count} frames" if self.count else ""
                raise DataError(
                    f"{self.clip.name}: no frame for {self.timeout:g} s{done}: {self.trouble}",
                    hint="--stream-timeout SECONDS waits longer",
                )
        return taken

    def close(self) -> None:
        self.closed.set()

    def _work(self) -> None:
        wait = _WAIT
        while not self.closed.is_set():
            before = self.count
            try:
                for pixels in self.connect():
                    self._offer(pixels)
                    if self.closed.is_set():
                        return
                self.trouble = "the stream ended"
            except Exception as error:  # whatever a driver or a server may do
                self.trouble = reason(error)
            wait = _WAIT if self.count > before else min(2 * wait, _LONGEST_WAIT)
            if self.count > before:
                log.warning("%s: %s; trying again", self.clip.name, self.trouble)
            self.closed.wait(wait)

    def _offer(self, pixels: Pixels) -> None:
        now = time.monotonic()
        with self.changed:
            number = self.count
            self.count += 1
            self.last = now
            if number % self.step:
                return
            if self.began is None:
                self.began = now
            if self.newest is not None:
                self.clip.dropped += 1
            self.newest = (number, now - self.began, pixels)
            self.changed.notify()
