"""Reading videos of a known length, frame by frame, through PyAV.

Frames come as uint8 RGB, turned as the file says that they are to be shown, with their own time
stamps. What cannot be decoded is passed over and told at the end.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from detrkit.data.bands import WrongBands
from detrkit.data.modes import from_pillow
from detrkit.engine.media.frame import Clip, Frame
from detrkit.engine.media.pyav import import_av, reason
from detrkit.errors import DataError, UsageError

#: Endings of files that are taken for videos.
VIDEO_SUFFIXES = frozenset(
    f".{ending}"
    for ending in (
        *("mp4", "m4v", "mov", "avi", "mkv", "webm", "wmv", "flv", "mpg", "mpeg", "m2ts", "mts"),
        *("ts", "3gp", "ogv", "mjpeg", "mjpg", "h264", "hevc", "h265", "asf", "vob"),
    )
)

#: Seconds in which the server of a video must answer.
_NETWORK_TIMEOUT = 30.0
#: What a video may lack at its end, in seconds or as a part, before it counts as cut off.
_MISSING_SECONDS, _MISSING_PART = 0.5, 0.02


def is_video_file(path: Path) -> bool:
    """Whether the ending is one of a video; hidden files are not."""
    return path.suffix.lower() in VIDEO_SUFFIXES and not path.name.startswith(".")


def read_video(
    place: str, *, name: str | None = None, step: int = 1, channels: int = 3
) -> Generator[Frame, None, None]:
    """The frames of a video.

    Args:
        place: a file, or the address of one.
        name: what to call it; default `place`.
        step: every which frame, from the first one on.
        channels: what the model takes: 3, or 1 for gray.

    Raises:
        DataError: it cannot be opened; or, after the last frame that could be read, it is damaged
            or shorter than it says.
        MissingExtraError: PyAV is not installed.
    """
    av = import_av()
    name = name or place
    with _opened(av, place, name) as container:
        stream = container.streams.video[0]
        stream.thread_type = "AUTO"
        rate = stream.average_rate or stream.guessed_rate
        clip = Clip(
            name,
            rate=float(rate) if rate else None,
            frames=stream.frames or _expected_frames(container, stream),
            time_base=stream.time_base or Fraction(1, 90_000),
            audio=place if container.streams.audio else None,
        )
        reading = _Reading(clip, stream)
        for number, (frame, seconds) in enumerate(reading.frames(av, container)):
            if number % step == 0:
                image = to_image(upright(frame), channels)
                yield Frame(image, name, clip, number, seconds)
        reading.judge(container)


def upright(frame: Any) -> npt.NDArray[np.uint8]:
    """(H, W, 3) RGB of a frame of PyAV, turned as it is to be shown."""
    pixels = frame.to_ndarray(format="rgb24")
    turns = round(frame.rotation / 90) % 4
    return np.ascontiguousarray(np.rot90(pixels, turns)) if turns else pixels


def to_image(pixels: npt.NDArray[np.uint8], channels: int) -> torch.Tensor:
    """(C, H, W) of a frame (H, W, 3), by the rules of picture files.

    Raises:
        UsageError: the model takes neither colours nor gray.
    """
    if channels != 3:
        try:
            pixels = from_pillow(Image.fromarray(pixels), channels)
        except WrongBands as error:
            raise UsageError(
                f"videos are RGB, but the model takes {channels} channels",
                hint="give it the files that it was trained on: pictures or arrays",
            ) from error
    return torch.from_numpy(pixels).permute(2, 0, 1)


def _opened(av: Any, place: str, name: str) -> Any:
    timeout = (_NETWORK_TIMEOUT, _NETWORK_TIMEOUT) if "://" in place else None
    try:
        container = av.open(place, timeout=timeout)
    except (av.FFmpegError, OSError, ValueError) as error:
        raise DataError(f"{name}: no video that can be read: {reason(error)}") from error
    if not container.streams.video:
        container.close()
        raise DataError(f"{name} has no video in it")
    return container


def _expected_frames(container: Any, stream: Any) -> int | None:
    seconds, rate = _length(container, stream), stream.average_rate
    return round(seconds * rate) if seconds and rate else None


def _length(container: Any, stream: Any) -> float | None:
    """Seconds that the video says it lasts."""
    if stream.duration:
        return float(stream.duration * stream.time_base)
    # sound may go on after the last picture
    if container.duration and not container.streams.audio:
        return float(container.duration) / 1_000_000
    return None


class _Reading:
    """Decodes one video and keeps account of what is wrong with it."""

    def __init__(self, clip: Clip, stream: Any) -> None:
        self.clip = clip
        self.stream = stream
        self.count = 0
        self.seconds = 0.0
        self.bad = 0
        self.first_bad = 0.0
        self.ended_by: str | None = None

    def frames(self, av: Any, container: Any) -> Iterator[tuple[Any, float]]:
        """Frames with the seconds since the first one; all that can be decoded."""
        begin: float | None = None
        packets = container.demux(self.stream)
        while True:
            try:
                packet = next(packets, None)
            except (av.FFmpegError, OSError) as error:
                self.ended_by = reason(error)
                return
            if packet is None:
                return
            try:
                decoded = packet.decode()
            except (av.FFmpegError, OSError):
                self._note_bad()
                continue
            for frame in decoded:
                time = frame.time
                if begin is None:
                    begin = time or 0.0
                seconds = time - begin if time is not None else self._next()
                if self.count and seconds <= self.seconds:  # a damaged clock must not run back
                    seconds = self._next()
                self.seconds = seconds
                self.count += 1
                if frame.is_corrupt:
                    self._note_bad()
                yield frame, seconds

    def _next(self) -> float:
        """When the next frame is due."""
        return self.seconds + 1 / (self.clip.rate or 25.0) if self.count else 0.0

    def _note_bad(self) -> None:
        if not self.bad:
            self.first_bad = self.seconds
        self.bad += 1

    def _is_short(self, length: float) -> bool:
        """Whether frames are missing at the end; the last one may be shown for a long time."""
        expected = self.stream.frames  # 0: not known; AVI counts pauses as well
        complete = expected and self.count + self.bad >= (1 - _MISSING_PART) * expected
        missing = length - self._next()
        return not complete and missing > max(_MISSING_SECONDS, _MISSING_PART * length)

    def judge(self, container: Any) -> None:
        """Says what was wrong with a video that has come to its end.

        Raises:
            DataError: something was.
        """
        name, where = self.clip.name, f"{self.seconds:.1f} s"
        if not self.count:
            cause = f": {self.ended_by}" if self.ended_by else ""
            raise DataError(f"{name}: not one frame could be read{cause}")
        faults = []
        if self.bad:
            what = "part" if self.bad == 1 else "parts"
            faults.append(f"{self.bad} {what} damaged, the first at {self.first_bad:.1f} s")
        if self.ended_by:
            faults.append(f"ends at {where} with an error: {self.ended_by}")
        elif self._is_short(length := _length(container, self.stream) or 0.0):
            faults.append(f"ends at {where} of {length:.1f} s")
        if faults:
            raise DataError(f"{name}: {'; '.join(faults)}; the {self.count} frames read are done")
