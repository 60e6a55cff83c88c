"""Copies are found within and across splits, whatever they are called."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image as Pillow

from detrkit.analysis import find_duplicates, scan_pictures
from detrkit.analysis.duplicates import Sameness, same_look
from detrkit.data.drawings import draw
from detrkit.data.faults import FaultKind
from detrkit.data.index import DatasetIndex
from tests.analysis.made import Box, Image, index_of


def named(*paths: str) -> DatasetIndex:
    return index_of([Image((10, 10))] * len(paths), paths=paths)


def test_file_listed_twice(folder: Path) -> None:
    train, val = pictures(folder, "0.png", "1.png"), pictures(folder, "1.png", "2.png")
    found = find_duplicates({"train": train, "val": val})
    assert found.leaks == {("train", "val"): 1}
    assert [[c.split for c in g.copies] for g in found.groups] == [["train", "val"]]
    assert found.groups[0].signs == (Sameness.FILE,)
    assert found.surplus == {Sameness.FILE: 1}
    assert not found.looked_at_pictures


def test_files_that_nobody_found() -> None:
    # without the pictures, paths are guessed: `a.jpg` may stand in two folders
    assert not find_duplicates({"train": named("a.jpg"), "val": named("a.jpg")}).groups
    assert find_duplicates({"train": named("a.jpg", "a.jpg")}).groups_count == 1


def test_versions_made_by_roboflow() -> None:
    a, b = "0123456789abcdef" * 2, "fedcba9876543210" * 2
    train = named(f"x/dog_jpg.rf.{a}.jpg", f"x/dog_jpg.rf.{b}.jpg", "x/cat.jpg")
    found = find_duplicates({"train": train, "test": named(f"y/dog_jpg.rf.{a[::-1]}.png")})
    assert found.leaks == {("train", "test"): 1}
    assert found.groups[0].signs == (Sameness.SOURCE,)
    assert found.surplus == {Sameness.SOURCE: 2}


def test_equal_names_in_two_folders_are_no_copies() -> None:
    found = find_duplicates({"train": named("train/1.jpg"), "val": named("val/1.jpg")})
    assert not found.groups


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for number in range(6):
        Pillow.fromarray(draw(0, 0, number, 128).pixels).save(tmp_path / f"{number}.png")
    return tmp_path


def pictures(folder: Path, *names: str) -> DatasetIndex:
    return index_of(
        [Image((128, 128), [Box((1, 1, 9, 9))])] * len(names),
        paths=[str(folder / n) for n in names],
    )


def look(parts: dict[str, DatasetIndex]):  # type: ignore[no-untyped-def]
    return find_duplicates(parts, {name: scan_pictures(part) for name, part in parts.items()})


def test_scaled_and_compressed_copies(folder: Path) -> None:
    with Pillow.open(folder / "2.png") as image:
        image.resize((90, 90)).save(folder / "copy.jpg", quality=60)
    found = look({"train": pictures(folder, "0.png", "1.png", "2.png"),
                  "val": pictures(folder, "copy.jpg", "4.png")})  # fmt: skip
    assert found.leaks == {("train", "val"): 1}
    (group,) = found.groups
    assert [Path(c.file).name for c in group.copies] == ["2.png", "copy.jpg"]
    assert group.signs == (Sameness.PICTURE,)
    assert [c.boxes for c in group.copies] == [1, 1]
    assert found.looked_at_pictures


def test_turned_as_exif_says(folder: Path) -> None:
    with Pillow.open(folder / "0.png") as image:
        exif = Pillow.Exif()
        exif[0x0112] = 6
        image.rotate(90).save(folder / "turned.jpg", exif=exif, quality=95)
    assert look({"train": pictures(folder, "0.png", "turned.jpg")}).groups_count == 1


def test_different_pictures(folder: Path) -> None:
    found = look({"train": pictures(folder, *(f"{n}.png" for n in range(6)))})
    assert (found.groups, found.groups_count, found.leaks) == ((), 0, {})


def test_plain_pictures_are_told_apart_by_their_grey(folder: Path) -> None:
    for name, level in (("black", 0), ("black2", 1), ("white", 255), ("grey", 90)):
        Pillow.new("L", (40, 30), level).save(folder / f"{name}.png")
    (group,) = look(
        {"train": pictures(folder, "black.png", "white.png", "grey.png", "black2.png")}
    ).groups
    assert [Path(c.file).stem for c in group.copies] == ["black", "black2"]


def test_a_chain_of_frames_does_not_leak_end_to_end() -> None:
    """A near B near C: A is no copy of C, and only B's split leaks into both."""
    from detrkit.analysis.duplicates import _splits_of_copies

    bits = np.array([1, 2, 4])
    none = (np.zeros(0, np.int64), np.zeros(0, np.int64))
    near = (np.array([0, 1]), np.array([1, 2]))
    assert _splits_of_copies(bits, none, near).tolist() == [0b011, 0b111, 0b110]
    # firmly linked ones are one picture
    assert _splits_of_copies(bits, near, none).tolist() == [0b111] * 3


def test_many_copies_stay_linear(folder: Path) -> None:
    found = look({"train": pictures(folder, *["3.png"] * 400), "val": pictures(folder, "3.png")})
    assert found.surplus == {Sameness.FILE: 400}
    assert found.leaks == {("train", "val"): 1}


def test_unreadable_pictures_are_faults_and_no_copies(folder: Path) -> None:
    (folder / "5.png").write_bytes((folder / "4.png").read_bytes()[:900])
    (folder / "text.jpg").write_text("no picture")
    names = ("0.png", "5.png", "text.jpg", "gone.png")
    calls: list[tuple[int, int]] = []
    scan = scan_pictures(pictures(folder, *names), lambda *progress: calls.append(progress))
    assert scan.readable.tolist() == [True, False, False, False]
    assert [fault.kind for fault in scan.faults] == [
        FaultKind.CORRUPT_IMAGE, FaultKind.CORRUPT_IMAGE, FaultKind.MISSING_IMAGE,
    ]  # fmt: skip
    assert calls == [(4, 4)]
    part = pictures(folder, *names)
    assert find_duplicates({"train": part}, {"train": scan}).groups_count == 0


def test_same_look_ignores_brightness() -> None:
    rng = np.random.default_rng(0)
    a = rng.integers(60, 190, (5, 16, 16), np.uint8)
    assert same_look(a, (a * 0.7 + 20).astype(np.uint8), chunk=2).all()
    assert not same_look(a, a[::-1].copy())[[0, 1, 3, 4]].any()


def test_no_images() -> None:
    assert find_duplicates({"train": named()}).groups_count == 0
    assert look({"train": named()}).groups_count == 0
