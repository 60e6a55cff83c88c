"""Reading videos: every frame, its time, its turn; and what is wrong with damaged ones."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from detrkit.engine.media.frame import Frame
from detrkit.engine.media.video import read_video
from detrkit.errors import DataError, MissingExtraError, UsageError
from tests.engine.moving import rotate_mp4, scene, write_video

pytest.importorskip("av")


def pixels(frame: Frame) -> np.ndarray:
    return frame.image.permute(1, 2, 0).numpy().astype(int)


def test_frames_times_and_colours(tmp_path: Path) -> None:
    frames = list(read_video(str(write_video(tmp_path / "a.mp4"))))
    assert [f.number for f in frames] == list(range(12))
    np.testing.assert_allclose([f.seconds for f in frames], np.arange(12) / 10, atol=1e-3)
    for i in (0, 11):
        assert np.abs(pixels(frames[i]) - scene(i)).mean() < 4
    clip = frames[0].clip
    assert clip is not None
    assert (clip.rate, clip.frames, clip.live, clip.audio) == (10.0, 12, False, None)
    assert frames[0].path == str(tmp_path / "a.mp4")


def test_variable_frame_rate(tmp_path: Path) -> None:
    times = [0, 40, 300, 320, 900]
    frames = read_video(str(write_video(tmp_path / "a.mp4", 5, times=times)))
    np.testing.assert_allclose([f.seconds for f in frames], np.array(times) / 1000, atol=2e-3)


def test_every_third_frame(tmp_path: Path) -> None:
    frames = list(read_video(str(write_video(tmp_path / "a.mp4")), step=3))
    assert [f.number for f in frames] == [0, 3, 6, 9]
    np.testing.assert_allclose(frames[1].seconds, 0.3, atol=1e-3)


def test_rotation_is_applied(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", 2)
    rotate_mp4(path)
    (first, _) = read_video(str(path))
    assert first.size == (160, 96)
    assert np.abs(pixels(first) - np.rot90(scene(0), -1)).mean() < 4


@pytest.mark.parametrize(
    ("name", "codec"),
    [("a.avi", "mjpeg"), ("a.mkv", "libx264"), ("a.ts", "mpeg2video"), ("a.mov", "mpeg4")],
)
def test_other_containers(tmp_path: Path, name: str, codec: str) -> None:
    rate = 25 if name in ("a.avi", "a.ts") else None
    frames = list(read_video(str(write_video(tmp_path / name, codec=codec, rate=rate))))
    assert len(frames) == 12
    assert np.abs(pixels(frames[5]) - scene(5)).mean() < 6
    assert (np.diff([f.seconds or 0.0 for f in frames]) > 0).all()


def test_gray_and_other_channels(tmp_path: Path) -> None:
    path = str(write_video(tmp_path / "a.mp4", 1))
    (gray,) = read_video(path, channels=1)
    assert gray.image.shape == (1, 96, 160)
    with pytest.raises(UsageError, match="takes 5 channels"):
        list(read_video(path, channels=5))


def test_a_last_frame_that_is_shown_long_is_no_damage(tmp_path: Path) -> None:
    times = [0, 100, 200, 9000]
    assert len(list(read_video(str(write_video(tmp_path / "a.mp4", 4, times=times))))) == 4
    assert len(list(read_video(str(write_video(tmp_path / "a.avi", 4, codec="mjpeg"))))) == 4


class TestDamage:
    def read(self, path: Path) -> tuple[int, str]:
        """Frames that were read, and what was said at the end."""
        count = 0
        with pytest.raises(DataError) as caught:  # noqa: PT012
            for _ in read_video(str(path)):
                count += 1
        return count, str(caught.value)

    def test_cut_off(self, tmp_path: Path) -> None:
        whole = write_video(
            tmp_path / "a.mp4", 40, options={"g": "5", "bf": "0", "tune": "zerolatency"}
        ).read_bytes()
        head = whole.index(b"mdat")
        assert whole.index(b"moov") > head  # such a file has no index without its end
        (tmp_path / "b.mp4").write_bytes(whole[: len(whole) // 2])
        assert self.read(tmp_path / "b.mp4")[0] == 0
        assert "no video that can be read" in self.read(tmp_path / "b.mp4")[1]

    def test_cut_off_where_the_index_comes_first(self, tmp_path: Path) -> None:
        path = write_video(tmp_path / "a.mkv", 40, options={"g": "5"})
        content = path.read_bytes()
        path.write_bytes(content[: len(content) * 6 // 10])
        count, message = self.read(path)
        assert 10 <= count < 35
        assert "ends at " in message
        assert f"the {count} frames read are done" in message

    def test_damaged_inside(self, tmp_path: Path) -> None:
        path = write_video(tmp_path / "a.avi", 20, codec="mjpeg", rate=25)
        content = bytearray(path.read_bytes())
        middle = len(content) // 2
        content[middle : middle + 3000] = bytes(3000)
        path.write_bytes(content)
        count, message = self.read(path)
        assert 10 <= count <= 20
        assert "damaged, the first at" in message or "ends at" in message

    @pytest.mark.parametrize("content", [b"", b"no video at all" * 50])
    def test_no_video(self, tmp_path: Path, content: bytes) -> None:
        (tmp_path / "a.mp4").write_bytes(content)
        assert "no video that can be read" in self.read(tmp_path / "a.mp4")[1]

    def test_sound_only(self, tmp_path: Path) -> None:
        import av

        with av.open(str(tmp_path / "a.mp4"), "w") as container:
            sound = container.add_stream("aac", rate=44100)
            piece = av.AudioFrame.from_ndarray(
                np.zeros((1, 4410), np.int16), format="s16", layout="mono"
            )
            piece.sample_rate = 44100
            container.mux(sound.encode(piece))
            container.mux(sound.encode())
        assert "has no video in it" in self.read(tmp_path / "a.mp4")[1]

    def test_no_frames(self, tmp_path: Path) -> None:
        write_video(tmp_path / "a.avi", 0, codec="mjpeg", rate=25)
        count, message = self.read(tmp_path / "a.avi")
        assert count == 0
        assert "can be read" in message or "not one frame" in message


def test_without_pyav(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "av", None)
    with pytest.raises(MissingExtraError) as caught:
        next(read_video(str(tmp_path / "a.mp4")))
    assert caught.value.hint == "pip install 'detrkit[video]'"
