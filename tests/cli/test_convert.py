"""`detrkit convert` from end to end: what it prints, writes and refuses."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from detrkit.data import open_dataset, open_splits
from tests.cli.conftest import Run
from tests.convert.sets import read_coco_files, write_coco_set, write_image
from tests.convert.test_crowdhuman import person, write_lines
from tests.data.conftest import box


def coco(count: int, first: int, crowds: bool = False) -> dict[str, Any]:
    """Pictures with a cat each, every third with a dog, the last with nothing."""
    images = [
        {"id": i, "file_name": f"clip{i // 4} {i}.png", "height": 40, "width": 60}
        for i in range(first, first + count)
    ]
    annotations = []
    for image in images[:-1]:
        annotations.append(box(len(annotations) + 1, image=image["id"]))
        if image["id"] % 3 == 0:
            more = {"category": 2, "bbox": [1, 2, 3, 4], "iscrowd": int(crowds)}
            annotations.append(box(len(annotations) + 1, image=image["id"], **more))
    categories = [{"id": 1, "name": "cat"}, {"id": 2, "name": "狗 [dog]"}]
    return {"images": images, "annotations": annotations, "categories": categories}


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """12 pictures for training, 4 for validation."""
    return write_coco_set(tmp_path / "src", {"train": coco(12, 0), "val": coco(4, 100)})


def content(run: Run, *args: object) -> dict[str, Any]:
    """What `--json` says."""
    result = run("convert", *args, "--json")
    assert result.code == 0, result.err
    found: dict[str, Any] = json.loads(result.out)
    assert found["kind"] == "convert"
    return found


@pytest.mark.parametrize("form", ["to-coco", "to-yolo", "to-voc"])
def test_there_is_a_table_and_a_next_command(run: Run, source: Path, form: str) -> None:
    out = source.parent / "my out"
    result = run("convert", form, source, "-o", out)
    assert result.code == 0, result.err
    lines = [line.split() for line in result.out.splitlines()]
    assert ["train", "val"] in lines
    assert ["images", "12", "4"] in lines
    assert ["without", "boxes", "1", "1"] in lines
    assert ["狗", "[dog]", "4", "1"] in lines
    assert f"{form[3:].upper()} written to {out}" in result.out
    assert f'next: detrkit train CFG --data "{out}"' in result.out
    assert [len(part) for part in open_splits(out).values()] == [12, 4]


@pytest.mark.parametrize("form", ["to-coco", "to-yolo", "to-voc"])
def test_a_result_is_not_overwritten(run: Run, source: Path, form: str) -> None:
    out = source.parent / "out"
    assert run("convert", form, source, "-o", out).code == 0
    result = run("convert", form, source, "-o", out)
    assert result.code == 2
    assert "already holds" in result.err
    assert "--force" in result.err
    found = content(run, form, source, "-o", out, "--ratios", "3,1", "--force")
    assert {k: v["images"] for k, v in found["splits"].items()} == {"train": 12, "val": 4}
    # a split of the former result does not stay beside the new ones
    found = content(run, form, source, "-o", out, "--ratios", "train=1", "--force")
    assert list(found["splits"]) == ["train"]
    assert list(open_splits(out)) == ["train"]


def test_json_says_what_was_done(run: Run, source: Path) -> None:
    found = content(run, "to-yolo", source, "-o", source.parent / "out")
    assert (found["format"], found["classes"]) == ("YOLO", ["cat", "狗 [dog]"])
    assert found["splits"]["train"] == {
        "images": 12,
        "images_without_boxes": 1,
        "boxes": 15,
        "per_class": {"cat": 11, "狗 [dog]": 4},
    }
    assert found["report"] == {"counts": {}, "faults": []}


def test_yolo_as_it_is_written(run: Run, source: Path) -> None:
    out = source.parent / "out"
    content(run, "to-yolo", source, "-o", out)
    described = yaml.safe_load((out / "data.yaml").read_text(encoding="utf-8"))
    assert described == {
        "train": "images/train",
        "val": "images/val",
        "nc": 2,
        "names": {0: "cat", 1: "狗 [dog]"},
    }
    label = (out / "labels/train/clip0 0.txt").read_text()
    assert label == "0 0.333333 0.3125 0.333333 0.375\n1 0.041667 0.1 0.05 0.1\n"
    assert (out / "labels/train/clip2 11.txt").read_text() == ""


@pytest.mark.parametrize("form", ["to-yolo", "to-voc"])
def test_crowd_regions_are_left_out_and_counted(run: Run, tmp_path: Path, form: str) -> None:
    source = write_coco_set(tmp_path / "src", {"train": coco(12, 0, crowds=True)})
    found = content(run, form, source, "-o", tmp_path / "out")
    assert found["report"]["counts"]["crowd_region"] == 4
    assert found["splits"]["train"]["boxes"] == 11
    result = run("convert", form, source, "-o", tmp_path / "shown")
    assert "crowd region, which the format cannot mark, left out" in result.out
    found = content(run, form, source, "-o", tmp_path / "kept", "--keep-crowds")
    assert found["splits"]["train"]["boxes"] == 15


def test_division(run: Run, source: Path) -> None:
    out = source.parent / "out"
    options = ("--ratios", "0.5,0.25,0.25", "--seed", "3", "--stratify")
    found = content(run, "to-coco", source, "-o", out, *options)
    assert {k: v["images"] for k, v in found["splits"].items()} == {
        "train": 8,
        "val": 4,
        "test": 4,
    }
    dogs = [v["per_class"]["狗 [dog]"] for v in found["splits"].values()]
    assert sum(dogs) == 5
    assert dogs[0] in (2, 3)
    parts = open_splits(out)
    ids = [set(part.image_ids.tolist()) for part in parts.values()]
    assert len(set.union(*ids)) == sum(map(len, ids)) == 16
    again = content(run, "split", source, "-o", source.parent / "again", *options)
    assert again["splits"] == found["splits"]


@pytest.mark.parametrize("form", ["to-coco", "to-yolo", "to-voc"])
def test_groups_stay_together(run: Run, source: Path, form: str) -> None:
    out = source.parent / "out"
    options = ("--ratios", "1,1", "--group-by", r"([^/]+) \d+")
    found = content(run, form, source, "-o", out, *options)
    assert any("4 groups of images stayed together" in note for note in found["notes"])
    clips = [{Path(p).name.split()[0] for p in part.paths} for part in open_splits(out).values()]
    assert not clips[0] & clips[1]
    assert len(clips[0] | clips[1]) == 4


@pytest.mark.parametrize("form", ["to-coco", "to-yolo", "to-voc"])
def test_images_of_several_splits_are_divided_once(run: Run, source: Path, form: str) -> None:
    """Otherwise an image could be trained on and tested with."""
    split = yaml.safe_dump({"names": ["cat", "dog"], "train": "a.txt", "val": "b.txt"})
    yolo = source.parent / "yolo"
    content(run, "to-yolo", source, "-o", yolo)
    (yolo / "data.yaml").write_text(split)
    names = [f"images/train/clip0 {n}.png" for n in range(4)]
    (yolo / "a.txt").write_text("\n".join(names))
    (yolo / "b.txt").write_text("\n".join(names[2:]))
    found = content(run, form, yolo, "-o", source.parent / "out", "--ratios", "1,1")
    assert [s["images"] for s in found["splits"].values()] == [2, 2]
    assert found["notes"] == ["2 images were in several splits, taken once"]
    parts = open_splits(source.parent / "out")
    brought = [{Path(p).name for p in part.paths} for part in parts.values()]
    assert not brought[0] & brought[1]


def test_a_single_file(run: Run, source: Path) -> None:
    one = source.parent / "one.json"
    found = content(run, "to-coco", source / "annotations/instances_val.json", "-o", one)
    assert list(found["splits"]) == ["val"]
    assert len(open_dataset(one)) == 4
    result = run("convert", "to-coco", source, "-o", source.parent / "two.json")
    assert result.code == 2
    assert "2 splits (train, val) do not fit in a file" in result.err


def test_images_come_along(run: Run, source: Path) -> None:
    out = source.parent / "out"
    content(run, "to-coco", source, "-o", out, "--place", "copy")
    assert len(list((out / "images/train").iterdir())) == 12
    names = [i["file_name"] for i in read_coco_files(out)["train"]["images"]]
    assert names[0] == "clip0 0.png"
    for file in (source / "images").rglob("*.png"):
        file.unlink()
    assert len(open_splits(out)["train"]) == 12


def test_missing_images_are_counted(run: Run, source: Path) -> None:
    (source / "images/train/clip0 0.png").unlink()
    found = content(run, "to-voc", source, "-o", source.parent / "voc")
    assert found["report"]["counts"]["missing_image"] == 1
    assert found["splits"]["train"]["images"] == 11
    # without the need to bring it, the entry stays
    found = content(run, "to-coco", source, "-o", source.parent / "coco")
    assert found["splits"]["train"]["images"] == 12


def test_categories(run: Run, source: Path) -> None:
    out = source.parent / "out"
    options = ("--merge", "animal=cat,狗 [dog]", "--first-id", 0)
    found = content(run, "categories", source, "-o", out, *options)
    assert found["classes"] == ["animal"]
    assert found["splits"]["train"]["boxes"] == 15
    assert read_coco_files(out)["val"]["categories"] == [{"id": 0, "name": "animal"}]
    result = run("convert", "categories", source, "-o", source.parent / "x", "--drop", "cta")
    assert result.code == 2
    assert "there is no class `cta`, did you mean `cat`?" in result.err
    options = ("--keep", "狗 [dog]", "--drop-empty")
    found = content(run, "categories", source, "-o", source.parent / "dogs", *options)
    assert {k: v["images"] for k, v in found["splits"].items()} == {"train": 5, "val": 2}


def test_merging(run: Run, source: Path, tmp_path: Path) -> None:
    yolo = tmp_path / "yolo"
    content(run, "to-yolo", source, "-o", yolo, "--place", "copy")
    found = content(run, "merge", source, yolo, "-o", tmp_path / "both")
    assert found["classes"] == ["cat", "狗 [dog]"]
    assert {k: (v["images"], v["boxes"]) for k, v in found["splits"].items()} == {
        "train": (24, 30),
        "val": (8, 8),
    }
    assert len(open_splits(tmp_path / "both")["train"]) == 24


def test_samples(run: Run, source: Path, tmp_path: Path) -> None:
    def images(name: str, *options: object) -> dict[str, int]:
        found = content(run, "sample", source, "-o", tmp_path / name, *options)
        return {k: v["images"] for k, v in found["splits"].items()}

    assert images("a", "-n", 3) == {"train": 3, "val": 3}
    assert images("b", "--fraction", 0.5, "--stratify") == {"train": 6, "val": 2}
    assert images("c", "--per-class", 1) == {"train": 1, "val": 1}
    for wrong in ((), ("-n", 3, "--fraction", 1), ("-n", 13), ("--fraction", 1.5)):
        assert run("convert", "sample", source, "-o", tmp_path / "d", *wrong).code == 2


def test_crowdhuman(run: Run, tmp_path: Path) -> None:
    write_lines(tmp_path / "annotation_val.odgt", {"ID": "a,b", "gtboxes": [person(), person()]})
    write_image(tmp_path / "pictures/a,b.jpg", (40, 60))
    out = tmp_path / "out"
    found = content(
        run, "crowdhuman", tmp_path, "-o", out, "--images", tmp_path / "pictures", "--box", "head"
    )
    assert found["splits"]["val"]["boxes"] == 2
    assert len(open_splits(out)["val"]) == 1
    also = content(run, "to-coco", tmp_path, "-o", tmp_path / "full", "--images", tmp_path)
    assert also["splits"]["val"]["boxes"] == 2
    result = run("convert", "to-yolo", tmp_path, "-o", tmp_path / "yolo")
    assert (result.code, "goes to COCO first" in result.err) == (2, True)
    assert run("convert", "crowdhuman", out, "-o", tmp_path / "x").code == 4


def test_objects365(run: Run, tmp_path: Path) -> None:
    from tests.convert.test_objects365 import write_set

    write_set(tmp_path / "src", "train", 3, first_image=1, first_box=1)
    write_set(tmp_path / "src", "val", 3, first_image=10, first_box=10)
    out = tmp_path / "out"
    options = ("--val-images", 1, "--max-side", 64, "--workers", 0)
    found = content(run, "objects365", tmp_path / "src", "-o", out, *options)
    assert {k: v["images"] for k, v in found["splits"].items()} == {"train": 5, "val": 1}
    assert len(open_splits(out)["train"]) == 5


def test_lists_of_voc(run: Run, source: Path) -> None:
    voc = source.parent / "voc"
    content(run, "to-voc", source, "-o", voc)
    (voc / "ImageSets/Main/some.txt").write_text("clip0 0\nclip0 1\n")
    out = source.parent / "some"
    found = content(run, "to-coco", voc, "-o", out, "--list", "train=some")
    assert found["splits"]["train"]["images"] == 2
    result = run("convert", "to-coco", voc, "-o", out, "--list", "train", "--force")
    assert (result.code, "write train=NAME" in result.err) == (2, True)


@pytest.mark.parametrize(
    ("args", "code", "message"),
    [
        (("to-coco", "{}/nowhere", "-o", "{}/x"), 4, "no such file or folder"),
        (("to-coco", "{}", "-o", "{}/x", "--images", "{}/nowhere"), 4, "no such folder"),
        (("to-coco", "{}", "-o", "{}/x", "--stratify"), 2, "belong to --ratios"),
        (("to-coco", "{}", "-o", "{}/x", "--ratios", "0"), 2, "cannot be used"),
        (("to-coco", "{}", "-o", "{}"), 2, "already holds"),
        (("to-coco", "{}", "-o", "{}", "--force"), 2, "would replace"),
        (("split", "{}", "-o", "{}", "--force"), 2, "would replace"),
        (
            ("to-coco", "{}/annotations/instances_val.json", "-o", "{}/x.json", "--place", "copy"),
            2,
            "needs a folder",
        ),
        (("merge", "{}", "{}/nowhere", "-o", "{}/x"), 4, "no such file or folder"),
        (("objects365", "{}", "-o", "{}/x"), 4, "zhiyuan_objv2_train.json"),
        (("to-voco", "{}"), 2, "did you mean `to-voc`"),
    ],
)
def test_errors(run: Run, source: Path, args: tuple[str, ...], code: int, message: str) -> None:
    before = sorted(source.rglob("*"))
    result = run("convert", *(arg.format(source) for arg in args))
    assert (result.code, message in result.err) == (code, True), result.err
    assert "Traceback" not in result.err
    assert sorted(source.rglob("*")) == before


@pytest.mark.skipif(sys.platform == "win32", reason="/dev/full is Linux's")
def test_an_output_that_cannot_be_written(run: Run, source: Path) -> None:
    (source / "file").write_text("")
    result = run("convert", "to-coco", source, "-o", source / "file" / "x")
    assert result.code == 1
    assert "cannot write" in result.err
