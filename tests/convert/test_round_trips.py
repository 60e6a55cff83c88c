"""What a conversion keeps, and that what it cannot keep is counted."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from detrkit.convert.categories import ClassChanges
from detrkit.convert.operations import (
    Division,
    Source,
    Target,
    change_categories,
    convert_to_coco,
    convert_to_voc,
    convert_to_yolo,
    merge_datasets,
    split_dataset,
)
from detrkit.convert.placing import Place
from detrkit.data import open_splits
from detrkit.data.faults import FaultKind
from detrkit.data.images import read_header
from tests.convert.compare import assert_same_splits
from tests.convert.sets import (
    FLAGS,
    WORDS,
    boxes,
    coco_contents,
    read_coco_files,
    write_coco_set,
    write_image,
)

EXAMPLES = settings(max_examples=20)


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A new folder for each example."""
    return lambda: tmp_path_factory.mktemp("set")


def by_id(entries: list[dict[str, Any]], *left_out: str) -> dict[Any, dict[str, Any]]:
    return {e["id"]: {k: v for k, v in e.items() if k not in left_out} for e in entries}


def assert_lossless(written: dict[str, dict[str, Any]], source: dict[str, dict[str, Any]]) -> None:
    """Equal but for the order of entries and the way to the images."""
    assert written.keys() == source.keys()
    for split, content in source.items():
        result = written[split]
        assert by_id(result["images"], "file_name") == by_id(content["images"], "file_name")
        assert by_id(result["annotations"]) == by_id(content["annotations"])
        assert by_id(result["categories"]) == by_id(content["categories"])
        assert {k: v for k, v in result.items() if k not in ("info", "licenses")}.keys() == {
            "images",
            "annotations",
            "categories",
        }
        for key in ("info", "licenses"):
            assert result.get(key) == content.get(key)


@given(coco_contents(("train", "val")), st.sampled_from(Place))
@EXAMPLES
def test_coco_to_coco_keeps_everything(places: Any, contents: dict, place: Place) -> None:
    root = write_coco_set(places(), contents)
    summary = convert_to_coco(Source(root), Target(root / "out", place))
    assert not summary.faults.counts
    assert_lossless(read_coco_files(root / "out"), contents)
    assert_same_splits(root, root / "out", within=0)
    if place is Place.refer:
        assert not (root / "out" / "images").exists()


@given(coco_contents(("train", "val")))
@EXAMPLES
def test_coco_to_yolo_to_coco(places: Any, contents: dict) -> None:
    root = write_coco_set(places(), contents)
    to_yolo = convert_to_yolo(Source(root), Target(root / "yolo", Place.link))
    crowds = sum(a["iscrowd"] for c in contents.values() for a in c["annotations"])
    assert to_yolo.faults.counts.get(FaultKind.CROWD_REGION, 0) == crowds
    total = sum(len(c["annotations"]) for c in contents.values())
    assert sum(s.boxes for s in to_yolo.splits.values()) == total - crowds
    convert_to_coco(Source(root / "yolo"), Target(root / "back", Place.copy))
    assert_same_splits(root / "yolo", root / "back", within=1e-4)
    # with the crowd regions as ordinary boxes, all boxes are there
    kept = convert_to_yolo(Source(root), Target(root / "kept", Place.symlink), keep_crowds=True)
    assert FaultKind.CROWD_REGION not in kept.faults.counts
    assert_same_splits(root, root / "kept", within=0.01, flags=False)


@given(coco_contents(("train", "test"), crowds=False))
@EXAMPLES
def test_coco_to_voc_to_coco(places: Any, contents: dict) -> None:
    root = write_coco_set(places(), contents)
    summary = convert_to_voc(Source(root), Target(root / "voc", Place.link))
    assert not summary.faults.counts
    assert_same_splits(root, root / "voc", within=1e-4)
    convert_to_coco(Source(root / "voc"), Target(root / "back", Place.refer))
    assert_same_splits(root / "voc", root / "back", within=1e-6)
    names = [c["name"] for c in read_coco_files(root / "back")["train"]["categories"]]
    order = sorted(
        contents["train"]["categories"], key=lambda c: (isinstance(c["id"], str), c["id"])
    )
    assert names == [c["name"] for c in order]


@st.composite
def voc_files(draw: st.DrawFn) -> dict[str, str]:
    """{stem: XML} with flags, nested elements and a tag that occurs twice."""
    files = {}
    for number in range(draw(st.integers(1, 3))):
        root = ElementTree.Element("annotation")
        ElementTree.SubElement(root, "folder").text = draw(WORDS)
        ElementTree.SubElement(root, "filename").text = f"{number} 猫.png"
        source = ElementTree.SubElement(root, "source")
        ElementTree.SubElement(source, "database").text = draw(WORDS)
        size = ElementTree.SubElement(root, "size")
        for tag, value in (("width", 60), ("height", 40), ("depth", draw(st.integers(1, 4)))):
            ElementTree.SubElement(size, tag).text = str(value)
        ElementTree.SubElement(root, "segmented").text = draw(FLAGS)
        for x, y, w, h in draw(st.lists(boxes((40, 60)), max_size=3)):
            item = ElementTree.SubElement(root, "object")
            ElementTree.SubElement(item, "name").text = draw(WORDS)
            for tag in ("pose", "truncated", "difficult", "occluded"):
                ElementTree.SubElement(item, tag).text = draw(FLAGS)
            box = ElementTree.SubElement(item, "bndbox")
            corners = zip(("xmin", "ymin", "xmax", "ymax"), (x, y, x + w, y + h), strict=True)
            for tag, corner in corners:
                value = round(corner) if draw(st.booleans()) else round(corner, 3)
                ElementTree.SubElement(box, tag).text = str(value)
            for name in draw(st.lists(WORDS, max_size=2)):
                part = ElementTree.SubElement(item, "part")
                ElementTree.SubElement(part, "name").text = name
        files[f"{number} 猫"] = ElementTree.tostring(root, encoding="unicode")
    return files


def plain(element: ElementTree.Element) -> Any:
    """Tags and texts as nested sorted lists, coordinates as numbers."""
    if element.tag in ("xmin", "ymin", "xmax", "ymax"):
        return round(float(element.text or ""), 6)
    if not len(element):
        return (element.text or "").strip()
    return sorted(((child.tag, plain(child)) for child in element), key=repr)


@given(voc_files())
@EXAMPLES
def test_voc_to_coco_to_voc_keeps_every_element(places: Any, files: dict[str, str]) -> None:
    root = places()
    for stem, text in files.items():
        write_image(root / "JPEGImages" / f"{stem}.png", (40, 60))
        (root / "Annotations").mkdir(exist_ok=True)
        (root / "Annotations" / f"{stem}.xml").write_text(text, encoding="utf-8")
    if not any("<object>" in text for text in files.values()):
        (root / "labels.txt").write_text("cat\n", encoding="utf-8")
    convert_to_coco(Source(root), Target(root / "coco", Place.refer))
    convert_to_voc(Source(root / "coco"), Target(root / "back", Place.copy))
    for stem, text in files.items():
        file = root / "back" / "Annotations" / f"{stem}.xml"
        assert plain(ElementTree.parse(file).getroot()) == plain(ElementTree.fromstring(text))


@given(coco_contents(), st.integers(0, 5), st.booleans())
@EXAMPLES
def test_splitting_and_merging_gives_the_same(
    places: Any, contents: dict, seed: int, stratify: bool
) -> None:
    if len(contents["train"]["images"]) < 2:
        return
    root = write_coco_set(places(), contents)
    division = Division({"train": 0.6, "val": 0.4}, seed, stratify)
    split_dataset(Source(root), Target(root / "parts", Place.refer), division)
    parts = read_coco_files(root / "parts")
    counts = [len(parts[split]["images"]) for split in ("train", "val")]
    assert sum(counts) == len(contents["train"]["images"])
    assert min(counts) >= 1
    files = [root / "parts/annotations" / f"instances_{split}.json" for split in parts]
    merged = Target(root / "whole" / "annotations" / "instances_train.json", Place.refer)
    merge_datasets([Source(file) for file in files], merged)
    written = read_coco_files(root / "whole")
    assert_lossless(written, contents)
    assert len(open_splits(root / "whole")["train"]) == len(contents["train"]["images"])


@given(coco_contents(("train", "val")), st.data())
@EXAMPLES
def test_renaming_there_and_back(places: Any, contents: dict, data: st.DataObject) -> None:
    root = write_coco_set(places(), contents)
    old = [c["name"] for c in contents["train"]["categories"]]
    new = data.draw(st.lists(WORDS, min_size=len(old), max_size=len(old), unique=True))
    for start, end, names in (("", "there", dict(zip(old, new, strict=True))),
                              ("there", "back", dict(zip(new, old, strict=True)))):  # fmt: skip
        changes = ClassChanges(names)
        target = Target(root / end, Place.refer)
        change_categories(Source(root / start), target, lambda _, c=changes: c)
    there = read_coco_files(root / "there")["train"]["categories"]
    assert {c["name"] for c in there} == set(new)
    assert_lossless(read_coco_files(root / "back"), contents)


@pytest.mark.parametrize("orientation", [1, 5, 6, 7, 8])
def test_yolo_of_images_with_an_orientation(tmp_path: Path, orientation: int) -> None:
    """Annotated on the stored pixels; YOLO's fractions are of the image as it is shown."""
    from PIL import Image

    contents = {
        "train": {
            "images": [{"id": 1, "file_name": "a.jpg", "height": 40, "width": 60}],
            "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [6, 4, 10, 20]}],
            "categories": [{"id": 1, "name": "cat"}],
        }
    }
    root = write_coco_set(tmp_path, contents)
    stored = np.zeros((40, 60, 3), np.uint8)
    stored[4:24, 6:16] = 255
    exif = Image.Exif()
    exif[0x0112] = orientation
    file = root / "images/train/a.jpg"
    Image.fromarray(stored).save(file, exif=exif, quality=100, subsampling=0)
    convert_to_yolo(Source(root), Target(root / "yolo", Place.copy))
    index = open_splits(root / "yolo")["train"]
    from detrkit.data import read_image

    shown = read_image(index.paths[0])[0].numpy()
    rows, columns = np.nonzero(shown > 128)
    seen = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
    np.testing.assert_allclose(index.boxes_xyxy[0], seen, atol=0.01)
    assert index.size(0) == read_header(file).shown_size
