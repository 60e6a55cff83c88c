"""The recipe for Objects365, with what it must survive. All numbers follow from the authors'
scripts: which images move, how sizes are rounded, how boxes and areas are scaled."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from detrkit.convert.objects365 import Recipe, convert
from detrkit.convert.placing import Place
from detrkit.convert.resizing import Job, Resizing, resize_all
from detrkit.data import open_splits
from detrkit.data.faults import FaultKind
from detrkit.errors import DataError, DetrkitError, Interrupted, UsageError
from tests.convert.sets import read_coco_files
from tests.data.conftest import save_image

#: (h, w) of the pictures, and of those that are made with 64 for the longer side.
SIZES = {(48, 60): (48, 60), (100, 133): (48, 64), (130, 64): (64, 31), (64, 64): (64, 64)}


def write_set(root: Path, split: str, count: int, first_image: int, first_box: int) -> None:
    images, annotations = [], []
    for number in range(count):
        h, w = list(SIZES)[number % len(SIZES)]
        version = f"v{1 + number % 2}"
        name = f"images/{version}/patch{number}/objects365_{first_image + number:04d}.jpg"
        save_image(root / split / name, (h, w), seed=number)
        image_id = first_image + number
        images.append({"id": image_id, "file_name": name, "height": h, "width": w, "license": 2})
        annotations.append(
            {
                "id": first_box + number,
                "image_id": image_id,
                "category_id": 1 + number % 2,
                "bbox": [1.5, 2, 20.25, 30],
                "area": 500.0,
                "iscrowd": 0,
                "isfake": 1,
            }
        )
    content = {
        "images": images,
        "annotations": annotations,
        "categories": [{"id": 1, "name": "Person"}, {"id": 2, "name": "Sneakers"}],
        "licenses": [{"id": 2, "name": "free"}],
    }
    (root / split / f"zhiyuan_objv2_{split}.json").write_text(json.dumps(content))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Six pictures for training and five for validation, as they are downloaded."""
    write_set(tmp_path / "src", "train", 6, first_image=100, first_box=1)
    write_set(tmp_path / "src", "val", 5, first_image=500, first_box=1000)
    return tmp_path / "src"


def recipe(**changes: Any) -> Recipe:
    resizing = Resizing(changes.pop("longest", 64), 75, changes.pop("place", Place.link))
    return Recipe(changes.pop("val_images", 2), resizing, changes.pop("workers", 0))


def test_the_recipe(root: Path) -> None:
    out = root.parent / "out"
    seen: list[tuple[int, int]] = []
    summary = convert(root, out, recipe(), progress=lambda *now: seen.append(now))
    assert seen == [(n, 11) for n in range(1, 12)]
    assert not summary.faults.counts
    files = read_coco_files(out)
    val, train = files["val"], files["train"]
    assert [i["id"] for i in val["images"]] == [500, 501]
    assert {i["id"] for i in train["images"]} == {*range(100, 106), 502, 503, 504}
    moved = [i for i in train["images"] if i["id"] >= 500]
    assert [i["file_name"].split("/")[:2] for i in moved] == [
        ["images_from_val", "v1"],
        ["images_from_val", "v2"],
        ["images_from_val", "v1"],
    ]
    assert train["licenses"] == [{"id": 2, "name": "free"}]
    for split, content in files.items():
        boxes = {a["image_id"]: a for a in content["annotations"]}
        for image in content["images"]:
            source = list(SIZES)[(image["id"] % 100) % len(SIZES)]
            assert (image["height"], image["width"]) == SIZES[source]
            with Image.open(out / split / image["file_name"]) as written:
                assert written.size == SIZES[source][::-1]
            scale = min(1, 64 / max(source))
            annotation = boxes[image["id"]]
            np.testing.assert_allclose(annotation["bbox"], np.array([1.5, 2, 20.25, 30]) * scale)
            assert annotation["area"] == pytest.approx(500 * scale**2)
            assert annotation["isfake"] == 1
    parts = open_splits(out)
    assert {name: (len(p), p.num_boxes) for name, p in parts.items()} == {
        "train": (9, 9),
        "val": (2, 2),
    }
    assert not any(part.faults.counts for part in parts.values())


def test_pixels_are_those_of_the_usual_resize(root: Path) -> None:
    out = root.parent / "out"
    convert(root, out, recipe())
    name = "images/v2/patch1/objects365_0101.jpg"
    with Image.open(root / "train" / name) as image:
        image.resize((64, 48), Image.Resampling.LANCZOS).save(root / "expected.jpg")
    assert (out / "train" / name).read_bytes() == (root / "expected.jpg").read_bytes()
    small = "images/v1/patch0/objects365_0100.jpg"
    assert os.path.samefile(out / "train" / small, root / "train" / small)


def test_images_that_cannot_be_read_go_with_their_boxes(root: Path) -> None:
    names = [f"images/v2/patch{n}/objects365_010{n}.jpg" for n in (1, 3, 5)]
    (root / "train" / names[0]).write_bytes(b"no picture")
    (root / "train" / names[1]).unlink()
    whole = (root / "train" / names[2]).read_bytes()
    (root / "train" / names[2]).write_bytes(whole[: len(whole) // 2])
    out = root.parent / "out"
    summary = convert(root, out, recipe())
    assert summary.faults.counts == {
        FaultKind.CORRUPT_IMAGE: 2,
        FaultKind.MISSING_IMAGE: 1,
        FaultKind.SKIPPED_WITH_IMAGE: 3,
    }
    train = read_coco_files(out)["train"]
    assert not {101, 103, 105} & {i["id"] for i in train["images"]}
    assert len(train["annotations"]) == len(train["images"]) == 6
    assert not (out / "train" / names[2]).exists()


def test_ids_that_both_parts_use(root: Path) -> None:
    write_set(root, "val", 5, first_image=98, first_box=1)
    out = root.parent / "out"
    convert(root, out, recipe())
    train = read_coco_files(out)["train"]
    ids = [i["id"] for i in train["images"]]
    assert len(set(ids)) == len(ids) == 9
    assert len({a["id"] for a in train["annotations"]}) == 9
    parts = open_splits(out)
    assert (np.diff(parts["train"].offsets) == 1).all()


def test_complete_images_are_not_made_again(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = root.parent / "out"
    first = convert(root, out, recipe())
    big = out / "train/images/v2/patch1/objects365_0101.jpg"
    small = out / "train/images/v1/patch0/objects365_0100.jpg"
    cut = out / "train/images/v2/patch5/objects365_0105.jpg"
    content = cut.read_bytes()
    cut.write_bytes(content[:-2])
    before = [file.stat().st_mtime_ns for file in (big, small)]
    second = convert(root, out, recipe(), force=True)
    assert [file.stat().st_mtime_ns for file in (big, small)] == before
    assert cut.read_bytes() == content
    assert second.splits == first.splits
    # made for another size, it does not count as done
    convert(root, out, recipe(longest=32), force=True)
    with Image.open(big) as image:
        assert image.size == (32, 24)


def test_an_interruption_keeps_what_is_done(root: Path) -> None:
    out = root.parent / "out"

    def stop(done: int, total: int) -> None:
        if done == 4:
            raise KeyboardInterrupt

    with pytest.raises(Interrupted, match="after 4 of 11") as caught:
        convert(root, out, recipe(), progress=stop)
    assert "goes on" in (caught.value.hint or "")
    assert sum(1 for f in out.rglob("*.jpg")) == 4
    assert not list(out.rglob("*.json"))
    assert not [f for f in out.rglob(".*")]
    convert(root, out, recipe())
    assert len(open_splits(out)["train"]) == 9


@pytest.mark.skipif(sys.platform == "win32", reason="kills a process")
def test_killed_at_any_moment(root: Path) -> None:
    """SIGKILL in the middle: no half image has a name, and the next run completes the set."""
    out = root.parent / "out"
    script = f"""
import os, signal
from pathlib import Path
from detrkit.convert import resizing
from detrkit.convert.objects365 import Recipe, convert
from detrkit.convert.resizing import Place, Resizing
count = 0
original = os.replace
def replace(*paths):
    global count
    count += 1
    if count == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    original(*paths)
os.replace = replace
recipe = Recipe(2, Resizing(64, 75, Place.link), workers=0)
convert(Path({str(root)!r}), Path({str(out)!r}), recipe)
"""
    result = subprocess.run([sys.executable, "-c", script], check=False, capture_output=True)
    assert result.returncode == -9, result.stderr.decode()[-500:]
    named = [f for f in out.rglob("*.jpg") if not f.name.startswith(".")]
    assert len(named) == 2
    for file in named:
        with Image.open(file) as image:
            image.load()
    convert(root, out, recipe())
    assert len(open_splits(out)["train"]) == 9


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks into Linux's /proc")
def test_workers_end_with_the_process_that_started_them(root: Path) -> None:
    script = f"""
if __name__ == "__main__":
    import multiprocessing, os, signal
    from pathlib import Path
    from detrkit.convert.objects365 import Recipe, convert
    from detrkit.convert.resizing import Place, Resizing

    def stop(done, total):
        print(*[process.pid for process in multiprocessing.active_children()], flush=True)
        os.kill(os.getpid(), signal.SIGKILL)

    recipe = Recipe(2, Resizing(64, 75, Place.link), workers=2)
    convert(Path({str(root)!r}), Path({str(root.parent / "out")!r}), recipe, progress=stop)
"""
    file = root / "run.py"
    file.write_text(script)
    with (root / "pids").open("w") as output:
        subprocess.run([sys.executable, file], check=False, stdout=output)
    pids = (root / "pids").read_text().split()
    assert pids

    def running(pid: str) -> bool:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            return False
        return state != "Z"

    deadline = time.monotonic() + 30
    while any(map(running, pids)) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not [pid for pid in pids if running(pid)]


def test_processes_give_the_same(root: Path) -> None:
    outs = [root.parent / name for name in ("one", "two")]
    for out, workers in zip(outs, (0, 2), strict=True):
        convert(root, out, recipe(workers=workers))
    contents = [
        {f.relative_to(out): f.read_bytes() for f in out.rglob("*") if f.is_file()} for out in outs
    ]
    assert contents[0] == contents[1]


def test_a_full_disk_is_no_bad_image(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(DetrkitError, match="no space left"):
        convert(root, root.parent / "out", recipe())


@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK", "P", "RGBA"])
def test_images_of_any_mode(tmp_path: Path, mode: str) -> None:
    source = tmp_path / ("a.png" if mode in ("P", "RGBA") else "a.jpg")
    Image.new(mode, (100, 50)).save(source)
    [outcome] = resize_all(
        [Job(str(source), str(tmp_path / "out" / source.name))], recipe().resizing, workers=0
    )
    assert (outcome.error, outcome.new_size) == ("", (32, 64))


def test_nothing_is_made_smaller(root: Path) -> None:
    out = root.parent / "out"
    summary = convert(root, out, recipe(longest=0, place=Place.symlink))
    assert all((out / "train" / n).is_symlink() for n in ("images/v2/patch1/objects365_0101.jpg",))
    assert summary.notes[0].startswith("0 of 9")


@pytest.mark.parametrize("unpacked", ["train/v1", "train/images", "images/train"])
def test_other_ways_to_unpack(root: Path, unpacked: str) -> None:
    for split in ("train", "val"):
        source = root / split / "images"
        if unpacked == "train/v1":
            for folder in source.iterdir():
                folder.rename(root / split / folder.name)
        elif unpacked == "images/train":
            (root / "images").mkdir(exist_ok=True)
            source.rename(root / "images" / split)
    convert(root, root.parent / "out", recipe())
    assert len(open_splits(root.parent / "out")["train"]) == 9


def test_what_stops(root: Path) -> None:
    out = root.parent / "out"
    with pytest.raises(UsageError, match="folder of its own"):
        convert(root, root, recipe())
    with pytest.raises(UsageError, match="has 5 images"):
        convert(root, out, recipe(val_images=6))
    convert(root, out, recipe())
    with pytest.raises(UsageError, match="already holds") as caught:
        convert(root, out, recipe())
    assert "--force" in (caught.value.hint or "")
    for file in (root / "val").rglob("*.jpg"):
        file.unlink()
    with pytest.raises(DataError, match="the images are not there"):
        convert(root, root.parent / "other", recipe())
    (root / "val/zhiyuan_objv2_val.json").unlink()
    with pytest.raises(DataError, match=r"no val/zhiyuan_objv2_val\.json"):
        convert(root, root.parent / "other", recipe())
