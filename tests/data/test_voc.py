from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from detrkit.data import open_dataset, open_splits
from detrkit.data.faults import FaultKind
from detrkit.errors import DataError
from tests.data.conftest import save_image

OBJECT = (
    "<object><name>{0}</name><bndbox>"
    "<xmin>{1}</xmin><ymin>{2}</ymin><xmax>{3}</xmax><ymax>{4}</ymax>"
    "</bndbox></object>"
)


def annotation(*objects: str, filename: str = "a.jpg", size: tuple[int, int] = (40, 60)) -> str:
    h, w = size
    return (
        f"<annotation><filename>{filename}</filename>"
        f"<size><width>{w}</width><height>{h}</height><depth>3</depth></size>"
        + "".join(objects)
        + "</annotation>"
    )


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Four images a to d; train a and b, val c, test d."""
    (tmp_path / "Annotations").mkdir()
    lists = tmp_path / "ImageSets" / "Main"
    lists.mkdir(parents=True)
    for name in "abcd":
        save_image(tmp_path / "JPEGImages" / f"{name}.jpg")
        text = annotation(OBJECT.format("cat", 10, 5, 30, 20), filename=f"{name}.jpg")
        (tmp_path / "Annotations" / f"{name}.xml").write_text(text)
    for split, names in {"train": "ab", "val": "c", "trainval": "abc", "test": "d"}.items():
        (lists / f"{split}.txt").write_text("\n".join(names) + "\n")
    (lists / "cat_train.txt").write_text("a  1\nb -1\n")
    return tmp_path


def train_with(root: Path, text: str):
    (root / "Annotations/a.xml").write_text(text, encoding="utf-8")
    return open_dataset(root, "train")


def test_lists_make_the_splits(root: Path) -> None:
    parts = open_splits(root)
    assert {name: len(part) for name, part in parts.items()} == {"train": 2, "val": 1, "test": 1}
    np.testing.assert_array_equal(parts["train"].boxes_xyxy[0], [10, 5, 30, 20])
    assert parts["train"].image_id(1) == "b"
    assert parts["train"].class_map.names == ("cat",)


def test_other_lists_by_name(root: Path) -> None:
    parts = open_splits(root, splits={"train": "trainval", "val": "test"})
    assert {name: len(part) for name, part in parts.items()} == {"train": 3, "val": 1, "test": 1}
    assert parts["val"].image_id(0) == "d"
    with pytest.raises(DataError, match="did you mean `trainval`"):
        open_splits(root, splits={"train": "trainvall"})


def test_all_splits_share_the_classes(root: Path) -> None:
    (root / "Annotations/d.xml").write_text(annotation(OBJECT.format("ant", 1, 1, 9, 9)))
    parts = open_splits(root)
    assert parts["train"].class_map == parts["test"].class_map
    assert parts["train"].class_map.names == ("ant", "cat")


def test_a_list_of_labels_gives_their_order(root: Path) -> None:
    (root / "labels.txt").write_text("dog\ncat\n")
    assert open_dataset(root, "train").labels.tolist() == [1, 1]


@pytest.mark.parametrize(
    ("item", "kind"),
    [
        (OBJECT.format("cat", 30, 5, 30, 20), FaultKind.EMPTY_BOX),
        (OBJECT.format("cat", 30, 5, 10, 20), FaultKind.EMPTY_BOX),
        (OBJECT.format("cat", "nan", 5, 30, 20), FaultKind.NOT_FINITE),
        (OBJECT.format("cat", 70, 5, 90, 20), FaultKind.OUTSIDE),
        (OBJECT.format("cat", "left", 5, 30, 20), FaultKind.WRONG_TYPE),
        ("<object><name>cat</name></object>", FaultKind.UNKNOWN_KEY),
        (OBJECT.format("", 10, 5, 30, 20), FaultKind.UNKNOWN_KEY),
        (OBJECT.replace("xmax", "xmx").format("cat", 10, 5, 30, 20), FaultKind.UNKNOWN_KEY),
    ],
)
def test_objects_that_are_skipped(root: Path, item: str, kind: FaultKind) -> None:
    train = train_with(root, annotation(OBJECT.format("cat", 10, 5, 30, 20), item))
    assert train.num_boxes == 2
    assert train.faults.counts == {kind: 1}
    line = str(next(iter(train.faults)))
    assert "a.xml" in line
    assert "object 2" in line


def test_coordinates_may_end_at_the_border(root: Path) -> None:
    train = train_with(root, annotation(OBJECT.format("cat", 1, 1, 60, 40)))
    np.testing.assert_array_equal(train.boxes_xyxy[0], [1, 1, 60, 40])
    assert not train.faults.faults


def test_no_objects_is_a_normal_image(root: Path) -> None:
    train = train_with(root, annotation())
    assert (len(train), train.num_boxes) == (2, 1)


@pytest.mark.parametrize("text", ["", "<annotation>", "not xml", "<a>\x00</a>"])
def test_unreadable_xml_skips_the_image(root: Path, text: str) -> None:
    train = train_with(root, text)
    assert len(train) == 1
    assert train.faults.counts == {FaultKind.BAD_ANNOTATION_FILE: 1}


def test_missing_xml_is_background(root: Path) -> None:
    (root / "Annotations/a.xml").unlink()
    train = open_dataset(root, "train")
    assert len(train) == 2
    assert train.faults.counts == {FaultKind.IMAGE_WITHOUT_LABELS: 1}


def test_wrong_file_name_is_repaired(root: Path) -> None:
    train = train_with(root, annotation(OBJECT.format("cat", 1, 1, 9, 9), filename="a.tif"))
    assert Path(train.paths[0]).name == "a.jpg"
    assert train.faults.counts == {FaultKind.REPAIRED_PATH: 1}


def test_size_of_zero_means_unknown(root: Path) -> None:
    train = train_with(root, annotation(OBJECT.format("cat", 1, 1, 9, 9), size=(0, 0)))
    assert train.size(0) == (40, 60)
    assert not train.faults.faults


def test_encoding_declared_in_the_file(root: Path) -> None:
    text = '<?xml version="1.0" encoding="gb2312"?>' + annotation(OBJECT.format("猫", 1, 1, 9, 9))
    (root / "Annotations/a.xml").write_bytes(text.encode("gb2312"))
    assert "猫" in open_dataset(root, "train").class_map.names


def test_without_lists_everything_is_for_training(root: Path) -> None:
    for file in (root / "ImageSets/Main").iterdir():
        file.unlink()
    assert {k: len(v) for k, v in open_splits(root).items()} == {"train": 4}
    with pytest.raises(DataError, match="no split `val`") as caught:
        open_dataset(root, "val")
    assert "--val-fraction" in (caught.value.hint or "")
