"""Written videos, read back: pictures, times, sound, odd sizes, full disks."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from detrkit.engine.media.frame import Clip, Frame
from detrkit.engine.media.video import read_video
from detrkit.engine.media.video_writer import VideoWriter
from detrkit.errors import DetrkitError
from tests.engine.moving import read_back, scene, write_video

pytest.importorskip("av")


def write(path: Path, clip: Clip, times: list[float], size: tuple[int, int] = (96, 160)) -> None:
    writer = VideoWriter(path, clip, size)
    for number, time in enumerate(times):
        writer.write(scene(number, size), time)
    writer.close()


def rewritten(frames: list[Frame], path: Path) -> tuple[Any, Any]:
    """Frames of a video written as another one: its container and its sound."""
    assert frames[0].clip is not None
    writer = VideoWriter(path, frames[0].clip, (96, 160))
    for frame in frames:
        writer.write(frame.image.permute(1, 2, 0).numpy(), frame.seconds or 0.0)
    writer.close()
    _, container = read_back(path)
    (sound,) = container.streams.audio
    return container, sound


def test_pictures_and_times_are_kept(tmp_path: Path) -> None:
    times = [0.0, 0.04, 0.3, 0.32, 0.9]
    write(tmp_path / "a.mp4", Clip("a", rate=10.0, time_base=Fraction(1, 12800)), times)
    frames, container = read_back(tmp_path / "a.mp4")
    stream = container.streams.video[0]
    assert stream.codec_context.name == "h264"
    assert [float(f.pts * f.time_base) for f in frames] == pytest.approx(times, abs=1e-4)
    seen = frames[4].to_ndarray(format="rgb24").astype(int)
    assert np.abs(seen - scene(4)).mean() < 4
    assert [p.name for p in tmp_path.iterdir()] == ["a.mp4"]


@pytest.mark.parametrize("channel", [0, 1, 2])
def test_colours_are_kept(tmp_path: Path, channel: int) -> None:
    writer = VideoWriter(tmp_path / "a.mp4", Clip("a", rate=10.0), (64, 64))
    pixels = np.full((64, 64, 3), 40, np.uint8)
    pixels[..., channel] = 200
    writer.write(pixels, 0.0)
    writer.close()
    (frame,) = read_video(str(tmp_path / "a.mp4"))
    np.testing.assert_allclose(frame.image[:, 32, 32].tolist(), pixels[0, 0], atol=4)


@pytest.mark.parametrize("size", [(97, 161), (96, 161), (97, 160)])
def test_odd_sizes(tmp_path: Path, size: tuple[int, int]) -> None:
    write(tmp_path / "a.mp4", Clip("a", rate=10.0), [0.0, 0.1], size)
    frames, _ = read_back(tmp_path / "a.mp4")
    assert (frames[0].height, frames[0].width) == (size[0] + size[0] % 2, size[1] + size[1] % 2)


def test_a_frame_of_another_size_and_a_clock_that_stands_still(tmp_path: Path) -> None:
    writer = VideoWriter(tmp_path / "a.mp4", Clip("a", rate=10.0), (96, 160))
    for size in ((96, 160), (40, 300), (200, 50)):
        writer.write(np.zeros((*size, 3), np.uint8), 0.0)
    writer.close()
    frames, _ = read_back(tmp_path / "a.mp4")
    assert {(f.height, f.width) for f in frames} == {(96, 160)}
    assert len({f.pts for f in frames}) == 3


@pytest.mark.parametrize(
    ("name", "codec", "kept"),
    [("s.mp4", "aac", "aac"), ("s.mkv", "ac3", "ac3"), ("s.mkv", "pcm_s16le", "aac")],
)
def test_sound_is_kept(tmp_path: Path, name: str, codec: str, kept: str) -> None:
    source = write_video(tmp_path / name, 20, audio=codec)
    frames = list(read_video(str(source)))
    container, sound = rewritten(frames, tmp_path / "out.mp4")
    assert sound.codec_context.name == kept
    assert float(sound.duration * sound.time_base) == pytest.approx(2.0, abs=0.15)
    container.seek(0)
    heard = np.concatenate([f.to_ndarray().reshape(-1) for f in container.decode(audio=0)])
    assert np.abs(heard.astype(float)).mean() > 0.05


def test_sound_ends_with_the_pictures(tmp_path: Path) -> None:
    source = write_video(tmp_path / "s.mp4", 30, audio="aac")
    frames = list(read_video(str(source)))[:10]
    _, sound = rewritten(frames, tmp_path / "out.mp4")
    assert float(sound.duration * sound.time_base) < 1.2


def test_no_half_file_is_left(tmp_path: Path) -> None:
    writer = VideoWriter(tmp_path / "a.mp4", Clip("a", rate=10.0), (96, 160))
    writer.write(scene(0), 0.0)
    writer.abandon()
    assert list(tmp_path.iterdir()) == []
    writer = VideoWriter(tmp_path / "missing" / "a.mp4", Clip("a"), (96, 160))
    with pytest.raises(DetrkitError, match="cannot write"):  # noqa: PT012
        writer.write(scene(0), 0.0)
        writer.close()


def test_full_disk(tmp_path: Path) -> None:
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    noise = np.random.default_rng(0).integers(0, 255, (30, 240, 320, 3), dtype=np.uint8)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    try:
        with pytest.raises(DetrkitError, match=r"cannot write .*a\.mp4"):  # noqa: PT012
            writer = VideoWriter(tmp_path / "a.mp4", Clip("a", rate=10.0), (240, 320))
            for number, pixels in enumerate(noise):
                writer.write(pixels, number / 10)
            writer.close()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert list(tmp_path.iterdir()) == []
