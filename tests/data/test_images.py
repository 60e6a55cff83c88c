from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from detrkit.data.images import read_header, read_image
from detrkit.errors import DataError
from tests.data.conftest import save_image


def pillow(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(ImageOps.exif_transpose(image).convert("RGB"), np.int16)


def ours(path: Path, **options: bool) -> np.ndarray:
    image = read_image(path, **options)
    assert image.dtype == torch.uint8
    assert image.shape[0] == 3
    return image.permute(1, 2, 0).numpy().astype(np.int16)


@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.webp", "a.bmp", "a.tif", "a.gif"])
def test_formats_read_as_pillow_reads_them(tmp_path: Path, name: str) -> None:
    path = save_image(tmp_path / name)
    assert np.abs(ours(path) - pillow(path)).mean() < 1


@pytest.mark.parametrize("mode", ["L", "LA", "P", "1", "RGBA", "CMYK"])
def test_modes_become_rgb(tmp_path: Path, mode: str) -> None:
    image = Image.open(save_image(tmp_path / "rgb.png")).convert(mode)
    path = tmp_path / ("x.jpg" if mode == "CMYK" else "x.png")
    image.save(path)
    assert np.abs(ours(path) - pillow(path)).max() <= 1


def test_sixteen_bits_are_scaled_not_clipped(tmp_path: Path) -> None:
    ramp = np.linspace(0, 65535, 256).astype(np.uint16).reshape(16, 16)
    Image.fromarray(ramp).save(tmp_path / "x.png")
    assert np.abs(ours(tmp_path / "x.png")[..., 0].ravel() - np.arange(256)).max() <= 1


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("name", ["x.jpg", "x.png"])
def test_exif_orientation(tmp_path: Path, name: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = save_image(tmp_path / name, exif=exif)
    assert np.abs(ours(path) - pillow(path)).mean() < 1
    header = read_header(path)
    assert header.orientation == orientation
    assert header.shown_size == pillow(path).shape[:2]
    assert ours(path, apply_exif=False).shape == (40, 60, 3)


def test_truncated_jpeg_is_refused_at_every_length(tmp_path: Path) -> None:
    data = save_image(tmp_path / "a.jpg").read_bytes()
    for length in (0, 1, 2, 10, len(data) // 2, len(data) - 40, len(data) - 3):
        (tmp_path / "cut.jpg").write_bytes(data[:length])
        with pytest.raises(DataError, match=r"cut\.jpg"):
            read_image(tmp_path / "cut.jpg")


def test_missing_file() -> None:
    with pytest.raises(DataError, match=r"nowhere\.jpg: file not found"):
        read_image("nowhere.jpg")


UNREADABLE = {
    "truncated_photo.jpg",
    "truncated_small.jpg",
    "truncated_photo.png",
    "corrupt_header.jpg",
    "zero_bytes.jpg",
    "missing_sof.jpg",
    "null_height.jpg",
    "png_bad_crc.png",
    "png_ftp_mangled.png",
    "decompression_bomb.png",
    "not_an_image.jpg",
}


def test_hostile_images_are_read_or_refused_by_name(shared_data) -> None:
    files = sorted((shared_data("hostile_images") / "files").iterdir())
    assert len(files) == 36
    for path in files:
        if path.name in UNREADABLE:
            with pytest.raises(DataError) as caught:
                read_image(path)
            assert str(path) in caught.value.message
            assert "\n" not in caught.value.message
        else:
            assert ours(path).shape[:2] == read_header(path).shown_size
