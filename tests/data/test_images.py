"""Image files of every kind: the pixels that the table in `detrkit.data.images` promises."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps, features

from detrkit.data import pixels
from detrkit.data.bands import WrongBands
from detrkit.data.images import read_header, read_image
from detrkit.data.modes import from_pillow
from detrkit.errors import DataError
from tests.data.conftest import hostile_table, save_image
from tests.data.drawn import (
    BLUE,
    GREEN,
    RED,
    colours,
    near,
    ours,
    pillow,
    png,
    stripes,
    without_segment,
)


def test_stripes_are_what_the_tests_take_them_for() -> None:
    values = np.asarray(stripes())
    assert values.shape == (8, 24, 3)
    assert [tuple(values[4, x]) for x in (4, 12, 20)] == [RED, GREEN, BLUE]


# Formats and modes -------------------------------------------------------------------------------


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


@pytest.mark.parametrize(
    ("name", "options", "tolerance"),
    [
        ("x.webp", {"lossless": True}, 0),
        ("x.jp2", {}, 0),
        ("x.avif", {"quality": 100, "subsampling": "4:4:4"}, 12),
        ("x.ppm", {}, 0),
        ("x.tga", {}, 0),
    ],
)
def test_colours_of_formats(
    tmp_path: Path, name: str, options: dict[str, Any], tolerance: int
) -> None:
    if name == "x.avif" and not features.check("avif"):
        pytest.skip("this Pillow has no AVIF")
    path = tmp_path / name
    stripes().save(path, **options)
    assert near(colours(ours(path)), tolerance)
    assert read_header(path).shown_size == (8, 24)


def test_gray_becomes_three_equal_channels(tmp_path: Path) -> None:
    values = np.arange(64, dtype=np.uint8).reshape(8, 8) * 4
    Image.fromarray(values).save(tmp_path / "x.png")
    np.testing.assert_array_equal(ours(tmp_path / "x.png"), np.repeat(values[..., None], 3, 2))


def test_one_bit_is_black_and_white(tmp_path: Path) -> None:
    values = np.indices((8, 8)).sum(0) % 2
    for name in ("x.png", "x.tif", "x.bmp"):
        Image.fromarray((values * 255).astype(np.uint8)).convert("1").save(tmp_path / name)
        np.testing.assert_array_equal(ours(tmp_path / name)[..., 0], values * 255)


def test_alpha_is_dropped_and_not_composited(tmp_path: Path) -> None:
    image = stripes("RGBA")
    image.putalpha(0)  # a viewer shows nothing
    for name in ("x.png", "x.tif"):
        image.save(tmp_path / name)
        assert near(colours(ours(tmp_path / name)))
    image.save(tmp_path / "x.webp", lossless=True, exact=True)
    assert near(colours(ours(tmp_path / "x.webp")))
    gray = Image.new("LA", (4, 4), (77, 0))
    gray.save(tmp_path / "gray.png")
    assert np.all(ours(tmp_path / "gray.png") == 77)


def test_palettes_give_their_colours_also_the_transparent_one(tmp_path: Path) -> None:
    image = stripes().quantize(4)
    for name, options in (
        ("plain.png", {}),
        ("one.png", {"transparency": image.getpixel((4, 4))}),
        ("many.png", {"transparency": bytes([0, 128, 255, 255])}),
        ("one.gif", {"transparency": image.getpixel((4, 4))}),
    ):
        image.save(tmp_path / name, **options)
        assert near(colours(ours(tmp_path / name)), 1), name


def test_cmyk_jpegs_are_taken_as_inverted_with_and_without_adobes_mark(tmp_path: Path) -> None:
    path = tmp_path / "x.jpg"
    stripes("CMYK").save(path, quality=100)
    data = path.read_bytes()
    assert b"Adobe" in data
    assert near(colours(ours(path)), 6)
    path.write_bytes(without_segment(data, 0xEE))
    assert b"Adobe" not in path.read_bytes()
    assert near(colours(ours(path)), 6)


def test_ycck_jpegs(tmp_path: Path) -> None:
    """The mark's last byte says that the first three components are YCbCr for C, M and Y."""
    path = tmp_path / "x.jpg"
    cmyk = np.asarray(stripes("CMYK"))
    rgb = Image.fromarray(cmyk[..., :3])
    stored = np.dstack([np.asarray(rgb.convert("YCbCr")), 255 - cmyk[..., 3:]])
    # Pillow stores 255 - value; the mark is changed by hand
    Image.fromarray(255 - stored.astype(np.uint8), "CMYK").save(path, quality=100)
    data = bytearray(path.read_bytes())
    at = data.index(b"Adobe")
    assert data[at + 11] == 0
    data[at + 11] = 2
    path.write_bytes(data)
    assert near(colours(ours(path)), 8)


def test_cmyk_tiffs(tmp_path: Path) -> None:
    stripes("CMYK").save(tmp_path / "x.tif")
    assert near(colours(ours(tmp_path / "x.tif")))


def test_colour_profiles_are_ignored(tmp_path: Path) -> None:
    from PIL import ImageCms

    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()
    stripes().save(tmp_path / "x.png", icc_profile=profile)
    assert near(colours(ours(tmp_path / "x.png")))


# More than 8 bits --------------------------------------------------------------------------------

RAMP = np.linspace(0, 65535, 256).astype(np.uint16).reshape(16, 16)


@pytest.mark.parametrize("name", ["x.png", "x.tif", "x.pgm", "x.jp2"])
def test_sixteen_bits_are_scaled_not_clipped(tmp_path: Path, name: str) -> None:
    Image.fromarray(RAMP).save(tmp_path / name)
    assert np.abs(ours(tmp_path / name)[..., 0].ravel() - np.arange(256)).max() <= 1


@pytest.mark.parametrize("name", ["x.png", "x.tif", "x.pgm"])
def test_one_channel_keeps_sixteen_bits(tmp_path: Path, name: str) -> None:
    Image.fromarray(RAMP).save(tmp_path / name)
    image = read_image(tmp_path / name, channels=1)
    assert image.dtype == torch.float32
    np.testing.assert_allclose(image[0], RAMP / 257, rtol=1e-6)


@pytest.mark.parametrize(("kind", "bands"), [(2, 3), (6, 4), (4, 2)])
def test_sixteen_bit_pngs_of_several_bands(tmp_path: Path, kind: int, bands: int) -> None:
    values = np.random.default_rng(0).integers(0, 65536, (8, 8, bands))
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    (tmp_path / "x.png").write_bytes(png((8, 8), 16, kind, rows))
    expected = values[..., :1] if bands == 2 else values[..., :3]
    assert np.abs(ours(tmp_path / "x.png") - expected / 257).max() <= 1


def test_sixteen_bit_rgb_tiff(tmp_path: Path) -> None:
    tifffile = pytest.importorskip("tifffile")
    values = np.random.default_rng(0).integers(0, 65536, (8, 8, 3), np.uint16)
    tifffile.imwrite(tmp_path / "x.tif", values, photometric="rgb")
    assert np.abs(ours(tmp_path / "x.tif") - values / 257).max() <= 1


def test_integers_of_32_bits_count_as_16(tmp_path: Path) -> None:
    values = np.array([[0, 255, 25700, 65535, 99999, -5]], np.int32)
    Image.fromarray(values).save(tmp_path / "x.tif")
    assert ours(tmp_path / "x.tif")[0, :, 0].tolist() == [0, 1, 100, 255, 255, 0]
    gray = read_image(tmp_path / "x.tif", channels=1)
    np.testing.assert_allclose(gray[0], values / 257, rtol=1e-6)


def test_floats_are_0_to_1(tmp_path: Path) -> None:
    values = np.array([[0, 0.2, 1, 1.3, -0.1, np.nan]], np.float32)
    Image.fromarray(values).save(tmp_path / "x.tif")
    assert ours(tmp_path / "x.tif")[0, :, 0].tolist() == [0, 51, 255, 255, 0, 0]
    Image.fromarray(values * 30).save(tmp_path / "hot.tif")
    with pytest.raises(DataError, match=r"floats of up to 39, where 1 is white; in_channels: 1"):
        read_image(tmp_path / "hot.tif")
    gray = read_image(tmp_path / "hot.tif", channels=1)
    np.testing.assert_allclose(gray[0, 0] / 255, [0, 6, 30, 39, -3, 0], rtol=1e-5)


# Several frames, orientation ---------------------------------------------------------------------


@pytest.mark.parametrize("name", ["x.gif", "x.webp", "x.png", "x.tif"])
def test_the_first_frame_counts(tmp_path: Path, name: str) -> None:
    options = {"lossless": True} if name == "x.webp" else {}
    frames = [Image.new("RGB", (24, 8), colour) for colour in (RED, GREEN, BLUE)]
    frames[0].save(tmp_path / name, save_all=True, append_images=frames[1:], **options)
    with Image.open(tmp_path / name) as image:
        assert image.n_frames == 3
    assert np.abs(ours(tmp_path / name) - RED).max() <= 1


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("name", ["x.jpg", "x.png", "x.webp", "x.tif"])
def test_exif_orientation(tmp_path: Path, name: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = save_image(tmp_path / name, exif=exif)
    assert np.abs(ours(path) - pillow(path)).mean() < 1
    header = read_header(path)
    assert header.orientation == orientation
    assert header.shown_size == pillow(path).shape[:2]
    stored = ours(path, apply_exif=False)
    assert stored.shape[:2] == header.size == (40, 60)
    assert np.abs(stored - ours(save_image(tmp_path / f"plain{path.suffix}"))).mean() < 1


@pytest.mark.parametrize("orientation", [1, 3, 6])
@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize("opencv", [True, False])
def test_one_channel_is_gray_and_turned(
    tmp_path: Path, orientation: int, mode: str, opencv: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pixels, "HAVE_OPENCV", opencv and pixels.HAVE_OPENCV)
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / "x.jpg"
    stripes(mode).save(path, exif=exif, quality=95)
    with Image.open(path) as image:
        expected = np.asarray(ImageOps.exif_transpose(image).convert("L"), np.int16)
    image = read_image(path, channels=1)
    assert image.shape == (1, *expected.shape)
    assert np.abs(image[0].numpy().astype(np.int16) - expected).max() <= 2


def test_bands_of_pictures_with_alpha(tmp_path: Path) -> None:
    image = stripes("RGBA")
    image.putalpha(99)
    image.save(tmp_path / "x.png")
    np.testing.assert_array_equal(
        read_image(tmp_path / "x.png", channels=4).permute(1, 2, 0), np.asarray(image)
    )
    assert read_image(tmp_path / "x.png", channels=None).shape == (3, 8, 24)
    with pytest.raises(WrongBands, match=r"x\.png: has pixels of mode RGBA, .* takes 5 channels"):
        read_image(tmp_path / "x.png", channels=5)
    stripes("CMYK").save(tmp_path / "cmyk.tif")
    stripes("CMYK").save(tmp_path / "cmyk.jpg")
    with pytest.raises(WrongBands, match="mode CMYK"):  # colours, not four measurements
        read_image(tmp_path / "cmyk.jpg", channels=4)


def test_pictures_in_memory_follow_the_same_rules() -> None:
    assert np.abs(from_pillow(Image.fromarray(RAMP))[..., 0].ravel() - np.arange(256.0)).max() <= 1
    np.testing.assert_array_equal(
        from_pillow(stripes("P")), np.asarray(stripes("P").convert("RGB"))
    )
    with pytest.raises(WrongBands):
        from_pillow(stripes(), 4)


# One way to read ---------------------------------------------------------------------------------


def test_nothing_else_opens_images(repository: Path) -> None:
    """All else reads here."""
    package = repository / "detrkit"
    own = {"data/images.py", "data/pixels.py"}
    own |= {"convert/resizing.py"}  # writes smaller copies in the format of the source
    own |= {"analysis/pictures.py"}  # hashes JPEG decoded at an eighth of its size
    own |= {"engine/curves.py", "engine/observers/tensorboard.py"}  # pictures that detrkit drew
    direct = re.compile(r"\bImage\.open\(|\bcv2\.im(read|decode)|torchvision\.io")
    found = {
        path.relative_to(package).as_posix()
        for path in package.rglob("*.py")
        if direct.search(path.read_text(encoding="utf-8"))
    }
    assert found == own


# Real files --------------------------------------------------------------------------------------


def test_hostile_images_are_read_or_refused_as_their_table_says(
    shared_data: Callable[[str], Path],
) -> None:
    folder = shared_data("hostile_images")
    table = hostile_table(folder)
    assert len(table) == 36
    for name, said in table.items():
        path = folder / "files" / name
        if said.startswith("FAILS"):
            with pytest.raises(DataError) as caught:
                read_image(path)
            assert str(path) in caught.value.message
            assert "\n" not in caught.value.message
            continue
        words = said.split()
        found = re.search(r" (\d+)x(\d+)", said)
        assert found is not None
        width, height = (int(n) for n in found.groups())
        if re.search(r"orientation [5-8]", said):
            width, height = height, width
        image = ours(path)
        assert image.shape[:2] == read_header(path).shown_size == (height, width), name
        if "I;16" not in words:
            assert np.abs(image - pillow(path)).mean() < 1.5, name
        assert read_image(path, channels=1).shape == (1, height, width)
