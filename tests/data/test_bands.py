"""Arrays and TIFF of any number of bands: layout, values, what is refused."""

from __future__ import annotations

import struct
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from detrkit.data.bands import WrongBands, as_pixels, bands_last, hwc
from detrkit.data.files import list_images
from detrkit.data.images import ImageHeader, read_header, read_image
from detrkit.errors import DataError, MissingExtraError
from tests.data.conftest import save_image


def bands(count: int = 5, size: tuple[int, int] = (8, 12), dtype: str = "uint16") -> np.ndarray:
    """(H, W, C), all values different."""
    values = np.arange(size[0] * size[1] * count).reshape(*size, count) * 37
    return (values % 251 if dtype == "uint8" else values).astype(dtype)


def save(path: Path, array: np.ndarray) -> Path:
    np.save(path, array)
    return path


class TestLayout:
    @pytest.mark.parametrize(
        ("shape", "expected"),
        [
            ((8, 12), (8, 12, 1)),
            ((8, 12, 5), (8, 12, 5)),
            ((5, 8, 12), (8, 12, 5)),
            ((5, 8, 5), (5, 8, 5)),  # both fit: the last axis
            ((1, 8, 12), (8, 12, 1)),
            ((8, 12, 1), (8, 12, 1)),
        ],
    )
    def test_shapes(self, shape: tuple[int, ...], expected: tuple[int, int, int]) -> None:
        assert hwc(shape) == bands_last(np.zeros(shape)).shape == expected

    @pytest.mark.parametrize("shape", [(), (4,), (2, 3, 4, 5), (0, 4), (4, 4, 0)])
    def test_no_pictures(self, shape: tuple[int, ...], tmp_path: Path) -> None:
        with pytest.raises(ValueError, match="no picture"):
            hwc(shape)
        path = save(tmp_path / "x.npy", np.zeros(shape, np.uint8))
        for read in (read_image, read_header):
            with pytest.raises(DataError, match=r"x\.npy: .* is no picture"):
                read(path)

    @settings(max_examples=50, deadline=None)
    @given(st.tuples(*[st.integers(1, 6)] * 3))
    def test_header_and_pixels_agree(self, shape: tuple[int, int, int]) -> None:
        assert bands_last(np.empty(shape)).shape == hwc(shape)

    @pytest.mark.parametrize("order", ["C", "F"])
    def test_both_layouts_give_the_same_pixels(self, tmp_path: Path, order: str) -> None:
        array = bands()
        last = save(tmp_path / "last.npy", np.asarray(array, order=order))
        first = save(tmp_path / "first.npy", np.asarray(np.moveaxis(array, -1, 0), order=order))
        a, b = (read_image(path, channels=5) for path in (last, first))
        assert torch.equal(a, b)
        assert a.permute(1, 2, 0).is_contiguous()
        np.testing.assert_allclose(a.permute(1, 2, 0), array / 257, rtol=1e-6)
        assert read_header(first) == read_header(last) == ImageHeader((8, 12))


class TestValues:
    @pytest.mark.parametrize(
        ("values", "pixels"),
        [
            (np.array([0, 7, 255], np.uint8), [0, 7, 255]),
            (np.array([False, True]), [0, 255]),
            (np.array([0, 257, 65535], np.uint16), [0, 1, 255]),
            (np.array([0, 65535], ">u2"), [0, 255]),
            (np.array([0, 2**32 - 1], np.uint32), [0, 255]),
            (np.array([-2, 0, 3], np.int16), [-510, 0, 765]),
            (np.array([0, 0.5, 1, 30.5, -1], np.float32), [0, 127.5, 255, 7777.5, -255]),
            (np.array([0.25], np.float16), [63.75]),
            (np.array([np.nan, np.inf, -np.inf, 1e300], np.float64), [0, 0, 0, 0]),
        ],
    )
    def test_types(self, values: np.ndarray, pixels: list[float]) -> None:
        found = as_pixels(values)
        assert found.dtype == (
            np.uint8 if values.dtype.kind == "b" or values.dtype == "u1" else "f4"
        )
        np.testing.assert_allclose(found, pixels, rtol=1e-6)

    @pytest.mark.parametrize("dtype", ["complex64", "U3", "datetime64[s]"])
    def test_other_types_are_refused(self, tmp_path: Path, dtype: str) -> None:
        path = save(tmp_path / "x.npy", np.zeros((4, 4), dtype))
        with pytest.raises(DataError, match=r"x\.npy: .* are no pixels"):
            read_image(path)

    @settings(max_examples=40, deadline=None)
    @given(hnp.arrays(np.uint16, (2, 3)))
    def test_the_model_sees_uint16_as_fractions(self, values: np.ndarray) -> None:
        from detrkit.structures import ImageSpec

        spec = ImageSpec((2, 3), in_channels=1)
        seen = spec.normalized(torch.from_numpy(as_pixels(values))[None])
        np.testing.assert_allclose(seen[0], values / 65535, atol=1e-7)

    def test_the_array_is_not_changed(self) -> None:
        values = np.full((2, 2), 0.5, np.float32)
        as_pixels(values)
        assert (values == 0.5).all()


class TestFiles:
    def test_bands_must_be_those_of_the_model(self, tmp_path: Path) -> None:
        path = save(tmp_path / "x.npy", bands(4))
        for channels in (1, 3, 5):
            with pytest.raises(
                WrongBands, match=rf"x\.npy: has 4 bands, .* {channels} channel"
            ) as e:
                read_image(path, channels=channels)
            assert "in_channels" in str(e.value.hint)
        assert read_image(path, channels=4).shape == (4, 8, 12)
        assert read_image(path, channels=None).shape == (4, 8, 12)

    def test_one_band_is_gray(self, tmp_path: Path) -> None:
        path = save(tmp_path / "x.npy", bands(1, dtype="uint8"))
        rgb, gray = read_image(path), read_image(path, channels=1)
        assert rgb.shape == (3, 8, 12)
        assert all(torch.equal(channel, gray[0]) for channel in rgb)

    def test_three_bands_keep_their_precision(self, tmp_path: Path) -> None:
        image = read_image(save(tmp_path / "x.npy", bands(3)))
        assert image.dtype == torch.float32
        np.testing.assert_allclose(image.permute(1, 2, 0), bands(3) / 257, rtol=1e-6)

    def test_the_content_counts_not_the_ending(self, tmp_path: Path) -> None:
        path = save(tmp_path / "x.npy", bands(3, dtype="uint8")).rename(tmp_path / "x.jpg")
        assert read_image(path).shape == (3, 8, 12)
        assert read_header(path).size == (8, 12)

    @pytest.mark.parametrize("cut", [3, 20, 100, 130, -1])
    def test_truncated(self, tmp_path: Path, cut: int) -> None:
        path = save(tmp_path / "x.npy", bands())
        path.write_bytes(path.read_bytes()[:cut])
        with pytest.raises(DataError, match=r"x\.npy: "):
            read_image(path, channels=5)

    def test_objects_are_not_run(self, tmp_path: Path) -> None:
        path = tmp_path / "x.npy"
        np.save(path, np.array([[object()]], object), allow_pickle=True)
        with pytest.raises(DataError, match="Python objects, which detrkit does not run"):
            read_image(path)

    def test_a_header_that_promises_too_much(self, tmp_path: Path) -> None:
        header = b"{'descr': '|u1', 'fortran_order': False, 'shape': (100000, 100000, 3), }\n"
        content = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header
        (tmp_path / "x.npy").write_bytes(content)
        for read in (read_image, read_header):
            with pytest.raises(DataError, match="not decoded"):
                read(tmp_path / "x.npy")
        path = tmp_path / "y.npy"
        path.write_bytes(content.replace(b"(100000, 100000, 3)", b"(9000, 9000, 300)  "))
        with pytest.raises(DataError, match="not decoded"):  # pixels times bands
            read_image(path, channels=300)

    def test_a_cached_picture_is_not_listed(self, tmp_path: Path) -> None:
        save_image(tmp_path / "a.jpg")
        save(tmp_path / "a.npy", bands(3, dtype="uint8"))
        save(tmp_path / "b.npy", bands(3, dtype="uint8"))
        assert [path.name for path in list_images(tmp_path)] == ["a.jpg", "b.npy"]


class TestTiff:
    @pytest.fixture
    def tifffile(self):
        return pytest.importorskip("tifffile")

    @pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16", "float32"])
    @pytest.mark.parametrize("count", [2, 3, 4, 5, 13])
    @pytest.mark.parametrize("planar", [False, True])
    def test_bands(self, tifffile, tmp_path: Path, dtype: str, count: int, planar: bool) -> None:
        array = bands(count, dtype=dtype)
        layout = "separate" if planar else "contig"
        tifffile.imwrite(
            tmp_path / "x.tif",
            np.moveaxis(array, -1, 0) if planar else array,
            photometric="minisblack",
            planarconfig=layout,
        )
        image = read_image(tmp_path / "x.tif", channels=count)
        np.testing.assert_allclose(image.permute(1, 2, 0), as_pixels(array))
        assert read_header(tmp_path / "x.tif").size == (8, 12)

    @pytest.mark.parametrize(
        "options",
        [{"compression": "deflate"}, {"tile": (16, 16)}, {"bigtiff": True}, {"byteorder": ">"}],
    )
    def test_kinds_of_files(self, tifffile, tmp_path: Path, options: dict) -> None:
        tifffile.imwrite(
            tmp_path / "x.tif", bands(), photometric="minisblack", planarconfig="contig", **options
        )
        image = read_image(tmp_path / "x.tif", channels=5)
        np.testing.assert_allclose(image.permute(1, 2, 0), bands() / 257, rtol=1e-6)

    def test_rgb_and_more(self, tifffile, tmp_path: Path) -> None:
        array = bands(4, dtype="uint8")
        tifffile.imwrite(
            tmp_path / "x.tif", array, photometric="rgb", extrasamples=["unspecified"],
            planarconfig="contig",
        )  # fmt: skip
        np.testing.assert_array_equal(
            read_image(tmp_path / "x.tif", channels=4).permute(1, 2, 0), array
        )
        np.testing.assert_array_equal(
            read_image(tmp_path / "x.tif").permute(1, 2, 0), array[..., :3]
        )

    def test_pages_are_bands_where_the_model_takes_as_many(self, tifffile, tmp_path: Path) -> None:
        array = bands(5)
        tifffile.imwrite(tmp_path / "x.tif", np.moveaxis(array, -1, 0), photometric="minisblack")
        image = read_image(tmp_path / "x.tif", channels=5)
        np.testing.assert_allclose(image.permute(1, 2, 0), array / 257, rtol=1e-6)
        first = read_image(tmp_path / "x.tif", channels=1)
        np.testing.assert_allclose(first[0], array[..., 0] / 257, rtol=1e-6)
        with pytest.raises(WrongBands, match=r"has 1 band on each of 5 pages, .* 4 channels"):
            read_image(tmp_path / "x.tif", channels=4)

    @pytest.mark.parametrize("orientation", range(1, 9))
    def test_orientation(self, tifffile, tmp_path: Path, orientation: int) -> None:
        from detrkit.data.modes import oriented

        array = bands(5, dtype="uint8")
        tifffile.imwrite(
            tmp_path / "x.tif", array, photometric="minisblack", planarconfig="contig",
            extratags=[(274, "H", 1, orientation, True)],
        )  # fmt: skip
        header = read_header(tmp_path / "x.tif")
        assert header == ImageHeader((8, 12), orientation)
        turned = read_image(tmp_path / "x.tif", channels=5)
        assert turned.shape[1:] == header.shown_size
        np.testing.assert_array_equal(turned.permute(1, 2, 0), oriented(array, orientation))
        stored = read_image(tmp_path / "x.tif", channels=5, apply_exif=False)
        np.testing.assert_array_equal(stored.permute(1, 2, 0), array)

    def test_truncated(self, tifffile, tmp_path: Path) -> None:
        path = tmp_path / "x.tif"
        tifffile.imwrite(path, bands(), photometric="minisblack", planarconfig="contig")
        data = path.read_bytes()
        for length in (8, 60, len(data) // 2, len(data) - 200):
            path.write_bytes(data[:length])
            with pytest.raises(DataError, match=r"x\.tif: "):
                read_image(path, channels=5)

    def test_too_large(self, tifffile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        path = tmp_path / "x.tif"
        tifffile.imwrite(path, bands(), photometric="minisblack", planarconfig="contig")
        monkeypatch.setenv("DETRKIT_MAX_PIXELS", "159")  # 8 * 12 * 5 / 3 less one
        with pytest.raises(DataError, match="not decoded"):
            read_image(path, channels=5)
        monkeypatch.setenv("DETRKIT_MAX_PIXELS", "160")
        assert read_image(path, channels=5).shape == (5, 8, 12)

    def test_a_kind_of_compression_that_needs_imagecodecs(
        self, tifffile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        path = tmp_path / "x.tif"
        tifffile.imwrite(path, bands(), photometric="minisblack", planarconfig="contig")

        def refuse(self: object) -> None:
            raise ValueError("<COMPRESSION.LZW: 5> requires the 'imagecodecs' package")

        monkeypatch.setattr(tifffile.TiffPage, "asarray", refuse)
        with pytest.raises(MissingExtraError, match="imagecodecs") as caught:
            read_image(path, channels=5)
        assert caught.value.hint == "pip install 'detrkit[multiband]'"

    def test_without_tifffile(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "tifffile", None)
        path = tmp_path / "x.tif"
        save_image(path)
        assert read_image(path).shape == (3, 40, 60)
        with pytest.raises(MissingExtraError, match="tifffile") as caught:
            read_image(path, channels=5)
        assert caught.value.hint == "pip install 'detrkit[multiband]'"


def test_a_tiff_of_bands_without_tifffile_is_one_unreadable_picture(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where RGB is wanted: a stray file stops neither indexing nor `infer`."""
    tifffile = pytest.importorskip("tifffile")
    path = tmp_path / "x.tif"
    tifffile.imwrite(path, bands(), photometric="minisblack", planarconfig="contig")
    monkeypatch.setitem(sys.modules, "tifffile", None)
    for read in (read_image, read_header):
        with pytest.raises(DataError, match=r"x\.tif: a TIFF of several bands needs") as caught:
            read(path)
        assert caught.value.hint == "pip install 'detrkit[multiband]'"
