"""Decoded pictures between processes and runs."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from detrkit.data.faults import FaultKind
from detrkit.data.picture_store import (
    ROW,
    Keys,
    Picture,
    PictureStore,
    limited,
    new_files,
    open_folder,
)
from detrkit.data.shared_file import SharedFile

KEYS: Keys = np.arange(2, 12, dtype=np.uint64).reshape(5, 2)


def picture(number: int, shape: tuple[int, ...] = (4, 6, 3), kind: str = "u1") -> Picture:
    """A picture that its number tells apart."""
    values = np.random.default_rng(number).integers(0, 255, shape).astype(kind)
    pixels = torch.from_numpy(values).permute(2, 0, 1)
    fault = (None, FaultKind.SIZE_MISMATCH, FaultKind.EXIF_ROTATION)[number % 3]
    return Picture(pixels, (shape[0] * 2, shape[1] * 2), (0.5, 1 / 3), fault)


def same(a: Picture | None, b: Picture) -> bool:
    return (
        a is not None
        and a.pixels.dtype == b.pixels.dtype
        and torch.equal(a.pixels, b.pixels)
        and a.pixels.stride() == b.pixels.stride()
        and a[1:] == b[1:]
    )


def filled(folder: Path | None = None, numbers: tuple[int, ...] = (0, 1, 2, 3, 4)) -> PictureStore:
    """Five pictures, in memory or in a folder, as far as they are missing there."""
    if folder is None:
        store = PictureStore(5)
        store.write_to(SharedFile())
    else:
        store = open_folder(folder, KEYS)
        store.write_to(*new_files(folder))
    for number in numbers:
        if number not in store:
            store.put(number, picture(number))
    store.finish()
    return store


@pytest.mark.parametrize("on_disk", [False, True])
def test_what_comes_out_is_what_went_in(tmp_path: Path, on_disk: bool) -> None:
    store = filled(tmp_path if on_disk else None, (0, 3))
    assert len(store) == 2
    assert store.missing().tolist() == [1, 2, 4]
    assert store.nbytes == 2 * 4 * 6 * 3
    assert same(store.get(0), picture(0))
    assert same(store.get(3), picture(3))
    assert store.get(1) is None


@pytest.mark.parametrize(
    ("shape", "kind"), [((5, 7, 1), "u1"), ((3, 2, 5), "f4"), ((4, 4, 3), "u2"), ((1, 1, 3), "u1")]
)
def test_any_shape_and_type(tmp_path: Path, shape: tuple[int, ...], kind: str) -> None:
    store = open_folder(tmp_path, KEYS)
    store.write_to(*new_files(tmp_path))
    store.put(2, picture(2, shape, kind))
    assert same(open_folder(tmp_path, KEYS).get(2), picture(2, shape, kind))


def test_who_takes_a_picture_may_write_to_it() -> None:
    store = filled()
    taken = store.get(0)
    assert taken is not None
    taken.pixels.zero_()
    assert same(store.get(0), picture(0))


@given(st.integers(1, 5000), st.integers(1, 5000), st.integers(1, 1500) | st.none())
def test_pictures_are_shrunk_in_proportion_and_never_enlarged(
    h: int, w: int, side: int | None
) -> None:
    new_h, new_w = limited((h, w), side)
    assert 1 <= new_h <= h
    assert 1 <= new_w <= w
    if side is not None:
        assert max(new_h, new_w) == min(max(h, w), side)
        assert abs(new_h * w - new_w * h) <= max(h, w)
    else:
        assert (new_h, new_w) == (h, w)


# Between processes -----------------------------------------------------------------------------


def _check(store: PictureStore, answer: multiprocessing.Queue) -> None:  # type: ignore[type-arg]
    answer.put([same(store.get(number), picture(number)) for number in range(5)])


@pytest.mark.parametrize("on_disk", [False, True])
@pytest.mark.parametrize(
    "method",
    [
        pytest.param(name, marks=() if name == "fork" else pytest.mark.slow)
        for name in multiprocessing.get_all_start_methods()
    ],
)
def test_other_processes_read_the_same_pictures(tmp_path: Path, method: str, on_disk: bool) -> None:
    context = multiprocessing.get_context(method)
    answer, store = context.Queue(), filled(tmp_path if on_disk else None)
    process = context.Process(target=_check, args=(store, answer), daemon=True)
    process.start()
    assert answer.get(timeout=120) == [True] * 5
    process.join(30)


def test_a_copy_in_the_same_process() -> None:
    store = filled()
    assert same(pickle.loads(pickle.dumps(store)).get(4), picture(4))


def test_systems_without_nameless_files(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on macOS and Windows: a temporary file, read at a position that is moved."""
    monkeypatch.delattr(os, "memfd_create", raising=False)
    monkeypatch.delattr(os, "preadv", raising=False)
    store = filled()
    path = store._files[0].path  # type: ignore[union-attr]
    assert path.is_file()
    assert all(same(pickle.loads(pickle.dumps(store)).get(n), picture(n)) for n in range(5))
    assert all(same(store.get(n), picture(n)) for n in range(5))
    del store
    assert not path.exists()


@pytest.mark.skipif(sys.platform != "linux", reason="memory without a name")
def test_memory_is_given_back_when_its_owner_is_killed() -> None:
    """Nothing stays behind, and who still has a copy decodes again."""
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe()

    def own() -> None:
        store = filled()
        theirs.send_bytes(pickle.dumps(store))
        signal.pause()

    process = context.Process(target=own, daemon=True)
    before = set(os.listdir("/dev/shm"))
    process.start()
    pickled = ours.recv_bytes()
    alive = pickle.loads(pickled)
    assert same(alive.get(1), picture(1))
    process.kill()
    process.join(30)
    assert set(os.listdir("/dev/shm")) <= before
    assert same(alive.get(1), picture(1))
    gone = pickle.loads(pickled)
    assert gone.get(1) is None
    gone.mend(1, picture(1))


def test_a_file_that_is_another_s_is_noticed() -> None:
    """The path of memory says nothing on another machine."""
    store, other = filled(), filled(numbers=(4, 3, 2, 1, 0))
    store.get(0)
    assert store._files[0] is not None
    assert other._files[0] is not None
    store._files[0].path = other._files[0].path
    elsewhere = pickle.loads(pickle.dumps(store))
    assert [elsewhere.get(number) is None for number in range(5)] == [True, True, False, True, True]
    for number in range(5):
        elsewhere.mend(number, picture(number))
    assert all(same(other.get(number), picture(number)) for number in range(5))


# Folders ---------------------------------------------------------------------------------------


def test_the_next_run_finds_what_is_there(tmp_path: Path) -> None:
    filled(tmp_path, (0, 1))
    assert open_folder(tmp_path, KEYS).missing().tolist() == [2, 3, 4]
    filled(tmp_path)
    store = open_folder(tmp_path, KEYS)
    assert all(same(store.get(number), picture(number)) for number in range(5))
    assert len(list(tmp_path.iterdir())) == 4
    # other images, in another order
    keys = KEYS[[3, 0, 0]].copy()
    keys[1] += np.uint64(100)
    store = open_folder(tmp_path, keys)
    assert store.missing().tolist() == [1]
    assert same(store.get(0), picture(3))
    assert same(store.get(2), picture(0))


def test_a_file_that_is_missing_has_no_picture(tmp_path: Path) -> None:
    filled(tmp_path)
    assert len(open_folder(tmp_path, np.zeros((3, 2), np.uint64))) == 0
    assert len(open_folder(tmp_path, np.zeros((0, 2), np.uint64))) == 0


def test_two_runs_at_once(tmp_path: Path) -> None:
    first, second = (open_folder(tmp_path, KEYS) for _ in range(2))
    for store in (first, second):
        store.write_to(*new_files(tmp_path))
    for number in range(5):
        for store in (first, second):
            store.put(number, picture(number))
    store = open_folder(tmp_path, KEYS)
    assert all(same(store.get(number), picture(number)) for number in range(5))


def test_nothing_is_left_where_nothing_was_written(tmp_path: Path) -> None:
    filled(tmp_path, ())
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("cut", range(1, ROW.itemsize, 13))
def test_killed_while_writing_a_row(tmp_path: Path, cut: int) -> None:
    filled(tmp_path)
    (table,) = tmp_path.glob("*.rows")
    table.write_bytes(table.read_bytes()[:-cut])
    assert open_folder(tmp_path, KEYS).missing().tolist() == [4]


@pytest.mark.parametrize("at", range(0, ROW.itemsize, 8))
def test_a_damaged_row_is_left_out(tmp_path: Path, at: int) -> None:
    filled(tmp_path)
    (table,) = tmp_path.glob("*.rows")
    data = bytearray(table.read_bytes())
    data[2 * ROW.itemsize + at] ^= 0x41
    table.write_bytes(data)
    store = open_folder(tmp_path, KEYS)
    assert store.missing().tolist() == [2]
    assert same(store.get(3), picture(3))


def test_rows_without_pixels(tmp_path: Path) -> None:
    filled(tmp_path)
    (pixels,) = tmp_path.glob("*.pixels")
    pixels.write_bytes(pixels.read_bytes()[: 4 * 6 * 3 * 2 + 5])
    assert open_folder(tmp_path, KEYS).missing().tolist() == [2, 3, 4]
    pixels.unlink()
    assert len(open_folder(tmp_path, KEYS)) == 0


def test_damaged_pixels_are_noticed_and_mended(tmp_path: Path) -> None:
    filled(tmp_path)
    (pixels,) = tmp_path.glob("*.pixels")
    data = bytearray(pixels.read_bytes())
    data[100] ^= 1
    pixels.write_bytes(data)
    store = open_folder(tmp_path, KEYS)
    assert store.get(1) is None
    assert same(store.get(0), picture(0))
    store.mend(1, picture(3))  # another picture is not what belongs there
    assert open_folder(tmp_path, KEYS).get(1) is None
    store.mend(1, picture(1))
    assert same(store.get(1), picture(1))
    assert same(open_folder(tmp_path, KEYS).get(1), picture(1))


def test_a_folder_that_can_only_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    filled(tmp_path)
    (pixels,) = tmp_path.glob("*.pixels")
    data = bytearray(pixels.read_bytes())
    data[0] ^= 1
    pixels.write_bytes(data)
    plain_open = Path.open

    def refuse(path: Path, mode: str = "r", **options: Any) -> Any:
        if "+" in mode:
            raise PermissionError(13, "Permission denied")
        return plain_open(path, mode, **options)

    monkeypatch.setattr(Path, "open", refuse)
    store = open_folder(tmp_path, KEYS)
    store.mend(0, picture(0))
    assert store.get(0) is None
    assert same(store.get(1), picture(1))


def test_a_disk_that_fails(tmp_path: Path) -> None:
    store = filled(tmp_path)
    for file in store._files:
        assert file is not None
        file.close()
        file._file = open(os.devnull, "r+b", buffering=0)  # noqa: SIM115
    assert store.get(0) is None
