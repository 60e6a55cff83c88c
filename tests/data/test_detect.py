from __future__ import annotations

import json
import logging
from pathlib import Path

import numpy as np
import pytest

from detrkit.data import DatasetIndex, open_dataset, open_splits
from detrkit.data.splits import split_of
from detrkit.errors import DataError, UsageError
from detrkit.structures import ClassMap
from tests.data.conftest import CocoMaker, box, save_image


def images(count: int) -> list[dict]:
    return [{"id": i, "file_name": f"{i}.jpg", "height": 40, "width": 60} for i in range(count)]


def test_coco_layout(make_coco: CocoMaker, tmp_path: Path) -> None:
    make_coco([box(1, image=0)], images(2))
    make_coco([box(1, image=0), box(2, image=2)], images(3), split="val")
    parts = open_splits(tmp_path)
    assert {name: len(part) for name, part in parts.items()} == {"train": 2, "val": 3}
    assert all("/val/" in path.replace("\\", "/") for path in parts["val"].paths)
    whole = open_dataset(tmp_path)
    assert (len(whole), whole.num_boxes) == (5, 3)
    assert len({whole.image_id(i) for i in range(5)}) == 5


def test_classes_are_those_of_all_files(make_coco: CocoMaker, tmp_path: Path) -> None:
    make_coco([box(1, category=5)], None, [{"id": 5, "name": "cat"}])
    make_coco([box(1, category=3)], None, [{"id": 3, "name": "dog"}], split="val")
    parts = open_splits(tmp_path)
    assert parts["train"].class_map == parts["val"].class_map == ClassMap(("dog", "cat"), (3, 5))
    assert parts["train"].labels.tolist() == [1]
    assert open_dataset(tmp_path, "val").class_map == parts["val"].class_map


def test_classes_that_contradict_each_other(make_coco: CocoMaker, tmp_path: Path) -> None:
    make_coco([box(1)], None, [{"id": 1, "name": "cat"}])
    make_coco([box(1)], None, [{"id": 1, "name": "dog"}], split="val")
    with pytest.raises(DataError, match=r"category 1: .*`cat` and `dog`"):
        open_splits(tmp_path)


def test_the_official_coco_folder(make_coco: CocoMaker, tmp_path: Path) -> None:
    """Captions, key points and the unlabelled test images lie beside the boxes."""
    for split in ("train2017", "val2017"):
        make_coco([box(1, image=0)], images(2), split=split)
    (tmp_path / "images" / "train2017").rename(tmp_path / "train2017")
    for name in ("captions_train2017", "person_keypoints_val2017", "image_info_test2017"):
        (tmp_path / "annotations" / f"{name}.json").write_text("not read")
    assert {k: len(v) for k, v in open_splits(tmp_path).items()} == {"train": 2, "val": 2}


def test_images_in_two_splits_are_noticed(shared_data, caplog: pytest.LogCaptureFixture) -> None:
    open_splits(shared_data("aerial_cars"))
    assert "16 of 16 images of `val` are in `train` as well" in caplog.text


@pytest.mark.parametrize("val", ["valid", "val"])
def test_roboflow_layout(tmp_path: Path, val: str) -> None:
    for split in ("train", val, "test"):
        save_image(tmp_path / split / "a.jpg")
        content = {
            "images": [{"id": 0, "file_name": "a.jpg", "height": 40, "width": 60}],
            "annotations": [box(0, image=0, category=1)],
            "categories": [{"id": 0, "name": "things"}, {"id": 1, "name": "cat"}],
        }
        (tmp_path / split / "_annotations.coco.json").write_text(json.dumps(content))
    parts = open_splits(tmp_path)
    assert list(parts) == ["train", "val", "test"]
    assert all((len(part), part.num_boxes) == (1, 1) for part in parts.values())


def test_a_single_json_file(make_coco: CocoMaker) -> None:
    assert len(open_dataset(make_coco([box(1)]))) == 1


def test_a_folder_around_the_data_set(make_coco: CocoMaker, tmp_path: Path) -> None:
    inner = make_coco([box(1)]).parents[1]
    outer = tmp_path.parent / f"{tmp_path.name}-outer"
    outer.mkdir()
    inner.rename(outer / "export")
    assert len(open_dataset(outer)) == 1


def test_validation_part_by_fraction(make_coco: CocoMaker, tmp_path: Path) -> None:
    make_coco([box(i + 1, image=i) for i in range(10)], images(10))
    parts = open_splits(tmp_path, val_fraction=0.3, seed=1)
    assert {name: len(part) for name, part in parts.items()} == {"train": 7, "val": 3}
    ids = [{part.image_id(i) for i in range(len(part))} for part in parts.values()]
    assert ids[0] | ids[1] == set(range(10))
    again = open_dataset(tmp_path, "val", val_fraction=0.3, seed=1)
    np.testing.assert_array_equal(again.image_ids, parts["val"].image_ids)
    other = open_dataset(tmp_path, "val", val_fraction=0.3, seed=2)
    assert other.image_ids.tolist() != again.image_ids.tolist()


@pytest.mark.parametrize("fraction", [0.0, 1.0, -0.1, float("nan")])
def test_impossible_fractions(make_coco: CocoMaker, tmp_path: Path, fraction: float) -> None:
    make_coco([box(1, image=0)], images(3))
    with pytest.raises(UsageError, match="between 0 and 1"):
        open_splits(tmp_path, val_fraction=fraction)


def test_nothing_there(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file or folder"):
        open_dataset(tmp_path / "nowhere")
    with pytest.raises(DataError, match="it holds nothing"):
        open_dataset(tmp_path)
    (tmp_path / "notes.doc").touch()
    with pytest.raises(DataError, match=r"it holds notes\.doc") as caught:
        open_dataset(tmp_path)
    assert caught.value.exit_code == 4
    with pytest.raises(DataError, match="not a data set"):
        open_dataset(tmp_path / "notes.doc")


def test_unknown_split(make_coco: CocoMaker, tmp_path: Path) -> None:
    make_coco([box(1)])
    with pytest.raises(UsageError, match="unknown split `dev`"):
        open_dataset(tmp_path, "dev")


def test_faults_reach_the_user_once_each(
    make_coco: CocoMaker, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    make_coco([box(i, bbox=[0, 0, 0, 0]) for i in range(1, 10)])
    with caplog.at_level(logging.WARNING, "detrkit"):
        open_splits(tmp_path)
    lines = [record.getMessage() for record in caplog.records]
    assert len(lines) == 4  # three examples and the count of the rest
    assert "annotation 1:" in lines[0]
    assert "6 more" in lines[-1]


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("instances_train2017", "train"),
        ("instances_val", "val"),
        ("Valid", "val"),
        ("my-test-set", "test"),
        ("interval", None),
        ("trainer", None),
        ("constraint", None),
        ("annotations", None),
    ],
)
def test_split_of_a_file_name(name: str, split: str | None) -> None:
    assert split_of(name) == split


EXPECTED = {
    "bccd": {"train": (205, 2804), "val": (87, 1137), "test": (72, 945)},
    "coco_cc": {"train": (29, 193), "val": (33, 229)},
    "cards_yolo": {"train": (110, 200), "val": (36, 65)},
    "ships_yolo_messy": {"train": (82, 91), "val": (99, 20)},
    "aerial_cars": {"train": (16, 464), "val": (16, 464)},
    "aerial_trees": {"train": (3, 377)},
}


@pytest.mark.parametrize("name", EXPECTED)
def test_real_data_sets(shared_data, name: str) -> None:
    parts: dict[str, DatasetIndex] = open_splits(shared_data(name))
    assert {k: (len(v), v.num_boxes) for k, v in parts.items()} == EXPECTED[name]
    for part in parts.values():
        limits = np.repeat(part.sizes[:, ::-1], np.diff(part.offsets), axis=0) + 1
        assert (part.boxes_xyxy[:, :2] >= -1).all()
        assert (part.boxes_xyxy[:, 2:] <= limits).all()
        assert part.class_map == next(iter(parts.values())).class_map
