"""Files that are refused, each with its reason: damaged, no image, too large, of no reader."""

from __future__ import annotations

import struct
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from detrkit.data import images
from detrkit.data.images import read_header, read_image
from detrkit.data.unreadable import MAX_PIXELS
from detrkit.errors import DataError, UsageError
from tests.data.conftest import save_image
from tests.data.drawn import colours, near, ours, png, stripes

RED, GREEN, BLUE = (200, 40, 30), (20, 180, 60), (10, 60, 220)


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
