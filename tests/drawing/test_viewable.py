"""Images of any number of channels as pictures for people."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from detrkit.drawing import draw_detections, draw_targets, to_picture, viewable
from detrkit.structures import ClassMap, Detections, ImageSpec, Target

CLASSES = ClassMap.from_names(["cat"])


def ramps(channels: int) -> torch.Tensor:
    """Each band rises over the rows, all over different ranges."""
    rows = torch.linspace(0, 1, 100)[:, None].expand(100, 60)
    return torch.stack([rows * 10 ** (i - 1) + i for i in range(channels)])


def test_rgb_stays() -> None:
    image = torch.randint(0, 256, (3, 4, 5), dtype=torch.uint8)
    assert torch.equal(viewable(image), image)


@pytest.mark.parametrize("channels", [1, 2, 3, 4, 7])
def test_bands_are_stretched_from_black_to_white(channels: int) -> None:
    shown = viewable(ramps(channels))
    assert shown.dtype == torch.uint8
    assert shown.shape == (3, 100, 60)
    expected = np.linspace(-1 / 48, 49 / 48, 100).clip(0, 1) * 255
    for band in shown:
        np.testing.assert_allclose(band[:, 0], expected, atol=1)


def test_the_first_three_bands_are_red_green_and_blue() -> None:
    image = torch.zeros(5, 10, 10)
    for band in range(5):
        image[band, band * 2 : band * 2 + 2] = 7 + band
    shown = viewable(image)
    for band in range(3):
        expected = torch.zeros(10, 10)
        expected[band * 2 : band * 2 + 2] = 255
        assert torch.equal(shown[band].float(), expected)


@pytest.mark.parametrize("value", [0.0, -3.0, 1e9])
def test_a_band_of_one_value_is_black(value: float) -> None:
    assert not viewable(torch.full((2, 4, 4), value)).any()


@pytest.mark.parametrize("channels", [1, 2, 4])
def test_training_batches_and_detections(channels: int) -> None:
    spec = ImageSpec((100, 60), mean=(0.4,), std=(0.2,), in_channels=channels)
    image = spec.prepare(ramps(channels))
    expected = viewable(ramps(channels)).permute(1, 2, 0).numpy().astype(int)
    assert np.abs(np.asarray(to_picture(image, spec)).astype(int) - expected).max() <= 1
    assert np.abs(np.asarray(to_picture(image)).astype(int) - expected).max() <= 1
    target = Target(torch.tensor([[0.5, 0.5, 0.5, 0.5]]), torch.tensor([0]))
    drawn = np.asarray(draw_targets(image, target, CLASSES, image_spec=spec, line_width=1))
    assert tuple(drawn[50, 15]) == CLASSES.colors[0]


def found(path: Path) -> Detections:
    return Detections(
        np.array([[10, 20, 40, 60]], np.float32), np.array([0.9], np.float32), np.array([0]),
        CLASSES, (100, 60), path=str(path),
    )  # fmt: skip


def test_files_of_bands_are_drawn(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", ramps(5).numpy())
    picture = np.asarray(draw_detections(found(tmp_path / "x.npy"), line_width=1))
    assert picture.shape == (100, 60, 3)
    assert tuple(picture[60, 30]) == CLASSES.colors[0]
    assert picture[99, 0].tolist() == [255, 255, 255]


def test_files_follow_the_rules_of_reading(tmp_path: Path) -> None:
    """Turned as EXIF says; gray of many bits is stretched, and hot pixels are no error."""
    exif = Image.Exif()
    exif[0x0112] = 6
    ramp = np.linspace(0, 65535, 100).astype(np.uint16)
    Image.fromarray(np.repeat(ramp[None], 60, 0)).save(tmp_path / "x.png", exif=exif)
    picture = np.asarray(draw_detections(found(tmp_path / "x.png"), line_width=1))
    assert picture.shape == (100, 60, 3)
    expected = np.linspace(-1 / 48, 49 / 48, 100).clip(0, 1) * 255
    np.testing.assert_allclose(picture[:, 59, 0], expected, atol=1)
    Image.fromarray(ramps(1)[0].numpy() * 1000).save(tmp_path / "hot.tif")
    picture = np.asarray(draw_detections(found(tmp_path / "hot.tif"), line_width=1))
    np.testing.assert_allclose(picture[:, 59, 0], expected, atol=1)
