"""Folders appear as a whole; images come by their names."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from detrkit.convert import placing
from detrkit.convert.output import staged
from detrkit.convert.placement import referring_names, relative_name, target_names
from detrkit.convert.placing import Place, put
from detrkit.convert.to_yolo import decimals
from detrkit.data.faults import FaultKind, FaultReport
from detrkit.errors import DetrkitError, UsageError

PARTS = ["labels/train", "labels/val", "data.yaml"]


def write(folder: Path, text: str, *splits: str) -> None:
    for split in splits:
        (folder / "labels" / split).mkdir(parents=True)
        (folder / "labels" / split / f"{text}.txt").write_text(text)
    (folder / "data.yaml").write_text(text)


def files(folder: Path) -> list[str]:
    return sorted(f.relative_to(folder).as_posix() for f in folder.rglob("*") if f.is_file())


def test_a_new_folder(tmp_path: Path) -> None:
    out = tmp_path / "new" / "out"
    with staged(out, PARTS, force=False, sources=[]) as stage:
        write(stage, "a", "train")
        assert not (out / "data.yaml").exists()
    assert files(out) == ["data.yaml", "labels/train/a.txt"]


def test_a_former_result_is_replaced_with_force_only(tmp_path: Path) -> None:
    write(tmp_path, "old", "train", "val")
    (tmp_path / "notes.txt").write_text("mine")
    with (
        pytest.raises(UsageError, match="already holds `labels/train`, `labels/val`, `data"),
        staged(tmp_path, PARTS, force=False, sources=[]),
    ):
        pass
    with staged(tmp_path, PARTS, force=True, sources=[]) as stage:
        write(stage, "new", "train")
    assert files(tmp_path) == ["data.yaml", "labels/train/new.txt", "notes.txt"]


def test_a_failure_changes_nothing(tmp_path: Path) -> None:
    write(tmp_path, "old", "train")
    before = files(tmp_path)

    def fail() -> None:
        with staged(tmp_path, PARTS, force=True, sources=[]) as stage:
            write(stage, "new", "train")
            raise ValueError("stop")

    with pytest.raises(ValueError, match="stop"):
        fail()
    assert files(tmp_path) == before
    assert sorted(f.name for f in tmp_path.iterdir()) == ["data.yaml", "labels"]


def test_a_source_is_never_replaced(tmp_path: Path) -> None:
    write(tmp_path, "old", "train")
    source = tmp_path / "labels/train/old.txt"
    with (
        pytest.raises(UsageError, match="would replace"),
        staged(tmp_path, PARTS, force=True, sources=[source]),
    ):
        pass
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "labels")
    with (
        pytest.raises(UsageError, match="would replace"),
        staged(tmp_path, PARTS, force=True, sources=[link / "train" / "old.txt"]),
    ):
        pass


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(DetrkitError, match="cannot write"),
        staged(tmp_path / "file" / "out", PARTS, force=False, sources=[]),
    ):
        pass


@pytest.mark.parametrize("place", [Place.link, Place.symlink, Place.copy])
def test_bringing_a_file(tmp_path: Path, place: Place) -> None:
    source = tmp_path / "猫 a.jpg"
    source.write_bytes(b"picture")
    target = tmp_path / "new" / "b.jpg"
    for _ in range(2):  # what is there is replaced
        put(source, target, place)
        assert target.read_bytes() == b"picture"
        assert target.is_symlink() == (place is Place.symlink)
        assert os.path.samefile(source, target) == (place is not Place.copy)
    assert [f.name for f in target.parent.iterdir()] == ["b.jpg"]


def test_a_link_of_a_link_leads_to_the_file(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"picture")
    (tmp_path / "b").symlink_to("a")
    put(tmp_path / "b", tmp_path / "new" / "c", Place.link)
    assert not (tmp_path / "new" / "c").is_symlink()
    assert (tmp_path / "new" / "c").read_bytes() == b"picture"


def test_another_disk_gets_copies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(placing.os, "link", refuse)
    (tmp_path / "a").write_bytes(b"picture")
    put(tmp_path / "a", tmp_path / "b", Place.link)
    assert (tmp_path / "b").read_bytes() == b"picture"
    assert not os.path.samefile(tmp_path / "a", tmp_path / "b")


def test_a_file_that_is_missing(tmp_path: Path) -> None:
    with pytest.raises(DetrkitError, match="cannot write"):
        put(tmp_path / "none", tmp_path / "b", Place.copy)


def test_target_names() -> None:
    def names(*texts: str, **options: bool) -> tuple[list[str], int]:
        faults = FaultReport()
        found = target_names([Path("/data") / t for t in texts], **options, faults=faults)
        return found, faults.counts.get(FaultKind.RENAMED_IMAGE, 0)

    assert names("x/a.jpg", "x/b.jpg") == (["a.jpg", "b.jpg"], 0)
    assert names("x/a.jpg", "y/a.jpg") == (["x/a.jpg", "y/a.jpg"], 0)
    assert names("x/a.jpg", "y/a.jpg", flat=True) == (["a.jpg", "a_2.jpg"], 1)
    assert names("x/a.jpg", "x/a.png") == (["a.jpg", "a.png"], 0)
    assert names("x/a.jpg", "x/a.png", by_stem=True) == (["a.jpg", "a_2.png"], 1)
    assert names("x/a.jpg", "x/A.jpg", "x/a_2.jpg") == (["a.jpg", "A_2.jpg", "a_2_2.jpg"], 2)
    assert names("x/a.jpg", "x/a.jpg") == (["a.jpg", "a_2.jpg"], 1)
    assert names() == ([], 0)


def test_names_that_refer(tmp_path: Path) -> None:
    picture = tmp_path / "src/images/train/a.jpg"
    picture.parent.mkdir(parents=True)
    picture.write_bytes(b"")
    (tmp_path / "out").mkdir()
    ann = tmp_path / "out/annotations/instances_train.json"
    assert referring_names(["a.jpg"], [picture], ann) == ["../src/images/train/a.jpg"]
    assert referring_names(["a.jpg"], [tmp_path / "none.jpg"], ann) == ["a.jpg"]
    beside = tmp_path / "src/annotations/instances_train.json"
    assert referring_names(["a.jpg"], [picture], beside) == ["a.jpg"]
    assert referring_names(["train/a.jpg"], [picture], beside) == ["train/a.jpg"]
    assert referring_names(["x.jpg"], [picture], beside) == ["images/train/a.jpg"]
    assert relative_name(picture, tmp_path) == "src/images/train/a.jpg"


@pytest.mark.parametrize("side", [100, 640, 10_000, 10_001, 65_535])
def test_decimals_keep_corners_within_a_hundredth(side: int) -> None:
    """Centre and side are each off by half a unit of the last digit at most."""
    assert side * (0.5 + 0.25) * 10 ** -decimals((side, 10)) < 0.01
