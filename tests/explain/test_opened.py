"""From a picture to the input and back: stretched and letterboxed, turned, of any channels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from detrkit.engine.predictor import Predictor
from detrkit.errors import DataError
from detrkit.explain.opened import Opened, open_picture, open_pictures
from detrkit.structures import ImageSpec
from tests.engine.bright import SPEC, bright_runtime, picture

sides = st.integers(20, 90)
rules = st.sampled_from(["stretch", "letterbox"])


def opened(size: tuple[int, int], spec: ImageSpec) -> Opened:
    pixels = torch.zeros(3, *size, dtype=torch.uint8)
    return Opened(pixels, spec.prepare(pixels)[None], spec)


@given(sides, sides, sides, sides, rules)
@settings(max_examples=30)
def test_a_ramp_comes_back_as_a_ramp(h: int, w: int, ih: int, iw: int, resize: str) -> None:
    """A map of each cell's own centre gives every pixel its own place."""
    spec = ImageSpec((ih, iw), resize=resize)  # type: ignore[arg-type]
    image = opened((h, w), spec)
    y, x = (torch.arange(ih) + 0.5) / ih, (torch.arange(iw) + 0.5) / iw
    ramps = torch.stack([x.expand(ih, iw), y[:, None].expand(ih, iw)])
    back = image.points_back(image.map_back(ramps).transpose(1, 2, 0))
    rows, columns = np.mgrid[:h, :w] + 0.5
    height, width = spec.extent((h, w))
    inside = (
        (columns > width / iw / 2) & (columns < width * (1 - 0.5 / iw))
        & (rows > height / ih / 2) & (rows < height * (1 - 0.5 / ih))
    )  # fmt: skip
    assert np.abs(back[..., 0] - columns)[inside].max(initial=0) < 1e-3 * w
    assert np.abs(back[..., 1] - rows)[inside].max(initial=0) < 1e-3 * h


@given(sides, sides, rules)
@settings(max_examples=30)
def test_points_there_and_back(h: int, w: int, resize: str) -> None:
    image = opened((h, w), ImageSpec((64, 96), resize=resize))  # type: ignore[arg-type]
    points = np.array([[0.0, 0.0], [w, h], [w / 3, h / 2]])
    assert np.allclose(image.points_back(image.points_forth(points)), points, atol=1e-3)


@given(sides, sides, rules)
@settings(max_examples=30)
def test_points_are_where_boxes_are(h: int, w: int, resize: str) -> None:
    image = opened((h, w), ImageSpec((64, 96), resize=resize))  # type: ignore[arg-type]
    box = torch.tensor([0.4, 0.3, 0.2, 0.1])
    corners = image.spec.restore_boxes(box, (h, w)).numpy()
    centre = image.points_back(box[None, :2])[0]
    assert np.allclose((corners[:2] + corners[2:]) / 2, centre, atol=1e-3)


def test_padding_is_left_out() -> None:
    image = opened((50, 100), ImageSpec((100, 100), resize="letterbox"))
    cells = torch.zeros(10, 10)
    cells[5:] = 1  # what lies below the picture
    cells[4, 9] = 3
    back = image.map_back(cells)
    assert back.shape == (50, 100)
    assert not back[:35].any()
    assert back[44:46, 94:96].max() == pytest.approx(3, rel=0.1)


def test_several_maps_and_few_cells() -> None:
    image = opened((30, 40), ImageSpec((64, 64)))
    assert image.map_back(torch.rand(2, 3, 4, 4)).shape == (2, 3, 30, 40)
    assert np.allclose(image.map_back(np.full((1, 1), 0.5, np.float32)), 0.5)


def test_pictures_are_upright(tmp_path: Path) -> None:
    shown = picture((128, 192), (0, 0, 60, 40))
    exif = Image.Exif()
    exif[0x0112] = 6  # shown turned by a quarter
    shown.rotate(90, expand=True).save(tmp_path / "turned.png", exif=exif)
    image = open_picture(Predictor(bright_runtime()), tmp_path / "turned.png")
    assert image.size == (128, 192)
    assert np.array_equal(image.picture, np.asarray(shown))
    assert (image.name, image.path) == ("turned", str(tmp_path / "turned.png"))
    assert image.input.shape == (1, 3, *SPEC.size)
    assert image.input.dtype == torch.float32


def test_folders_and_what_is_broken(tmp_path: Path) -> None:
    detector = Predictor(bright_runtime())
    picture().save(tmp_path / "a.png")
    (tmp_path / "b.png").write_bytes(b"\x89PNG nothing")
    (tmp_path / "c.mp4").write_bytes(b"nothing")
    told: list[tuple[Path | str, DataError]] = []
    found = list(open_pictures(detector, tmp_path, lambda *fault: told.append(fault)))
    assert [image.name for image in found] == ["a"]
    assert [Path(path).name for path, _ in told] == ["b.png", "c.mp4"]
    assert "not videos" in told[1][1].message
    with pytest.raises(DataError, match=r"b\.png"):
        list(open_pictures(detector, tmp_path))
    (memory,) = open_pictures(detector, [picture()])
    assert (memory.name, memory.path) == ("image", None)
