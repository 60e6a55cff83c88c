"""`--fix`: what is written equals what training would see, and reads back without a fault."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from detrkit.data import open_splits, read_image
from detrkit.data.faults import Policy
from detrkit.data.index import DatasetIndex
from detrkit.engine.doctor.cleaned import _turned, cleaned_check, same, upright, write_cleaned
from detrkit.engine.doctor.image_checks import decode_check
from detrkit.engine.doctor.report import Status
from detrkit.errors import DetrkitError
from tests.data.conftest import save_image
from tests.engine.tiny_data import write_coco


@pytest.fixture
def messy(tmp_path: Path) -> Path:
    """A COCO data set with a fault of nearly every kind."""
    root = write_coco(tmp_path / "messy", train=10, val=4)
    file = root / "annotations" / "instances_train.json"
    content = json.loads(file.read_text())
    first = content["images"][0]["id"]
    good = {"image_id": first, "category_id": 3, "bbox": [5, 5, 10, 10], "iscrowd": 0}
    content["annotations"] += [
        {**good, "id": 100, "bbox": [50, 50, 40, 40]},  # over the border
        {**good, "id": 100, "bbox": [1, 1, 9, 9]},  # the same id
        {**good, "id": 102, "bbox": [5, 5, 0, 10]},
        {**good, "id": 103, "bbox": [500, 5, 10, 10]},
        {**good, "id": 104, "bbox": [float("nan"), 5, 10, 10]},
        {**good, "id": 105, "category_id": 99},
        {**good, "id": 106, "image_id": 999},
        {**good, "id": 107, "bbox": "many"},
        {**good, "id": 108, "bbox": [2.25, 3.125, 20.5, 10.0625], "iscrowd": 1, "area": 12.5},
        {"id": 109, "image_id": first, "categry_id": 3, "bbox": [1, 1, 2, 2]},
    ]
    content["images"][1] |= {"width": 640, "height": 640}  # the file has 64 x 64
    content["images"].append(dict(content["images"][2]))  # listed twice
    content["images"].append({"id": 998, "file_name": "gone.png", "width": 9, "height": 9})
    file.write_text(json.dumps(content))
    picture = root / "images" / "004.png"
    picture.write_bytes(picture.read_bytes()[:200])
    return root


def cleaned(root: Path, folder: Path) -> dict[str, DatasetIndex]:
    parts = open_splits(root)
    _, broken = decode_check(parts, 1, None)
    folder.mkdir(parents=True)
    check = cleaned_check(write_cleaned(parts, broken, folder))
    assert check.status is Status.OK, check.text
    again = open_splits(folder)
    for part in again.values():
        assert not [f for f in part.faults if f.kind.policy is not Policy.KEEP]
    return again


def test_what_training_sees(messy: Path, tmp_path: Path) -> None:
    before = {f: f.read_bytes() for f in messy.rglob("*") if f.is_file()}
    parts = open_splits(messy)
    again = cleaned(messy, tmp_path / "clean")
    assert len(again["train"]) == len(parts["train"]) - 1  # without the damaged one
    assert "004.png" not in " ".join(again["train"].paths)
    assert len(again["val"]) == len(parts["val"])
    rows = {tuple(box) for box in again["train"].boxes_xyxy.tolist()}
    assert (50, 50, 64, 64) in rows
    assert (2.25, 3.125, 22.75, 13.1875) in rows
    crowd = int(np.flatnonzero(again["train"].iscrowd)[0])
    assert again["train"].area[crowd] == 12.5
    assert len(set(again["train"].annotation_ids.tolist())) == again["train"].num_boxes
    assert again["train"].class_map == parts["train"].class_map
    assert {f: f.read_bytes() for f in messy.rglob("*") if f.is_file()} == before


def test_the_changes_are_listed(messy: Path, tmp_path: Path) -> None:
    cleaned(messy, tmp_path / "clean")
    changes = json.loads((tmp_path / "clean" / "changes.json").read_text(encoding="utf-8"))
    train = changes["train"]
    assert train["counts"]["clipped"] == 1
    assert train["counts"]["size_mismatch"] == 1
    assert train["counts"]["unknown_class"] == 1
    assert {"kind", "policy", "file", "where", "detail"} <= set(train["faults"][0])
    assert [Path(p).name for p in train["undecodable"]] == ["004.png"]
    assert train["images"]["read"] == train["images"]["written"] + 1
    assert changes["val"]["counts"] == {}


def test_cleaning_twice_changes_nothing(messy: Path, tmp_path: Path) -> None:
    once = cleaned(messy, tmp_path / "once")
    twice = cleaned(tmp_path / "once", tmp_path / "twice")
    for name, part in once.items():
        assert same(part, twice[name])


def test_ids_and_names_of_other_programs(tmp_path: Path) -> None:
    """Text ids become numbers, names keep their letters."""
    save_image(tmp_path / "yolo" / "images" / "猫 1.jpg")
    labels = tmp_path / "yolo" / "labels"
    labels.mkdir()
    (labels / "猫 1.txt").write_text("1 0.5 0.5 0.2 0.2\n1 0.5 0.5 0.1 0.1 0.3 0.4 0.2 0.9\n")
    (tmp_path / "yolo" / "classes.txt").write_text("狗\n猫\n", encoding="utf-8")
    again = cleaned(tmp_path / "yolo", tmp_path / "deep" / "down" / "clean")
    assert again["train"].class_map.names == ("狗", "猫")
    assert again["train"].num_boxes == 2
    content = json.loads(
        (tmp_path / "deep/down/clean/annotations/instances_train.json").read_text(encoding="utf-8")
    )
    assert content["images"][0]["id"] == 1
    assert content["images"][0]["file_name"] == "../../../yolo/images/猫 1.jpg"


@pytest.mark.parametrize("orientation", range(1, 9))
def test_boxes_of_rotated_pictures_turn_with_them(tmp_path: Path, orientation: int) -> None:
    """A bright rectangle in the stored pixels is where its turned box says, once shown upright."""
    pixels = np.zeros((40, 60, 3), np.uint8)
    pixels[8:20, 30:50] = 255
    exif = Image.Exif()
    exif[0x0112] = orientation
    (tmp_path / "data" / "images").mkdir(parents=True)
    path = tmp_path / "data" / "images" / "a.png"
    Image.fromarray(pixels).save(path, exif=exif)
    shown = read_image(path)[0].numpy() > 127
    rows, columns = np.nonzero(shown)
    box = _turned(np.array([[30, 8, 50, 20]], np.float32), (40, 60), orientation)[0]
    assert box.tolist() == [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
    if orientation < 5:
        return  # of equal size: nothing tells that the stored pixels were annotated

    content = {  # annotated on the stored pixels
        "images": [{"id": 1, "file_name": "a.png", "height": 40, "width": 60}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [30, 8, 20, 12]}],
        "categories": [{"id": 1, "name": "a"}],
    }
    (tmp_path / "data" / "train.json").write_text(json.dumps(content))
    part = open_splits(tmp_path / "data")["train"]
    assert upright(part).apply_exif.all()
    again = cleaned(tmp_path / "data", tmp_path / "clean")["train"]
    assert again.boxes_xyxy[0].tolist() == box.tolist()


def test_a_copy_with_other_content_is_a_problem(messy: Path, tmp_path: Path) -> None:
    parts = open_splits(messy)
    folder = tmp_path / "clean"
    folder.mkdir()
    written = write_cleaned(parts, {}, folder)
    file = folder / "annotations" / "instances_val.json"
    content = json.loads(file.read_text(encoding="utf-8"))
    content["annotations"].pop()
    file.write_text(json.dumps(content))
    check = cleaned_check(written)
    assert check.status is Status.PROBLEM
    assert "other content" in check.text


def test_a_folder_that_cannot_be_written(messy: Path, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("")
    with pytest.raises(DetrkitError, match="cannot write"):
        write_cleaned(open_splits(messy), {}, file)


@pytest.mark.parametrize(
    "name", ["bccd", "ships_yolo_messy", "cards_yolo", "coco_cc", "aerial_cars"]
)
def test_real_data_sets(shared_data: Callable[[str], Path], tmp_path: Path, name: str) -> None:
    parts = open_splits(shared_data(name))
    again = cleaned(shared_data(name), tmp_path / "clean")
    for split, part in parts.items():
        assert again[split].num_boxes == part.num_boxes
        assert again[split].boxes_per_class().tolist() == part.boxes_per_class().tolist()
