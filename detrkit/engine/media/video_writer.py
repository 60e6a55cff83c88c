"""Writing H.264 in MP4, with the time stamps and the sound of the source.

time      each frame keeps its own, in the clock of the source; the frame rate may vary
size      H.264 wants even sides: an odd one gets its last row or column twice
sound     copied as it is where MP4 can hold it, else encoded as AAC
file      whole under its name, or not there: it is written beside it and renamed at the end
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from detrkit.engine.media.frame import Clip
from detrkit.engine.media.pyav import import_av, reason
from detrkit.errors import DetrkitError
from detrkit.files import cannot_write

log = logging.getLogger("detrkit")

#: Encoders of H.264, best first; which of them there are depends on the build of FFmpeg.
_ENCODERS = ("libx264", "h264_videotoolbox", "h264_mf", "libopenh264", "h264")
#: Quick, and hardly to be told from the source.
_X264 = {"preset": "veryfast", "crf": "20"}
#: Sound that MP4 holds as it is.
_COPIED = frozenset({"aac", "mp3", "ac3", "eac3", "alac", "flac", "opus"})
#: Layouts of sound without one, by the number of channels.
_LAYOUTS = {1: "mono", 2: "stereo"}
#: BT.709 with values 16–235, which players assume for H.264.
_COLOURS = {"dst_colorspace": "ITU709", "dst_color_range": "MPEG"}


class VideoWriter:
    """One video, written frame by frame.

    Args:
        path: of the file, `.mp4`.
        clip: whose clock, frame rate and sound it gets.
        size: (h, w) of the frames; what has another is cut off or filled up.

    Raises:
        DetrkitError: it cannot be written.
    """

    def __init__(self, path: Path, clip: Clip, size: tuple[int, int]) -> None:
        self._av = import_av()
        self.path = path
        self._temporary = path.with_name(f".{path.name}.tmp")
        self._size = size[0] + size[0] % 2, size[1] + size[1] % 2
        self._clock = clip.time_base
        self._last = -1
        self._sound: _Sound | None = None
        with self._writing():
            self._file = self._av.open(str(self._temporary), "w", format="mp4")
            self._stream = self._video_stream(clip)
            if clip.audio is not None:
                self._sound = _Sound.of(self._av, clip, self._file)

    def write(self, pixels: npt.NDArray[np.uint8], seconds: float) -> None:
        """Adds a frame.

        Args:
            pixels: (H, W, 3) RGB.
            seconds: since the first one.
        """
        frame = self._av.VideoFrame.from_ndarray(_fitted(pixels, self._size), format="rgb24")
        frame = frame.reformat(format="yuv420p", **_COLOURS)
        tick = max(round(seconds / self._clock), self._last + 1)
        frame.pts, frame.time_base, self._last = tick, self._clock, tick
        with self._writing():
            if self._sound is not None:
                self._sound.until(seconds)
            self._file.mux(self._stream.encode(frame))

    def close(self) -> None:
        """Finishes the file and gives it its name."""
        with self._writing():
            self._file.mux(self._stream.encode())
            if self._sound is not None:
                self._sound.until(float((self._last + 1) * self._clock), last=True)
            self._file.close()
            os.replace(self._temporary, self.path)

    def abandon(self) -> None:
        """Removes what was written."""
        with contextlib.suppress(Exception):  # it may be this very file that fails
            self._file.close()
        with contextlib.suppress(OSError):
            self._temporary.unlink()

    def _video_stream(self, clip: Clip) -> Any:
        rate = Fraction(clip.rate or 30).limit_denominator(1001)
        for name in _ENCODERS:
            try:
                codec = self._av.codec.Codec(name, "w")
            except (self._av.FFmpegError, ValueError):
                continue
            options = _X264 if name == "libx264" else {}
            stream = self._file.add_stream(codec.name, rate=rate, options=options)
            stream.height, stream.width = self._size
            stream.pix_fmt = "yuv420p"
            context = stream.codec_context
            context.time_base = self._clock
            context.colorspace = context.color_primaries = context.color_trc = 1  # BT.709
            context.color_range = 1
            return stream
        raise DetrkitError(
            "this build of FFmpeg cannot encode H.264",
            hint="pip install --force-reinstall av, or --save without `video`",
        )

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except (self._av.FFmpegError, OSError) as error:
            self.abandon()
            raise cannot_write(self.path, _as_system_error(error)) from error
        except BaseException:
            self.abandon()
            raise


def _as_system_error(error: BaseException) -> BaseException:
    number = getattr(error, "errno", None)
    if isinstance(number, int) and 0 < number < 200:  # FFmpeg has numbers of its own
        return OSError(number, os.strerror(number))
    return OSError(reason(error))


def _fitted(pixels: npt.NDArray[np.uint8], size: tuple[int, int]) -> npt.NDArray[np.uint8]:
    """(H, W, 3) at `size`: cut off, or filled up with the last row and column."""
    pixels = pixels[: size[0], : size[1]]
    missing = size[0] - pixels.shape[0], size[1] - pixels.shape[1]
    if any(missing):
        pixels = np.pad(pixels, ((0, missing[0]), (0, missing[1]), (0, 0)), mode="edge")
    return np.ascontiguousarray(pixels)


def _check_aac(av: Any, rate: int, layout: str) -> None:
    """Raises an error of PyAV where such a sound cannot be encoded."""
    context = av.CodecContext.create("aac", "w")
    context.sample_rate, context.layout, context.format = rate, layout, "fltp"
    context.open()


class _Sound:
    """The sound of a source on its way into a file.

    Args:
        container, stream: of the source.
        file: that gets it.
        target: its stream of sound.
        copied: as it is; else it is encoded.
        begin: when the first picture of the source is shown, in its seconds.
    """

    def __init__(
        self, container: Any, stream: Any, file: Any, target: Any, copied: bool, begin: float
    ) -> None:
        self._container, self._file = container, file
        self._target, self._copied, self._begin = target, copied, begin
        self._parts = iter(container.demux(stream) if copied else container.decode(stream))
        self._next = next(self._parts, None)

    @classmethod
    def of(cls, av: Any, clip: Clip, file: Any) -> _Sound | None:
        """The first sound of a clip; None where it cannot be had."""
        try:
            container = av.open(clip.audio)
            stream = container.streams.audio[0]
            video = container.streams.video[0]
            copied = stream.codec_context.name in _COPIED
            if copied:
                target = file.add_stream_from_template(stream)
            else:
                layout = _LAYOUTS.get(stream.channels, stream.layout.name)
                _check_aac(av, stream.rate, layout)  # a stream once added cannot be taken back
                target = file.add_stream("aac", rate=stream.rate, layout=layout)
            begin = float((video.start_time or 0) * video.time_base)
            return cls(container, stream, file, target, copied, begin)
        except (av.FFmpegError, OSError, ValueError, IndexError) as error:
            log.warning("%s: its sound is left out: %s", clip.name, reason(error))
            return None

    def until(self, seconds: float, last: bool = False) -> None:
        """Writes what is heard before that second of the video; `last`: no more will come."""
        while self._next is not None:
            part, when = self._next, self._next.pts
            if when is not None:
                shifted = float(when * part.time_base) - self._begin
                if shifted >= seconds:
                    break
                if shifted >= 0:
                    self._write(part)
            self._next = self._following()
        if last:
            if not self._copied:
                self._file.mux(self._target.encode())
            self._container.close()

    def _write(self, part: Any) -> None:
        offset = round(self._begin / part.time_base)
        part.pts -= offset
        if not self._copied:
            self._file.mux(self._target.encode(part))
            return
        part.dts = part.dts - offset if part.dts is not None else part.pts
        part.stream = self._target
        self._file.mux(part)

    def _following(self) -> Any:
        try:
            return next(self._parts, None)
        except (import_av().FFmpegError, OSError):  # damaged from here on
            return None
