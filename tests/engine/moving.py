"""Small videos whose content is known: a bright rectangle that goes to the right."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest


def scene(
    number: int, size: tuple[int, int] = (96, 160), channel: int = 0
) -> npt.NDArray[np.uint8]:
    """Frame `number` (H, W, 3): dark, with a rectangle of 40 x 30 pixels at (10 + 4 number, 20)."""
    pixels = np.full((*size, 3), 16, np.uint8)
    left = 10 + 4 * number
    pixels[20:50, left : left + 40, channel] = 250
    return pixels


def write_video(
    path: Path,
    frames: int = 12,
    *,
    size: tuple[int, int] = (96, 160),
    times: Sequence[int] | None = None,
    audio: str | None = None,
    codec: str = "libx264",
    rate: int | None = None,
    options: dict[str, str] | None = None,
) -> Path:
    """Writes `scene` after `scene`.

    Args:
        path: its ending says the kind of file.
        frames: how many.
        size: (h, w).
        times: milliseconds of each frame; default ten a second.
        audio: codec of a tone as long as the video; None: no sound.
        codec: of the pictures.
        rate: frames per second, for kinds of files in which every frame has the same length.
        options: of the encoder.
    """
    av: Any = pytest.importorskip("av")
    container = av.open(str(path), "w")
    clock = Fraction(1, rate) if rate else Fraction(1, 1000)
    stream = container.add_stream(codec, rate=rate or 10, options=options or {})
    stream.height, stream.width = size
    stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
    if size[0] % 2 or size[1] % 2:
        stream.pix_fmt = "yuv444p"
    stream.codec_context.time_base = clock
    sound = container.add_stream(audio, rate=44100) if audio else None
    times = times or [i if rate else 100 * i for i in range(frames)]
    for number, time in zip(range(frames), times, strict=True):
        frame = av.VideoFrame.from_ndarray(scene(number, size), format="rgb24")
        frame.pts, frame.time_base = time, clock
        container.mux(stream.encode(frame))
        if sound is not None:
            tone = (np.sin(np.arange(4410) / 20) * 8000).astype(np.int16)[None]
            piece = av.AudioFrame.from_ndarray(tone, format="s16", layout="mono")
            piece.sample_rate, piece.pts = 44100, number * 4410
            container.mux(sound.encode(piece))
    container.mux(stream.encode())
    if sound is not None:
        container.mux(sound.encode())
    container.close()
    return path


def rotate_mp4(path: Path) -> None:
    """Marks an MP4 as filmed upright: to be turned by 90 degrees clockwise when it is shown."""
    content = bytearray(path.read_bytes())
    matrix = struct.pack(">9i", 0, 1 << 16, 0, -(1 << 16), 0, 0, 0, 0, 1 << 30)
    at = content.index(b"tkhd") + 4 + 40  # version 0: the matrix follows 40 bytes of the box
    assert struct.unpack(">i", content[at : at + 4])[0] == 1 << 16
    content[at : at + 36] = matrix
    path.write_bytes(content)


def read_back(path: Path) -> tuple[list[Any], Any]:
    """All frames of a video and its container, for a look at its streams."""
    av: Any = pytest.importorskip("av")
    container = av.open(str(path))
    return list(container.decode(video=0)), container
