"""Image files of every kind: the pixels that the table in `detrkit.data.images` promises."""

from __future__ import annotations

import re
import struct
import sys
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps, features

from detrkit.data import images, pixels
from detrkit.data.bands import WrongBands
from detrkit.data.images import read_header, read_image
from detrkit.data.modes import from_pillow
from detrkit.data.unreadable import MAX_PIXELS
from detrkit.errors import DataError, UsageError
from tests.data.conftest import hostile_table, save_image

RED, GREEN, BLUE = (200, 40, 30), (20, 180, 60), (10, 60, 220)


def pillow(path: Path) -> np.ndarray:
    with warnings.catch_warnings(), Image.open(path) as image:
        warnings.simplefilter("ignore")  # damaged EXIF
        return np.asarray(ImageOps.exif_transpose(image).convert("RGB"), np.int16)


def ours(path: Path, **options: Any) -> np.ndarray:
    image = read_image(path, **options)
    assert image.dtype == torch.uint8
    assert image.shape[0] == 3
    return image.permute(1, 2, 0).numpy().astype(np.int16)


def stripes(mode: str = "RGB") -> Image.Image:
    """Three vertical stripes, red, green and blue, 8 x 24 pixels."""
    values = np.repeat(np.array([[RED, GREEN, BLUE]], np.uint8), 8, axis=1)
    return Image.fromarray(np.repeat(values, 8, axis=0)).convert(mode)


def test_stripes_are_what_the_tests_take_them_for() -> None:
    values = np.asarray(stripes())
    assert values.shape == (8, 24, 3)
    assert [tuple(values[4, x]) for x in (4, 12, 20)] == [RED, GREEN, BLUE]


def colours(image: np.ndarray) -> list[list[int]]:
    """In the middle of the stripes."""
    return [image[4, x].tolist() for x in (4, 12, 20)]


def near(found: list[list[int]], tolerance: int = 0) -> bool:
    return np.abs(np.array(found) - np.array([RED, GREEN, BLUE])).max() <= tolerance


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


def without_segment(data: bytes, marker: int) -> bytes:
    """A JPEG without one of its application segments."""
    at, kept = 2, [data[:2]]
    while data[at + 1] != 0xDA:
        length = 2 + struct.unpack_from(">H", data, at + 2)[0]
        if data[at + 1] != marker:
            kept.append(data[at : at + length])
        at += length
    return b"".join([*kept, data[at:]])


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


def png(size: tuple[int, int], depth: int, kind: int, rows: bytes) -> bytes:
    """A PNG of any depth and kind, which Pillow does not write."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        )

    header = struct.pack(">IIBBBBB", size[1], size[0], depth, kind, 0, 0, 0)
    return b"".join(
        [
            b"\x89PNG\r\n\x1a\n",
            chunk(b"IHDR", header),
            chunk(b"IDAT", zlib.compress(rows)),
            chunk(b"IEND", b""),
        ]
    )


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


# What is refused ---------------------------------------------------------------------------------


@pytest.mark.parametrize("ending", ["jpg", "png", "webp", "tif", "gif", "bmp"])
def test_truncated_files_are_refused_at_every_length(tmp_path: Path, ending: str) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8)
    path = tmp_path / f"cut.{ending}"
    Image.fromarray(noise).save(path)
    data = path.read_bytes()
    for length in (0, 1, 2, 10, len(data) // 2, len(data) * 3 // 4):
        path.write_bytes(data[:length])
        with pytest.raises(DataError, match=rf"cut\.{ending}"):
            read_image(path)


def test_a_jpeg_without_its_last_bytes_is_refused(tmp_path: Path) -> None:
    data = save_image(tmp_path / "a.jpg").read_bytes()
    for length in (len(data) - 40, len(data) - 3):
        (tmp_path / "cut.jpg").write_bytes(data[:length])
        with pytest.raises(DataError, match=r"cut\.jpg"):
            read_image(tmp_path / "cut.jpg")


def test_missing_and_empty_files(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nowhere\.jpg: file not found"):
        read_image("nowhere.jpg")
    for name in ("x.jpg", "x.npy", "x.tif"):
        (tmp_path / name).touch()
        for read in (read_image, read_header):
            with pytest.raises(DataError, match=r": the file is empty"):
                read(tmp_path / name)


@pytest.mark.parametrize(("kind", "name"), [("PNG", "x.jpg"), ("JPEG", "x.png"), ("WEBP", "x.tif")])
def test_the_content_counts_not_the_ending(tmp_path: Path, kind: str, name: str) -> None:
    stripes().save(tmp_path / name, kind, **({"lossless": True} if kind == "WEBP" else {}))
    assert near(colours(ours(tmp_path / name)), 40)


def test_what_is_no_image(tmp_path: Path) -> None:
    for content in (b"<html>404</html>", b"\0" * 200, b"II*\0 nothing", b"\x93NUMPY nothing"):
        (tmp_path / "x.jpg").write_bytes(content)
        for read in (read_image, read_header):
            with pytest.raises(DataError, match=r"x\.jpg: (not an|damaged) image"):
                read(tmp_path / "x.jpg")


def test_bombs_are_refused_before_decoding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x.png"
    path.write_bytes(png((60_000, 60_000), 8, 2, b""))
    for read in (read_image, read_header):
        with pytest.raises(DataError, match="more than 178,956,970 pixels, not decoded") as caught:
            read(path)
    assert "DETRKIT_MAX_PIXELS" in str(caught.value.hint)
    jpeg = save_image(tmp_path / "x.jpg")
    monkeypatch.setenv("DETRKIT_MAX_PIXELS", "2399")  # 40 x 60 less one
    for name in ("x.jpg", "x.png"):
        with pytest.raises(DataError, match="more than 2,399 pixels"):
            read_image(tmp_path / name)
    monkeypatch.setenv("DETRKIT_MAX_PIXELS", "2400")
    assert read_image(jpeg).shape == (3, 40, 60)
    monkeypatch.setenv("DETRKIT_MAX_PIXELS", "many")
    with pytest.raises(UsageError, match="must be a number of pixels"):
        read_image(jpeg)


def test_a_higher_limit_is_pillows_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", Image.MAX_IMAGE_PIXELS)
    path = tmp_path / "x.png"
    path.write_bytes(png((15_000, 15_000), 8, 2, b""))
    assert MAX_PIXELS < 15_000**2
    with pytest.raises(DataError, match="not decoded"):
        read_header(path)
    monkeypatch.setenv("DETRKIT_MAX_PIXELS", str(15_000**2))
    assert read_header(path).size == (15_000, 15_000)


def test_heic_says_what_reads_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    for brand in (b"heic", b"mif1"):
        start = struct.pack(">I4s4sI4s4s", 24, b"ftyp", brand, 0, b"mif1", b"heic")
        (tmp_path / "x.heic").write_bytes(start + b"\0" * 100)
        for read in (read_image, read_header):
            with pytest.raises(DataError, match=r"x\.heic: a HEIC picture") as caught:
                read(tmp_path / "x.heic")
            assert "pillow-heif" in str(caught.value.hint)


def test_heic_with_its_package(tmp_path: Path) -> None:
    heif = pytest.importorskip("pillow_heif")
    heif.from_pillow(stripes()).save(tmp_path / "x.heic", quality=-1)
    assert near(colours(ours(tmp_path / "x.heic")), 40)


def test_avif_without_a_reader(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    start = struct.pack(">I4s4sI4s4s", 24, b"ftyp", b"avif", 0, b"mif1", b"avif")
    (tmp_path / "x.avif").write_bytes(start + b"\0" * 100)

    def unidentified(path: Path) -> Image.Image:
        raise images.UnidentifiedImageError(str(path))

    monkeypatch.setattr(Image, "open", unidentified)
    with pytest.raises(DataError, match="an AVIF picture, which this Pillow does not read"):
        read_image(tmp_path / "x.avif")


def test_too_little_memory_is_an_unreadable_image(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = save_image(tmp_path / "x.png")

    def full(self: object) -> None:
        raise MemoryError

    monkeypatch.setattr(Image.Image, "convert", full)
    monkeypatch.setattr(images, "from_pillow", lambda *_: full(None))
    with pytest.raises(DataError, match="does not fit into the memory"):
        read_image(path)


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
