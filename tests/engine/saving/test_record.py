"""Names of files: no two alike, on any file system."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from detrkit.engine.media.frame import Clip, Frame
from detrkit.engine.saving.drawn import _folder_name
from detrkit.engine.saving.record import Names

IMAGE = torch.zeros(3, 4, 4, dtype=torch.uint8)


@given(st.lists(st.sampled_from(["a", "A", "a-2", "a-3", "b", "A-2"]), max_size=30))
def test_no_two_alike(stems: list[str]) -> None:
    names = Names()
    given_out = [names.unused(stem) for stem in stems]
    assert len({name.lower() for name in given_out}) == len(stems)
    assert all(
        name.lower().startswith(stem.lower()) for name, stem in zip(given_out, stems, strict=True)
    )


def test_pictures_frames_and_clips() -> None:
    names = Names()
    clip, other = Clip("x/a.mp4"), Clip("y/a.mp4")
    assert names.of(Frame(IMAGE, "in/a.jpg")) == "a"
    assert names.of(Frame(IMAGE, "x/a.mp4", clip, 0, 0.0)) == "a-2_000001"
    assert names.of(Frame(IMAGE, "x/a.mp4", clip, 11, 1.0)) == "a-2_000012"
    assert names.of(Frame(IMAGE, "y/a.mp4", other, 0, 0.0)) == "a-3_000001"
    assert names.of(Frame(IMAGE)) == "image"


def test_names_of_live_sources() -> None:
    assert Clip("camera 0", live=True).stem == "camera_0"
    assert Clip("rtsp://10.0.0.5:554/a/b?key=1", live=True).stem == "rtsp_10.0.0.5_554_a_b"
    assert Clip("https://host/clip.mp4").stem == "https_host_clip.mp4"


def test_class_names_as_folders() -> None:
    assert _folder_name("traffic light", 1) == "traffic light"
    assert _folder_name("a/b\\c:d?", 1) == "a_b_c_d_"
    assert _folder_name("..", 4) == "class 4"
    assert _folder_name("猫", 1) == "猫"
