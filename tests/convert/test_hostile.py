"""Faulty data sets: never a traceback, the same boxes before and after, and counts that add up."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from detrkit.convert.operations import Source, Target, convert_to_coco, convert_to_voc
from detrkit.convert.placing import Place
from detrkit.data import open_splits
from detrkit.data.faults import FaultKind, Policy
from tests.convert.compare import assert_same_splits
from tests.convert.sets import write_image
from tests.data.conftest import box
from tests.data.test_voc import OBJECT, annotation

#: Faults that are about single boxes, of which one stands for each.
BOX_FAULTS = {
    FaultKind.UNKNOWN_KEY,
    FaultKind.WRONG_TYPE,
    FaultKind.UNKNOWN_IMAGE,
    FaultKind.UNKNOWN_CLASS,
    FaultKind.NOT_FINITE,
    FaultKind.SKIPPED_WITH_IMAGE,
}


def check(root: Path, boxes: int, images: int = 0) -> None:
    """Converts to COCO and VOC.

    Args:
        root: a data set in a single split.
        boxes: how many the files list, good or bad.
        images: how many entries of images are of the wrong type.
    """
    for name, convert in (("coco", convert_to_coco), ("voc", convert_to_voc)):
        out = root.parent / f"{root.name}-{name}"
        summary = convert(Source(root), Target(out, Place.copy))
        counts = summary.faults.counts
        written = sum(split.boxes for split in summary.splits.values())
        left_out = sum(n for kind, n in counts.items() if kind in BOX_FAULTS)
        assert written + left_out - images == boxes, counts
        assert_same_splits(root, out)
        # what was left out, reading the source leaves out for the same reason
        read = open_splits(root)
        for kind in BOX_FAULTS - {FaultKind.SKIPPED_WITH_IMAGE}:
            assert counts.get(kind, 0) == sum(p.faults.counts.get(kind, 0) for p in read.values())
        # and reading the result meets no fault of its structure
        for part in open_splits(out).values():
            assert not any(
                kind in BOX_FAULTS or kind.policy is Policy.STOP for kind in part.faults.counts
            )


YOLO_LINES = [
    "0 0.5 0.5 0.2 0.2",
    "1 0.5 0.5 0 0.25",
    "1 0.5 0.5 -0.5 0.25",
    "1 nan 0.5 0.5 0.25",
    "1 1e999 0.5 0.5 0.25",
    "1 2.5 0.5 0.5 0.25",
    "7 0.5 0.5 0.5 0.25",
    "1.5 0.5 0.5 0.5 0.25",
    "1 0.5 0.5",
    "king 0.5 0.5 0.5 0.25",
    "0 0.0 0.5 0.5 0.5",
    "0 0.5 0.25 0.75 0.5 0.25 0.75",
    "0 0.5 0.25 0.75 nan 0.25 0.75",
    "0 -0.5 0.25 1.75 0.5 0.25 0.75 0.1 0.1",
]


def test_yolo(tmp_path: Path) -> None:
    root = tmp_path / "set"
    for name in ("a", "b", "c"):
        write_image(root / f"images/train/{name}.jpg", (40, 60))
    (root / "images/train/bad.jpg").write_bytes(b"no picture")
    labels = root / "labels/train"
    labels.mkdir(parents=True)
    (labels / "a.txt").write_text("\n".join(YOLO_LINES) + "\n\n  \n")
    (labels / "b.txt").write_bytes(b"\xff\xff\x00\x81")
    (labels / "bad.txt").write_text("0 0.5 0.5 0.2 0.2\n" * 2)
    (labels / "stray.txt").write_text("0 0.5 0.5 0.2 0.2\n")
    (root / "data.yaml").write_text("train: images/train\nnames: [ace, king]\n")
    check(root, len(YOLO_LINES) + 2)


def test_voc(tmp_path: Path) -> None:
    items = [
        OBJECT.format("cat", 10, 5, 30, 20),
        OBJECT.format("cat", 30, 5, 30, 20),
        OBJECT.format("cat", 30, 5, 10, 20),
        OBJECT.format("cat", "nan", 5, 30, 20),
        OBJECT.format("cat", "inf", 5, 30, 20),
        OBJECT.format("cat", 70, 5, 90, 20),
        OBJECT.format("cat", -20, 5, 30, 80),
        OBJECT.format("cat", "left", 5, 30, 20),
        OBJECT.format("cat", "1e300", "-1e300", "1e308", "1e308"),
        "<object><name>cat</name></object>",
        OBJECT.format("", 10, 5, 30, 20),
        OBJECT.replace("xmax", "xmx").format("cat", 10, 5, 30, 20),
        "<object/>",
    ]
    root = tmp_path / "set"
    (root / "Annotations").mkdir(parents=True)
    texts = {
        "a": annotation(*items),
        "b": "not xml",
        "c": annotation(OBJECT.format("dog", 1, 1, 9, 9), filename="c.tif", size=(0, 0)),
        "d": annotation(OBJECT.format("dog", 1, 1, 9, 9), filename="", size=(20, 30)),
        "gone": annotation(OBJECT.format("dog", 1, 1, 9, 9), filename="gone.jpg", size=(0, 0)),
        "bad": annotation(OBJECT.format("dog", 1, 1, 9, 9), filename="bad.jpg", size=(0, 0)),
    }
    for name, text in texts.items():
        (root / "Annotations" / f"{name}.xml").write_text(text)
        if name != "gone":
            write_image(root / f"JPEGImages/{name}.jpg", (40, 60))
    (root / "JPEGImages/bad.jpg").write_bytes(b"")
    lists = root / "ImageSets/Main"
    lists.mkdir(parents=True)
    (lists / "train.txt").write_text("a\nb\nc  1\nd\na\nno such\ngone\nbad\n\nz -1\n")
    check(root, len(items) + 4)


def test_coco(tmp_path: Path) -> None:
    entries: list[Any] = [
        box(1),
        "text",
        {},
        box(2, image=77),
        box(3, category=77),
        box(4, bbox=[1, 2, 3]),
        box(5, bbox=[float("nan"), 2, 3, 3]),
        box(6, bbox=["10", "5", "7", "7"]),
        box(7, bbox=[10, 5, 0, 15]),
        box(8, bbox=[80, 5, 20, 15]),
        box(9, bbox=[-10, 30, 30, 30]),
        box(9, category=2, area=None, iscrowd=None),
        box("10", image="1", area="12"),
        box(11, bbox=[10**400, 5, 20, 15]),
        box(12, image=2),
    ]
    images: list[Any] = [
        {"id": 1, "file_name": "a.jpg", "height": 40, "width": 60},
        {"id": 1, "file_name": "a.jpg", "height": 40, "width": 60},
        {"id": 2, "file_name": "b.jpg", "height": 80, "width": 120},
        {"id": 3, "file_name": "c.jpg"},
        {"id": 4, "file_name": "d.jpg", "height": "40", "width": float("nan")},
        {"file_name": "e.jpg"},
        "text",
    ]
    root = tmp_path / "set"
    for name in "abcd":
        write_image(root / f"images/train/{name}.jpg", (40, 60))
    categories = [{"id": 1, "name": "cat"}, {"id": 2}]
    content = {"images": images, "annotations": entries, "categories": categories}
    (root / "annotations").mkdir()
    (root / "annotations/instances_train.json").write_text(json.dumps(content))
    check(root, len(entries), images=2)


@pytest.mark.parametrize("height", [None, 0, -3, "x", float("inf"), 10**30, 40.0])
def test_sizes_of_any_kind(tmp_path: Path, height: Any) -> None:
    image = {"id": 1, "file_name": "a.jpg", "height": height, "width": 60}
    root = tmp_path / "set"
    write_image(root / "images/train/a.jpg", (40, 60))
    content = {"images": [image], "annotations": [box(1)], "categories": [{"id": 1}]}
    (root / "annotations").mkdir()
    (root / "annotations/instances_train.json").write_text(json.dumps(content))
    check(root, 1)
