"""Every way in which a COCO file can be wrong: its policy, its line, and what is left."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from detrkit.data.coco import read_coco
from detrkit.data.faults import FaultKind
from detrkit.data.index import DatasetIndex
from detrkit.errors import DataError
from detrkit.structures import ClassMap
from tests.data.conftest import CocoMaker, box, save_image


def only_fault(index: DatasetIndex, kind: FaultKind) -> str:
    """The line of the one fault of a kind."""
    lines = [str(f) for f in index.faults if f.kind is kind]
    assert len(lines) == 1, [str(f) for f in index.faults]
    return lines[0]


def test_a_clean_file(make_coco: CocoMaker) -> None:
    index = read_coco(make_coco([box(7), box(8, category=2, area=12.5)]))
    assert len(index) == 1
    assert index.num_boxes == 2
    np.testing.assert_array_equal(index.boxes_xyxy[0], [10, 5, 30, 20])
    assert index.labels.tolist() == [0, 1]
    assert index.area.tolist() == [300, 12.5]
    assert index.annotation_ids.tolist() == [7, 8]
    assert index.size(0) == (40, 60)
    assert not index.faults.faults


@pytest.mark.parametrize("ids", [(0, 1), (1, 2), (3, 90), (17, -4), ("b", "a"), (5, "x")])
def test_category_ids_of_any_kind(make_coco: CocoMaker, ids: tuple) -> None:
    categories = [{"id": i, "name": f"class {i}"} for i in ids]
    index = read_coco(
        make_coco([box(1, category=ids[0]), box(2, category=ids[1])], None, categories)
    )
    assert sorted(index.labels.tolist()) == [0, 1]
    for label, category in zip(index.labels, ids, strict=True):
        assert index.class_map.category_ids[label] == category
        assert index.class_map.names[label] == f"class {category}"


def test_image_ids_may_be_strings(make_coco: CocoMaker) -> None:
    images = [{"id": "day/1", "file_name": "a.jpg"}, {"id": "day/2", "file_name": "b.jpg"}]
    index = read_coco(make_coco([box(1, image="day/2")], images))
    assert [index.image_id(i) for i in range(2)] == ["day/1", "day/2"]
    assert np.diff(index.offsets).tolist() == [0, 1]


def test_image_ids_as_numbers_here_and_text_there(make_coco: CocoMaker) -> None:
    index = read_coco(make_coco([box(1, image="1")]))
    assert index.num_boxes == 1


def test_images_without_boxes_stay(make_coco: CocoMaker) -> None:
    index = read_coco(make_coco([]))
    assert (len(index), index.num_boxes) == (1, 0)
    assert index.boxes_xyxy.shape == (0, 4)


def test_given_classes_are_matched_by_name(make_coco: CocoMaker) -> None:
    wanted = ClassMap(("dog", "cow", "cat"), (1, 2, 3))
    index = read_coco(make_coco([box(1), box(2, category=2)]), class_map=wanted)
    assert index.labels.tolist() == [2, 0]
    assert index.class_map.names == wanted.names
    # cat and dog keep the data set's ids; cow gets one that is free
    assert index.class_map.category_ids[2] == 1
    assert index.class_map.category_ids[0] == 2
    assert len(set(index.class_map.category_ids)) == 3


def test_classes_that_are_not_wanted_are_left_out(make_coco: CocoMaker) -> None:
    path = make_coco([box(1), box(2, category=2), box(3, category=2)])
    index = read_coco(path, class_map=ClassMap(("cat",), (0,)))
    assert index.num_boxes == 1
    assert "class `dog`" in only_fault(index, FaultKind.UNKNOWN_CLASS)
    assert "2 boxes" in only_fault(index, FaultKind.UNKNOWN_CLASS)


@pytest.mark.parametrize(
    ("bbox", "kind"),
    [
        ([10, 5, 0, 15], FaultKind.EMPTY_BOX),
        ([10, 5, -3, 15], FaultKind.EMPTY_BOX),
        ([float("nan"), 5, 20, 15], FaultKind.NOT_FINITE),
        ([10, 5, float("inf"), 15], FaultKind.NOT_FINITE),
        ([80, 5, 20, 15], FaultKind.OUTSIDE),
        ([-30, 5, 20, 15], FaultKind.OUTSIDE),
        ([10, 5, 20], FaultKind.WRONG_TYPE),
        ([10, 5, 20, None], FaultKind.WRONG_TYPE),
        ("10 5 20 15", FaultKind.WRONG_TYPE),
        ([10, 5, "wide", 15], FaultKind.WRONG_TYPE),
        (None, FaultKind.WRONG_TYPE),
    ],
)
def test_boxes_that_are_skipped(make_coco: CocoMaker, bbox: object, kind: FaultKind) -> None:
    index = read_coco(make_coco([box(1), box(66, bbox=bbox)]))
    assert index.annotation_ids.tolist() == [1]
    line = only_fault(index, kind)
    assert "instances_train.json" in line
    assert "annotation 66" in line
    assert kind.policy.value == "skip"


def test_boxes_over_the_border_are_clipped_and_counted(make_coco: CocoMaker) -> None:
    index = read_coco(make_coco([box(5, bbox=[-10, 30, 30, 30])]))
    np.testing.assert_array_equal(index.boxes_xyxy, [[0, 30, 20, 40]])
    assert index.area.tolist() == [200]
    assert "annotation 5" in only_fault(index, FaultKind.CLIPPED)


def test_rounding_over_the_border_is_left_alone(make_coco: CocoMaker) -> None:
    index = read_coco(make_coco([box(5, bbox=[0, 0, 60.4, 40.7])]))
    np.testing.assert_allclose(index.boxes_xyxy, [[0, 0, 60.4, 40.7]], rtol=1e-6)
    assert not index.faults.faults or index.faults.counts.keys() == {FaultKind.CLASS_WITHOUT_BOXES}


def test_numbers_written_as_text_are_numbers(make_coco: CocoMaker) -> None:
    index = read_coco(make_coco([box(1, bbox=["10", "5", "20", "15.0"])]))
    assert index.num_boxes == 1


def test_annotation_of_a_missing_image(make_coco: CocoMaker) -> None:
    index = read_coco(make_coco([box(1), box(2, image=99)]))
    line = only_fault(index, FaultKind.UNKNOWN_IMAGE)
    assert "annotation 2" in line
    assert "image 99" in line


def test_annotation_of_an_undeclared_category(make_coco: CocoMaker) -> None:
    index = read_coco(make_coco([box(1), box(2, category=9)]))
    assert "category 9" in only_fault(index, FaultKind.UNKNOWN_CLASS)


def test_misspelt_key_gets_a_suggestion(make_coco: CocoMaker) -> None:
    wrong = {k.replace("category_id", "catgory_id"): v for k, v in box(2).items()}
    index = read_coco(make_coco([box(1), wrong]))
    line = only_fault(index, FaultKind.UNKNOWN_KEY)
    assert "`catgory_id`, did you mean `category_id`?" in line


def test_duplicate_annotation_ids_are_renumbered(make_coco: CocoMaker) -> None:
    index = read_coco(make_coco([box(4), box(4, category=2)]))
    assert len(set(index.annotation_ids.tolist())) == 2
    assert "annotation 4" in only_fault(index, FaultKind.DUPLICATE_ANNOTATION_ID)


def test_image_listed_twice(make_coco: CocoMaker) -> None:
    image = {"id": 1, "file_name": "a.jpg", "height": 40, "width": 60}
    index = read_coco(make_coco([box(1)], [image, image]))
    assert len(index) == 1
    assert "image 1" in only_fault(index, FaultKind.DUPLICATE_IMAGE_ID)


def test_one_image_id_for_two_files_stops(make_coco: CocoMaker) -> None:
    images = [{"id": 1, "file_name": "a.jpg"}, {"id": 1, "file_name": "b.jpg"}]
    with pytest.raises(DataError, match=r"image 1: .*a\.jpg and b\.jpg"):
        read_coco(make_coco([box(1)], images))


@pytest.mark.parametrize("name", ["a.jpg", "b.jpg"])
def test_one_image_id_as_number_and_text_stops(make_coco: CocoMaker, name: str) -> None:
    images = [{"id": 1, "file_name": "a.jpg"}, {"id": "1", "file_name": name}]
    with pytest.raises(DataError, match=rf"image 1: .*a\.jpg and {name}"):
        read_coco(make_coco([box(1)], images))


@pytest.mark.parametrize("key", ["images", "annotations", "categories"])
def test_a_list_that_stands_twice_stops(make_coco: CocoMaker, key: str) -> None:
    path = make_coco([box(1)])
    text = path.read_text(encoding="utf-8")
    path.write_text(text[:-1] + f', "{key}": []}}', encoding="utf-8")
    with pytest.raises(DataError, match=f"`{key}` stands there twice"):
        read_coco(path)


def test_ids_beyond_64_bits(make_coco: CocoMaker) -> None:
    images = [{"id": 2**63 + i, "file_name": f"{i}.jpg"} for i in range(2)]
    annotations = [box(2**64, image=2**63 + 1, category=2**65), box(2**63 - 1, image=2**63)]
    index = read_coco(make_coco(annotations, images, [{"id": 2**65, "name": "cat"}]))
    assert [index.image_id(i) for i in range(2)] == [str(2**63), str(2**63 + 1)]
    assert np.diff(index.offsets).tolist() == [0, 1]  # the other has no declared class
    assert index.class_map.category_ids == (2**65,)


def test_the_lowest_id_has_no_counterpart(make_coco: CocoMaker) -> None:
    """-(-2^63) does not fit into 64 bits."""
    index = read_coco(make_coco([box(-(2**63)), box(7)]))
    assert sorted(index.annotation_ids.tolist()) == [7, 8]


def test_ids_written_as_floats_are_ids(make_coco: CocoMaker) -> None:
    """As tables with gaps write them."""
    images = [{"id": 1.0, "file_name": "a.jpg"}]
    index = read_coco(make_coco([box(1.0, image=1, category=2.0)], images))
    assert (index.image_id(0), index.labels.tolist()) == (1, [1])


def test_one_category_id_for_two_classes_stops(make_coco: CocoMaker) -> None:
    categories = [{"id": 1, "name": "cat"}, {"id": 1, "name": "dog"}]
    with pytest.raises(DataError, match=r"category 1: .*`cat` and `dog`"):
        read_coco(make_coco([box(1)], None, categories))


def test_class_without_boxes_stays(make_coco: CocoMaker) -> None:
    index = read_coco(make_coco([box(1)]))
    assert len(index.class_map) == 2
    assert "`dog`" in only_fault(index, FaultKind.CLASS_WITHOUT_BOXES)


def test_missing_image_file(make_coco: CocoMaker) -> None:
    images = [{"id": 1, "file_name": "a.jpg"}, {"id": 2, "file_name": "gone.jpg"}]
    path = make_coco([box(1), box(2, image=2)], images)
    (path.parents[1] / "images" / "train" / "gone.jpg").unlink()
    index = read_coco(path)
    assert (len(index), index.num_boxes) == (1, 1)
    line = only_fault(index, FaultKind.MISSING_IMAGE)
    assert "gone.jpg" in line
    assert "image 2" in line


def test_no_image_file_at_all_stops(make_coco: CocoMaker) -> None:
    with pytest.raises(DataError, match=r"none of its 1 images.*a\.jpg") as caught:
        read_coco(make_coco([box(1)], files=False))
    assert caught.value.exit_code == 4


def test_header_of_an_image_is_damaged(make_coco: CocoMaker) -> None:
    images = [
        {"id": 1, "file_name": "a.jpg", "height": 40, "width": 60},
        {"id": 2, "file_name": "bad.jpg", "height": 40, "width": 60},
        {"id": 3, "file_name": "worse.jpg"},
    ]
    path = make_coco([box(1, image=2)], images)
    for name in ("bad.jpg", "worse.jpg"):
        (path.parents[1] / "images" / "train" / name).write_bytes(b"<html>404</html>")
    index = read_coco(path)
    # with a known size it counts in evaluation; without one nothing is known about it
    assert [index.image_id(i) for i in range(len(index))] == [1, 2]
    assert index.faults.counts[FaultKind.CORRUPT_IMAGE] == 2


def test_size_differs_in_proportion_scales_the_boxes(make_coco: CocoMaker) -> None:
    images = [{"id": 1, "file_name": "a.jpg", "height": 80, "width": 120}]
    index = read_coco(make_coco([box(1, bbox=[20, 10, 40, 30], area=1200)], images))
    np.testing.assert_array_equal(index.boxes_xyxy, [[10, 5, 30, 20]])
    assert index.size(0) == (40, 60)
    assert index.area.tolist() == [300]
    assert "annotated 120x80, file 60x40" in only_fault(index, FaultKind.SIZE_MISMATCH)


def test_size_differs_otherwise_keeps_pixels(make_coco: CocoMaker) -> None:
    images = [{"id": 1, "file_name": "a.jpg", "height": 60, "width": 40}]
    index = read_coco(make_coco([box(1)], images))
    np.testing.assert_array_equal(index.boxes_xyxy, [[10, 5, 30, 20]])
    assert index.size(0) == (40, 60)
    assert "kept as pixels" in only_fault(index, FaultKind.SIZE_MISMATCH)


@pytest.mark.parametrize("applied", [True, False])
def test_exif_rotation_follows_the_annotation(
    make_coco: CocoMaker, tmp_path: Path, applied: bool
) -> None:
    from PIL import Image

    from detrkit.data.dataset import DetectionDataset

    exif = Image.Exif()
    exif[0x0112] = 6
    size = {"height": 60, "width": 40} if applied else {"height": 40, "width": 60}
    path = make_coco([box(1)], [{"id": 1, "file_name": "a.jpg", **size}])
    save_image(path.parents[1] / "images" / "train" / "a.jpg", exif=exif)
    index = read_coco(path)
    assert index.size(0) == (size["height"], size["width"])
    assert DetectionDataset(index)[0].image.shape[-2:] == index.size(0)
    assert (FaultKind.EXIF_ROTATION in index.faults.counts) is not applied


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("{", "line 1"),
        ("[]", "expected a JSON object"),
        ('{"images": [], "annotations": []}', "`categories` is missing"),
        ('{"images": [], "annotatio\\ns": [], "categories": []}', r"mean `annotatio\\ns`\?\)$"),
        ('{"image": [], "annotations": [], "categories": []}', "did you mean `image`"),
        ('{"images": {}, "annotations": [], "categories": []}', "`images` must be a list"),
        ('{"images": [], "annotations": [], "categories": []}', "the list is empty"),
        ('{"images": [], "annotations": [], "categories": [{"name": "x"}]}', r"categories\[0\]"),
    ],
)
def test_files_that_stop(tmp_path: Path, text: str, expected: str) -> None:
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(DataError, match=expected) as caught:
        read_coco(tmp_path / "x.json")
    assert "x.json" in caught.value.message
    assert caught.value.exit_code == 4


def test_missing_annotation_file(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nowhere\.json: missing file"):
        read_coco(tmp_path / "nowhere.json")


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "gb18030"])
def test_encodings(make_coco: CocoMaker, encoding: str) -> None:
    path = make_coco([box(1)], None, [{"id": 1, "name": "红细胞"}])
    content = json.loads(path.read_text(encoding="utf-8"))
    path.write_bytes(json.dumps(content, ensure_ascii=False).encode(encoding))
    assert read_coco(path).class_map.names == ("红细胞",)


def test_paths_of_another_machine_are_repaired(make_coco: CocoMaker) -> None:
    images = [{"id": 1, "file_name": "a.jpg"}, {"id": 2, "file_name": "b.jpg"}]
    path = make_coco([box(1)], images)
    content = json.loads(path.read_text())
    content["images"][0]["file_name"] = "C:\\photos\\a.jpg"
    content["images"][1]["file_name"] = "/home/someone/b.png"  # and converted since
    path.write_text(json.dumps(content))
    index = read_coco(path)
    assert [Path(p).name for p in index.paths] == ["a.jpg", "b.jpg"]
    assert index.faults.counts[FaultKind.REPAIRED_PATH] == 2


def test_crowd_regions_are_indexed_but_not_trained_on(make_coco: CocoMaker) -> None:
    from detrkit.data.dataset import DetectionDataset

    index = read_coco(make_coco([box(1), box(2, iscrowd=1)]))
    assert index.iscrowd.tolist() == [False, True]
    assert len(DetectionDataset(index)[0]) == 1


def test_malformed_entries_are_skipped(make_coco: CocoMaker) -> None:
    images = [{"id": 1, "file_name": "a.jpg"}, {"id": None, "file_name": "b.jpg"}, {"id": 3}, "x"]
    index = read_coco(make_coco([box(1), "not an annotation", box(2, image=[1])], images))
    assert (len(index), index.num_boxes) == (1, 1)
    assert index.faults.counts[FaultKind.WRONG_TYPE] == 5
