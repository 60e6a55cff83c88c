"""Renaming, merging and choosing classes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from detrkit.convert.categories import ClassChanges
from detrkit.convert.from_coco import read_document
from detrkit.errors import DataError, UsageError
from tests.data.conftest import CocoMaker, box

NAMES = ["car", "van", "truck", "dog"]


@pytest.fixture
def traffic(make_coco: CocoMaker) -> Path:
    """A car, two vans, a truck in the first picture, a dog in the second, nothing in the third."""
    categories = [
        {"id": 10 * i, "name": n, "supercategory": "vehicle" if i < 3 else "animal"}
        for i, n in enumerate(NAMES)
    ]
    images = [{"id": i, "file_name": f"{i}.jpg", "height": 40, "width": 60} for i in range(3)]
    annotations = [
        box(number, image=image, category=category)
        for number, (image, category) in enumerate([(0, 0), (0, 10), (0, 10), (0, 20), (1, 30)])
    ]
    return make_coco(annotations, images, categories)


def changed(path: Path, **options: Any) -> dict[str, Any]:
    document = read_document(path)
    result = ClassChanges.from_options(document.names, **options).apply(document)
    names = {c["id"]: c["name"] for c in result.categories}
    return {
        "names": [c["name"] for c in result.categories],
        "ids": list(names),
        "boxes": [names[a["category_id"]] for a in result.annotations()],
        "images": [i["id"] for i in result.images],
        "categories": result.categories,
    }


def test_rename(traffic: Path) -> None:
    result = changed(traffic, renames=["van=minibus", "dog=狗 = hund"])
    assert result["names"] == ["car", "minibus", "truck", "狗 = hund"]
    assert result["boxes"] == ["car", "minibus", "minibus", "truck", "狗 = hund"]
    assert result["ids"] == [0, 10, 20, 30]
    assert result["categories"][1] == {"id": 10, "name": "minibus", "supercategory": "vehicle"}


def test_merge_into_a_present_class(traffic: Path) -> None:
    result = changed(traffic, merges=["truck=van,car"])
    assert result["names"] == ["truck", "dog"]
    assert result["categories"][0] == {"id": 20, "name": "truck", "supercategory": "vehicle"}
    assert result["boxes"] == ["truck"] * 4 + ["dog"]


def test_merge_into_a_new_class(traffic: Path) -> None:
    result = changed(traffic, merges=["vehicle=car,van,truck"])
    assert result["categories"][0] == {"id": 0, "name": "vehicle"}
    assert result["boxes"] == ["vehicle"] * 4 + ["dog"]


def test_swapping_names(traffic: Path) -> None:
    result = changed(traffic, renames=["car=van", "van=car"])
    assert result["names"] == ["van", "car", "truck", "dog"]
    assert result["boxes"] == ["van", "car", "car", "truck", "dog"]
    assert result["ids"] == [0, 10, 20, 30]


def test_keep_and_drop(traffic: Path) -> None:
    assert changed(traffic, keep=["dog,car"])["names"] == ["car", "dog"]
    assert changed(traffic, keep=["dog", "car"])["boxes"] == ["car", "dog"]
    result = changed(traffic, drop=["van", "truck,car"])
    assert (result["names"], result["boxes"], result["images"]) == (["dog"], ["dog"], [0, 1, 2])
    merged = changed(traffic, merges=["vehicle=car,van"], keep=["vehicle"])
    assert (merged["names"], len(merged["boxes"])) == (["vehicle"], 3)


def test_images_that_lose_all_boxes(traffic: Path) -> None:
    assert changed(traffic, keep=["dog"], drop_empty=True)["images"] == [1, 2]


def test_new_numbers(traffic: Path) -> None:
    assert changed(traffic, drop=["van"], first_id=0)["ids"] == [0, 1, 2]
    assert changed(traffic, first_id=1)["ids"] == [1, 2, 3, 4]


@pytest.mark.parametrize("text", ["van: car\ndog: null\n", '{"van": "car", "dog": null}'])
def test_mapping_file(traffic: Path, tmp_path: Path, text: str) -> None:
    file = tmp_path / "map.yml"
    file.write_text(text)
    result = changed(traffic, file=file)
    assert (result["names"], result["boxes"]) == (["car", "truck"], ["car"] * 3 + ["truck"])


def test_names_with_commas_and_equal_signs(make_coco: CocoMaker) -> None:
    categories = [{"id": 1, "name": "a, b"}, {"id": 2, "name": "c=d"}, {"id": 3, "name": "b"}]
    path = make_coco([box(1), box(2, category=2)], None, categories)
    assert changed(path, keep=["a, b"])["names"] == ["a, b"]
    assert changed(path, renames=["c=d=e"])["names"] == ["a, b", "e", "b"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"renames": ["vann=x"]}, "no class `vann`, did you mean `van`"),
        ({"renames": ["van"]}, "write old=new"),
        ({"renames": ["van="]}, "write old=new"),
        ({"merges": ["car"]}, "write new=old,old"),
        ({"merges": ["car=bus"]}, "no class `bus`"),
        ({"drop": ["bus"]}, "no class `bus`"),
        ({"keep": ["bus"]}, "no class `bus`"),
        ({"keep": ["van"], "renames": ["van=x"]}, "no class `van`"),
        ({"renames": ["van=x", "van=y"]}, "to become `x` already"),
        ({"renames": ["van=x"], "drop": ["van"]}, "already"),
    ],
)
def test_options_that_cannot_be_used(traffic: Path, options: dict, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        changed(traffic, **options)


@pytest.mark.parametrize("text", ["- a\n", "a: [1]\n", "3\n"])
def test_mapping_files_that_cannot_be_used(traffic: Path, tmp_path: Path, text: str) -> None:
    file = tmp_path / "map.yml"
    file.write_text(text)
    with pytest.raises(DataError, match="expected a mapping"):
        changed(traffic, file=file)
