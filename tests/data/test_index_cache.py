"""What is kept, when it is used again, and that nothing depends on it."""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Callable
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest

from detrkit.data import CocoDetection, DatasetIndex, index_cache, open_dataset, open_splits
from detrkit.data.coco import open_coco
from detrkit.data.index_cache import cached_value
from detrkit.data.sources import Sources
from tests.data.conftest import CocoMaker, box, save_image
from tests.data.test_index import columns
from tests.data.test_voc import OBJECT, annotation


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Everything is worth keeping, in a folder of its own."""
    folder = tmp_path_factory.mktemp("cache") / "detrkit"
    monkeypatch.setenv("DETRKIT_CACHE", str(folder))
    monkeypatch.setattr(index_cache, "WORTH_SECONDS", 0)
    return folder / "index"


def is_mapped(index: DatasetIndex) -> bool:
    return isinstance(index.boxes_xyxy.base, np.memmap)


def age(*paths: Path) -> None:
    """Makes files and folders, and all in them, older than the clock of the disk ticks."""
    before = time.time() - 100
    for path in paths:
        for entry in [path, *path.rglob("*")] if path.is_dir() else [path]:
            os.utime(entry, (before, before))


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The readers that ran."""
    from detrkit.data import coco, voc, yolo

    done: list[str] = []

    def watch(module: object, name: str) -> None:
        original = getattr(module, name)

        def recorded(*args: object, **options: object) -> object:
            done.append(name)
            return original(*args, **options)

        monkeypatch.setattr(module, name, recorded)

    watch(coco, "read_coco")
    watch(coco, "read_categories")
    watch(voc, "read_voc")
    watch(yolo, "read_yolo")
    return done


def coco(make_coco: CocoMaker) -> Path:
    images = [{"id": i, "file_name": f"{i}.png", "height": 40, "width": 60} for i in range(3)]
    path = make_coco([box(1, image=0), box(2, image=1), box(3, bbox=[0, 0, 0, 0])], images)
    age(path, path.parents[1] / "images")
    return path


def test_what_was_read_once_is_mapped(
    make_coco: CocoMaker, reads: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    path = coco(make_coco)
    first = open_dataset(path)
    assert reads == ["read_coco"]
    warned = caplog.text
    assert "annotation 3" in warned
    caplog.clear()
    again = open_dataset(path)
    assert len(reads) == 1
    assert caplog.text == warned
    assert columns(first) == columns(again)
    assert is_mapped(first)
    assert is_mapped(again)


def test_splits_share_their_classes(make_coco: CocoMaker, reads: list[str]) -> None:
    path = coco(make_coco)
    make_coco([box(1, category=7)], None, [{"id": 7, "name": "ant"}], split="val")
    age(path.parents[1])
    first = open_splits(path.parents[1])
    assert sorted(reads) == ["read_categories"] * 2 + ["read_coco"] * 2
    assert first["val"].class_map.names == ("cat", "dog", "ant")
    again = open_splits(path.parents[1])
    assert len(reads) == 4
    assert {k: columns(v) for k, v in again.items()} == {k: columns(v) for k, v in first.items()}


def test_small_sets_are_not_kept(
    make_coco: CocoMaker, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(index_cache, "WORTH_SECONDS", 60)
    assert not is_mapped(open_dataset(coco(make_coco)))
    assert not cache.exists()


def rewrite(path: Path) -> None:
    """Another file of the same size."""
    text = path.read_text(encoding="utf-8")
    path.write_text(text.replace("[10, 5, 20, 15]", "[11, 5, 20, 15]"), encoding="utf-8")


def new_image(path: Path) -> None:
    save_image(path.parents[1] / "images/train/2.jpg")


def lost_image(path: Path) -> None:
    (path.parents[1] / "images/train/0.png").unlink()


def new_folder_of_images(path: Path) -> None:
    save_image(path.parent / "images/train/0.png")


@pytest.mark.parametrize("change", [rewrite, new_image, lost_image, new_folder_of_images])
def test_what_has_changed_is_read_again(
    make_coco: CocoMaker, reads: list[str], cache: Path, change: Callable[[Path], None]
) -> None:
    path = coco(make_coco)
    open_coco(path)
    change(path)
    age(path)
    open_coco(path)
    assert reads == ["read_coco", "read_coco"]
    open_coco(path)
    assert len(reads) == 2
    assert len(list(cache.iterdir())) == 1


def test_a_time_alone_is_no_change(make_coco: CocoMaker, reads: list[str]) -> None:
    path = coco(make_coco)
    open_coco(path)
    for _ in range(3):  # copied, checked out, touched
        os.utime(path)
        os.utime(path.parents[1] / "images/train")
        open_coco(path)
    assert len(reads) == 1


def test_written_twice_within_a_tick(make_coco: CocoMaker, reads: list[str]) -> None:
    path = coco(make_coco)
    os.utime(path)
    status = path.stat()
    first = open_coco(path)
    rewrite(path)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert open_coco(path).boxes_xyxy[0, 0] == first.boxes_xyxy[0, 0] + 1
    assert len(reads) == 2


def test_settings_have_entries_of_their_own(make_coco: CocoMaker, reads: list[str]) -> None:
    path = coco(make_coco)
    classes = open_coco(path).class_map
    open_coco(path, class_map=classes)
    open_coco(path, check_images="none")
    open_coco(path, path.parents[1] / "images/train")
    CocoDetection(str(path.parents[1] / "images"), str(path)).index  # noqa: B018
    assert len(reads) == 5
    open_coco(path)
    open_coco(path, class_map=classes)
    open_coco(path, check_images="none")
    open_coco(path, path.parents[1] / "images/train")
    CocoDetection(str(path.parents[1] / "images"), str(path)).index  # noqa: B018
    assert len(reads) == 5


def test_relative_paths_belong_to_their_folder(
    make_coco: CocoMaker, reads: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = coco(make_coco)
    for place, given in ((path.parent, path.name), (path.parents[1], f"annotations/{path.name}")):
        monkeypatch.chdir(place)
        index = open_coco(given)
        assert index.source == given
        assert open_coco(given).source == given
    assert len(reads) == 2


def test_a_file_that_changes_while_it_is_read_is_not_kept(
    make_coco: CocoMaker, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = coco(make_coco)

    def read(sources: Sources) -> int:
        sources.add_file(path)
        path.write_text("other", encoding="utf-8")
        return 1

    assert cached_value({"path": str(path)}, read) == 1
    assert not cache.exists()


@pytest.mark.parametrize("damage", ["labels.npy", "index.json", "entry.json"])
def test_damaged_entries_are_replaced(
    make_coco: CocoMaker, reads: list[str], cache: Path, damage: str
) -> None:
    path = coco(make_coco)
    first = columns(open_coco(path))
    (file,) = cache.rglob(damage)
    file.write_bytes(file.read_bytes()[:40])
    assert columns(open_coco(path)) == first
    assert len(reads) == 2
    assert len(list(cache.iterdir())) == 1


@pytest.mark.parametrize("reason", ["full", "a file in the way"])
def test_a_disk_that_takes_nothing_costs_only_the_cache(
    make_coco: CocoMaker,
    cache: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    reason: str,
) -> None:
    def full(*args: object, **options: object) -> None:
        raise OSError(28, "No space left on device")

    if reason == "full":
        monkeypatch.setattr(np, "save", full)
    else:
        cache.parent.write_text("not a folder")
    path = coco(make_coco)
    with caplog.at_level(logging.INFO, "detrkit"):
        index = open_coco(path)
    assert index.num_boxes == 2
    assert sum("is not kept" in r.getMessage() for r in caplog.records) == 1
    assert not cache.is_dir() or not list(cache.iterdir())


def test_the_oldest_go_first(
    make_coco: CocoMaker, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = coco(make_coco)
    kinds = ("none", "all", "sample")
    for number, kind in enumerate(kinds):
        open_coco(path, check_images=kind)  # type: ignore[arg-type]
        newest = max(cache.iterdir(), key=lambda e: (e / "entry.json").stat().st_mtime)
        os.utime(newest / "entry.json", (number, number))
    open_coco(path, check_images="none")  # used again, so the second is now the oldest
    size = sum(f.stat().st_size for f in next(cache.iterdir()).rglob("*"))
    monkeypatch.setattr(index_cache, "LIMIT", 3 * size + size // 2)
    killed = cache / ".draft-of-a-killed-process"
    killed.mkdir()
    os.utime(killed, (0, 0))
    open_coco(path, check_images="auto")
    assert not killed.exists()
    keys = [json.loads((e / "entry.json").read_text()) for e in cache.iterdir()]
    assert len(keys) == 3
    before = {e.name for e in cache.iterdir()}
    open_coco(path, check_images="none")
    open_coco(path, check_images="sample")
    assert {e.name for e in cache.iterdir()} == before


def open_in_process(path: str, results: object) -> None:
    index_cache.WORTH_SECONDS = 0
    for _ in range(3):
        results.put(columns(open_coco(path)))  # type: ignore[attr-defined]


def test_processes_at_once(make_coco: CocoMaker, cache: Path) -> None:
    path = str(coco(make_coco))
    methods = get_context("fork" if hasattr(os, "fork") else "spawn")
    results = methods.Queue()
    processes = [methods.Process(target=open_in_process, args=(path, results)) for _ in range(3)]
    for process in processes:
        process.start()
    found = [results.get(timeout=120) for _ in range(9)]
    for process in processes:
        process.join()
        assert process.exitcode == 0
    expected = columns(open_coco(path))
    assert all(f == expected for f in found)
    assert not list(cache.glob(".*"))


def yolo(root: Path) -> Path:
    for name in ("train/a", "val/b"):
        save_image(root / "images" / f"{name}.png")
        label = root / "labels" / f"{name}.txt"
        label.parent.mkdir(parents=True, exist_ok=True)
        label.write_text("0 0.5 0.5 0.5 0.25\n")
    (root / "data.yaml").write_text("train: images/train\nval: images/val\nnames: [ace]\n")
    return root / "labels/train/a.txt"


def voc(root: Path) -> Path:
    (root / "Annotations").mkdir(parents=True)
    for name in "ab":
        save_image(root / "JPEGImages" / f"{name}.jpg")
        text = annotation(OBJECT.format("cat", 10, 5, 30, 20), filename=f"{name}.jpg")
        (root / "Annotations" / f"{name}.xml").write_text(text)
    return root / "Annotations/a.xml"


@pytest.mark.parametrize(
    ("make", "old", "new", "count"),
    [(yolo, "0.5 0.25", "0.5 0.35", 2), (voc, "<xmax>30", "<xmax>31", 1)],
)
def test_other_formats(
    tmp_path: Path,
    reads: list[str],
    make: Callable[[Path], Path],
    old: str,
    new: str,
    count: int,
) -> None:
    root = tmp_path / "set"
    label = make(root)
    age(root)
    first = {k: columns(v) for k, v in open_splits(root).items()}
    assert {k: columns(v) for k, v in open_splits(root).items()} == first
    assert all(map(is_mapped, open_splits(root).values()))
    assert len(reads) == count
    text = label.read_text()
    label.write_text(text.replace(old, new))
    age(label)
    assert {k: columns(v) for k, v in open_splits(root).items()} != first
    assert len(reads) == count + 1


def test_an_image_that_is_replaced_moves_fractions(tmp_path: Path) -> None:
    root = tmp_path / "set"
    yolo(root)
    age(root)
    before = open_dataset(root, "train").boxes_xyxy
    save_image(root / "images/train/a.png", (80, 60))
    after = open_dataset(root, "train").boxes_xyxy
    np.testing.assert_allclose(after, before * [1, 2, 1, 2])


def test_voc_names_with_points(tmp_path: Path) -> None:
    root = tmp_path / "set"
    voc(root)
    (root / "Annotations/a.xml").rename(root / "Annotations/frame.07.xml")
    (root / "JPEGImages/a.jpg").rename(root / "JPEGImages/frame.07.jpg")
    index = open_dataset(root)
    assert [Path(p).name for p in index.paths] == ["b.jpg", "frame.07.jpg"]
    assert index.num_boxes == 2


def test_what_can_be_read_may_change(
    make_coco: CocoMaker, reads: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A larger limit, or a package that reads more kinds of files: nothing stays skipped."""
    images = [{"id": 1, "file_name": "small.png"}, {"id": 2, "file_name": "large.png"}]
    file = make_coco([box(1)], images, files=False)
    save_image(file.parent.parent / "images" / "train" / "small.png")
    save_image(file.parent.parent / "images" / "train" / "large.png", size=(80, 90))
    age(file.parent.parent)
    monkeypatch.setenv("DETRKIT_MAX_PIXELS", "3000")
    assert len(open_coco(file)) == len(open_coco(file)) == 1
    assert len(reads) == 1
    monkeypatch.delenv("DETRKIT_MAX_PIXELS")
    assert len(open_coco(file)) == 2
    assert len(reads) == 2
