"""Caches of decoded images: what they cost, and that they change nothing."""

from __future__ import annotations

import errno
import os
import threading
from dataclasses import replace
from json import dumps
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from detrkit.data import BatchImageCollateFunction, Compose, DetectionDataset, build_loader
from detrkit.data.caching import (
    Room,
    cache_in_memory,
    cache_on_disk,
    image_keys,
    largest_side,
    picture_bytes,
    picture_folder,
    pixel_bytes,
)
from detrkit.data.coco import read_coco
from detrkit.data.images import read_image
from detrkit.data.loader import Loader
from detrkit.data.picture_store import PictureStore, limited
from detrkit.data.shared_file import SharedFile
from detrkit.errors import DataError
from tests.data.conftest import CocoMaker, box, save_image
from tests.data.test_dataset import break_image
from tests.data.test_loader import same
from tests.data.test_mosaic import DEIM
from tests.data.test_transforms import RECIPE
from tests.engine.distributed.processes import METHOD

COUNT = 7
PLENTY = Room(1 << 40)
SIZES = [(40, 60), (60, 40), (90, 120), (33, 1), (48, 80), (200, 100), (64, 64)]

#: The D-FINE recipe; DEIMv2's with mosaic, MixUp and CopyBlend; RT-DETR's own mosaic.
RTDETR = {"type": "Mosaic", "size": 32, "probability": 0.5, "use_cache": False}
RECIPES: dict[str, dict] = {
    "dfine": {"ops": RECIPE},
    "deim": DEIM,
    "rtdetr": {"ops": [RTDETR, *RECIPE]},
}
MIXING = {
    "deim": {"mixup_prob": 0.5, "mixup_epochs": [0, 9], "with_expand": True}
    | {"copyblend_prob": 0.5, "copyblend_epochs": [0, 9]},
}


@pytest.fixture
def path(make_coco: CocoMaker, tmp_path: Path) -> Path:
    """Seven images of all kinds of sizes, with 0 to 2 boxes."""
    entries = [
        {"id": i, "file_name": f"{i}.jpg", "height": h, "width": w}
        for i, (h, w) in enumerate(SIZES)
    ]
    boxes = [
        box(10 * i + k, image=i, bbox=[0, k, 9 + i, 12]) for i in range(COUNT) for k in range(i % 3)
    ]
    json = make_coco(boxes, entries)
    for i, size in enumerate(SIZES):
        save_image(tmp_path / "images" / "train" / f"{i}.jpg", size, seed=i)
    return json


def make_data(path: Path, recipe: str = "dfine", **attributes: object) -> DetectionDataset:
    data = DetectionDataset(read_coco(path), Compose(**RECIPES[recipe]))
    for name, value in attributes.items():
        setattr(data, name, value)
    return data


def make_loader(data: DetectionDataset, recipe: str, **options: object) -> Loader:
    collate = BatchImageCollateFunction(
        base_size=(48, 80), base_size_repeat=2, **MIXING.get(recipe, {})
    )
    values = {"batch_size": 3, "shuffle": True, "seed": 4, "collate": collate} | options
    return build_loader(data, **values)  # type: ignore[arg-type]


def cache(data: DetectionDataset, kind: str, folder: Path, room: Room = PLENTY) -> object:
    if kind == "ram":
        return cache_in_memory(data, room, threads=3)
    return cache_on_disk(data, folder, room, threads=3)


# Results ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("max_side", [None, 50])
@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("kind", ["ram", "disk"])
def test_a_cache_changes_no_batch(
    path: Path, tmp_path: Path, kind: str, recipe: str, max_side: int | None
) -> None:
    """For any number of workers, seed, epoch and first batch."""
    break_image(path, 3)
    for seed, workers in ((0, (0, 1, 3)), (5, (0,))):
        plain = make_data(path, recipe, max_side=max_side)
        cached = make_data(path, recipe, max_side=max_side)
        cache(cached, kind, tmp_path / "c")
        assert cached.store is not None
        assert len(cached.store) == COUNT - 1
        loaders = [make_loader(plain, recipe, seed=seed)]
        loaders += [make_loader(cached, recipe, seed=seed, num_workers=n) for n in workers]
        for epoch, start in ((0, 0), (1, 0), (2, 1)):
            batches = []
            for loader in loaders:
                loader.set_epoch(epoch, start)
                batches.append(list(loader))
            assert len(batches[0]) == 3 - start
            for other in batches[1:]:
                assert all(same(a, b) for a, b in zip(batches[0], other, strict=True))


@pytest.mark.parametrize("kind", ["ram", pytest.param("disk", marks=pytest.mark.slow)])
def test_workers_that_share_no_memory_read_the_cache(path: Path, tmp_path: Path, kind: str) -> None:
    """They get it pickled, from a server that has imported torch already."""
    data = make_data(path)
    cache(data, kind, tmp_path / "c")
    loader = make_loader(data, "dfine", num_workers=1)
    loader._loader.multiprocessing_context = METHOD
    plain = list(make_loader(make_data(path), "dfine"))
    for i in range(COUNT):
        break_image(path, i)  # nobody can read the files any more
    assert all(same(a, b) for a, b in zip(plain, loader, strict=True))


def test_cached_images_are_not_read_again(path: Path, tmp_path: Path) -> None:
    for kind in ("ram", "disk"):
        data = make_data(path, "deim")
        cache(data, kind, tmp_path / "c")
        expected = [data[i].image for i in range(COUNT)]
        files = {i: Path(data.index.paths[i]) for i in range(COUNT)}
        saved = {i: (f.read_bytes(), f.stat().st_mtime_ns) for i, f in files.items()}
        for file in files.values():
            file.unlink()
        assert all(torch.equal(data[i].image, expected[i]) for i in range(COUNT))
        for i, (content, time) in saved.items():
            files[i].write_bytes(content)
            os.utime(files[i], ns=(time, time))


def test_shrunk_images_keep_their_targets_right(path: Path) -> None:
    plain, small = (DetectionDataset(read_coco(path)) for _ in range(2))
    small.max_side = 50
    for i, (h, w) in enumerate(SIZES):
        a, b = plain[i], small[i]
        assert b.size == limited((h, w), 50)
        assert a.orig_size == b.orig_size == (h, w)
        np.testing.assert_allclose(a.boxes_cxcywh(), b.boxes_cxcywh(), atol=1e-6)
        np.testing.assert_array_equal(a.area, b.area)  # as annotated in the image file
        if max(h, w) <= 50:
            assert torch.equal(a.image, b.image)


@pytest.mark.parametrize("max_side", [None, 50])
@pytest.mark.parametrize("kind", ["ram", "disk", "found on disk"])
def test_images_that_are_not_as_annotated(
    path: Path, tmp_path: Path, kind: str, max_side: int | None
) -> None:
    """Another size of the same shape, another shape, and turned by EXIF."""
    save_image(tmp_path / "images" / "train" / "0.jpg", (80, 120), seed=0)
    save_image(tmp_path / "images" / "train" / "1.jpg", (50, 90), seed=1)
    exif = Image.Exif()
    exif[0x0112] = 6
    save_image(tmp_path / "images" / "train" / "2.jpg", (90, 120), seed=2, exif=exif)
    index = read_coco(path)
    annotated = np.array(SIZES, np.int32)
    annotated[2] = (90, 120)
    index = replace(index, sizes=annotated, apply_exif=np.ones(COUNT, bool))
    plain, cached = DetectionDataset(index), DetectionDataset(index)
    plain.max_side = cached.max_side = max_side
    if kind.endswith("disk"):
        cache(cached, "disk", tmp_path / "c")
        if kind != "disk":
            cached = DetectionDataset(index)
            cached.max_side = max_side
            assert cache_on_disk(cached, tmp_path / "c", PLENTY, threads=1).found == COUNT
    else:
        cache(cached, "ram", tmp_path)
    for i in range(COUNT):
        a, b = plain[i], cached[i]
        assert torch.equal(a.image, b.image)
        np.testing.assert_array_equal(a.boxes_xyxy, b.boxes_xyxy)
        np.testing.assert_array_equal(a.area, b.area)
        assert (a.orig_size, a.size) == (b.orig_size, b.size)
    assert plain.broken.tolist() == cached.broken.tolist()
    assert (plain.broken[:3] > 1).all()


def test_shrunk_images_show_the_same(path: Path) -> None:
    """Against Pillow's antialiased resizing."""
    data = DetectionDataset(read_coco(path))
    data.max_side = 50
    for i in (2, 5):
        with Image.open(data.index.paths[i]) as image:
            size = limited(SIZES[i], 50)
            expected = np.array(image.resize(size[::-1], Image.Resampling.BILINEAR)).astype(int)
        ours = data[i].image.permute(1, 2, 0).numpy()
        assert np.abs(ours - expected).max() <= 3


def test_evaluation_never_sees_shrunk_images(path: Path, tmp_path: Path) -> None:
    data = DetectionDataset(read_coco(path), training=False)
    data.max_side = 50
    cache(data, "ram", tmp_path)
    for i, size in enumerate(SIZES):
        assert data[i].size == size
        assert torch.equal(data[i].image, read_image(data.index.paths[i]))


# What it costs ---------------------------------------------------------------------------------


@given(
    st.lists(st.tuples(st.integers(1, 900), st.integers(1, 900)), min_size=1, max_size=9),
    st.integers(1, 1000) | st.none(),
)
def test_the_forecast_is_exact(sizes: list[tuple[int, int]], side: int | None) -> None:
    expected = sum(3 * h * w for h, w in (limited(size, side) for size in sizes))
    assert picture_bytes(np.array(sizes, np.int32), side) == expected


@given(
    st.lists(st.tuples(st.integers(1, 900), st.integers(1, 900)), min_size=1, max_size=9),
    st.integers(0, 4_000_000),
)
def test_the_largest_side_that_fits(sizes: list[tuple[int, int]], room: int) -> None:
    array = np.array(sizes, np.int32)
    side = largest_side(array, room)
    if side is not None:
        assert picture_bytes(array, side) <= room
    more = (side or 0) + 32
    assert picture_bytes(array, more) > room or more > array.max()


def test_what_is_cached_is_what_was_forecast(path: Path, tmp_path: Path) -> None:
    for max_side in (None, 50):
        data = make_data(path, max_side=max_side)
        needed = picture_bytes(data.index.sizes, max_side)
        filled = cache_in_memory(data, Room(needed), threads=1)
        assert (filled.images, filled.nbytes, filled.reason) == (COUNT, needed, "")


@pytest.mark.parametrize("kind", ["ram", "disk"])
def test_too_large_is_refused_with_numbers(path: Path, tmp_path: Path, kind: str) -> None:
    data = make_data(path)
    room = Room(3 << 30, (3 << 30) - 60_000)
    with pytest.raises(DataError, match=r"7 decoded images need .* of 3 GiB .*kept") as caught:
        cache(data, kind, tmp_path / "c", room)
    assert "--cache-size 64 would fit" in (caught.value.hint or "")
    assert data.store is None
    data.max_side = 64
    cache(data, kind, tmp_path / "c", room)
    assert data.store is not None
    with pytest.raises(DataError) as caught:
        cache(make_data(path), kind, tmp_path / "d", Room(10))
    assert "--cache-size" not in (caught.value.hint or "")


@pytest.mark.parametrize("where", ["ram", "disk"])
def test_images_of_other_channels(tmp_path: Path, where: str) -> None:
    entries = [{"id": i, "file_name": f"{i}.npy", "height": 12, "width": 20} for i in range(3)]
    json = tmp_path / "train.json"
    json.write_text(
        dumps({"images": entries, "annotations": [], "categories": [{"id": 1, "name": "a"}]})
    )
    for i in range(3):
        np.save(tmp_path / f"{i}.npy", np.random.default_rng(i).random((12, 20, 5), np.float32))
    data = DetectionDataset(read_coco(json), in_channels=5)
    fresh = DetectionDataset(read_coco(json), in_channels=5)
    assert pixel_bytes(data) == 5 * 4
    with pytest.raises(DataError, match="3 decoded images need"):
        cache_in_memory(data, Room(3 * 12 * 20 * 5), threads=1)  # enough for bytes
    cache(data, where, tmp_path / "cache")
    assert len(data.store or ()) == 3
    assert all(torch.equal(data[i].image, fresh[i].image) for i in range(3))
    gray = np.full((12, 20), 40_000, np.uint16)
    Image.fromarray(gray).save(tmp_path / "0.npy", "PNG")
    assert pixel_bytes(DetectionDataset(read_coco(json), in_channels=1)) == 4  # keeps 16 bits


def test_annotations_that_give_wrong_sizes(
    make_coco: CocoMaker, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The forecast believes them; the memory is not exceeded by more than the threads' images."""
    path = make_coco(
        [], [{"id": i, "file_name": f"{i}.jpg", "height": 40, "width": 60} for i in range(9)]
    )
    data = DetectionDataset(read_coco(path))
    data.index.sizes[:] = (4, 6)
    filled = cache_in_memory(data, Room(2 * 40 * 60 * 3), threads=1)
    assert filled.reason == "images are larger than their annotations say"
    assert 2 < filled.images < 9
    fresh = DetectionDataset(read_coco(path))
    assert all(torch.equal(data[i].image, fresh[i].image) for i in range(9))


# On a disk -------------------------------------------------------------------------------------


def test_the_next_run_decodes_nothing(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache(make_data(path), "disk", tmp_path / "c")
    again = make_data(path)
    monkeypatch.setattr("detrkit.data.dataset.read_indexed", None)
    filled = cache_on_disk(again, tmp_path / "c", Room(0), threads=2)
    assert (filled.images, filled.found) == (COUNT, COUNT)
    assert again[2].size == (48, 80)


def test_an_image_that_changed_is_decoded_again(path: Path, tmp_path: Path) -> None:
    cache(make_data(path), "disk", tmp_path / "c")
    file = Path(make_data(path).index.paths[2])
    save_image(file, SIZES[2], seed=99)
    data = make_data(path)
    filled = cache_on_disk(data, tmp_path / "c", PLENTY, threads=2)
    assert (filled.images, filled.found) == (COUNT, COUNT - 1)
    assert torch.equal(data.picture(2).pixels, read_image(file))


def test_keys_tell_apart_what_is_read_differently(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = image_keys(make_data(path), 2)
    assert len(np.unique(keys, axis=0)) == COUNT
    np.testing.assert_array_equal(keys, image_keys(make_data(path), 1))
    assert not (keys == image_keys(make_data(path, max_side=50), 1)).any()
    turned = make_data(path)
    turned.index.apply_exif[:] = ~turned.index.apply_exif
    assert not (keys == image_keys(turned, 1)).any()
    monkeypatch.setattr("detrkit.data.pixels.DECODERS", "another version")
    assert not (keys == image_keys(make_data(path), 1)).any()
    Path(turned.index.paths[0]).unlink()
    assert not image_keys(turned, 1)[0].any()


def test_folders_of_data_sets(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DETRKIT_CACHE", str(tmp_path / "cache"))
    full, small = make_data(path), make_data(path, max_side=640)
    folder = picture_folder(full)
    assert folder.parts[-3] == "pictures"
    assert folder.is_relative_to(tmp_path / "cache")
    assert [f.name for f in (folder, picture_folder(small))] == ["full", "640px"]
    assert picture_folder(small, Path("/fast")).parts[:2] == ("/", "fast")


def test_a_full_disk_costs_only_the_cache(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = []
    write = SharedFile._write

    def fill_up(file: SharedFile, offset: int, array: np.ndarray) -> None:
        if len(written) >= 6:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        written.append(offset)
        write(file, offset, array)

    monkeypatch.setattr(SharedFile, "_write", fill_up)
    data = make_data(path)
    filled = cache_on_disk(data, tmp_path / "c", PLENTY, threads=1)
    assert (filled.images, filled.reason) == (3, "no space is left")
    plain = make_data(path)
    assert all(torch.equal(data[i].image, plain[i].image) for i in range(COUNT))
    monkeypatch.undo()
    assert cache_on_disk(make_data(path), tmp_path / "c", PLENTY, threads=1).found == 3


def test_interrupted_in_the_middle(path: Path, tmp_path: Path) -> None:
    def stop(done: int, total: int) -> None:
        assert total == COUNT
        if done == 2:
            raise KeyboardInterrupt

    data = make_data(path)
    before = threading.active_count()
    with pytest.raises(KeyboardInterrupt):
        cache_on_disk(data, tmp_path / "c", PLENTY, threads=1, progress=stop)
    assert data.store is None
    assert threading.active_count() == before
    found = cache_on_disk(data, tmp_path / "c", PLENTY, threads=1).found
    assert 2 <= found <= COUNT  # threads end what they have begun


def test_damage_is_mended_while_training(path: Path, tmp_path: Path) -> None:
    cache(make_data(path), "disk", tmp_path / "c")
    (pixels,) = (tmp_path / "c").glob("*.pixels")
    pixels.write_bytes(bytes(pixels.stat().st_size))
    data, plain = make_data(path), make_data(path)
    assert cache_on_disk(data, tmp_path / "c", PLENTY, threads=1).found == COUNT
    assert all(torch.equal(data[i].image, plain[i].image) for i in range(COUNT))
    again = make_data(path)
    cache(again, "disk", tmp_path / "c")
    assert isinstance(again.store, PictureStore)
    for i in range(COUNT):
        picture = again.store.get(i)
        assert picture is not None
        assert torch.equal(picture.pixels, plain.picture(i).pixels)


def test_a_folder_that_cannot_be_made(path: Path, tmp_path: Path) -> None:
    (tmp_path / "c").write_text("in the way")
    with pytest.raises(DataError, match="cannot keep pictures in") as caught:
        cache(make_data(path), "disk", tmp_path / "c" / "full")
    assert "disk_cache=DIR" in (caught.value.hint or "")


def test_pixels_of_more_than_8_bits_take_four_bytes(path: Path, tmp_path: Path) -> None:
    data = make_data(path)
    assert pixel_bytes(data) == 3
    gray = DetectionDataset(data.index, in_channels=1)
    assert pixel_bytes(gray) == 1
    break_image(path, 0)  # the first that can be read counts
    deep = np.arange(60 * 40, dtype=np.uint16).reshape(60, 40)
    file = tmp_path / "images" / "train" / "1.jpg"  # which is what the content says
    Image.fromarray(deep).save(file, format="PNG")
    assert pixel_bytes(gray) == 4
    for kind in ("ram", "disk"):
        cached = DetectionDataset(data.index, in_channels=1)
        cache(cached, kind, tmp_path / "c")
        picture = cached.picture(1).pixels
        assert picture.dtype == torch.float32
        assert torch.equal(picture, gray.picture(1).pixels)
    keys = image_keys(gray, 1)
    assert not (keys == image_keys(data, 1)).all(1).any()
