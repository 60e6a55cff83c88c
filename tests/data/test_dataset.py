from __future__ import annotations

import logging
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

from detrkit.data import CocoDetection, Compose, DetectionDataset, VOCDetection, read_image
from detrkit.data.coco import read_coco
from detrkit.data.sample import SampleKey
from detrkit.errors import ConfigError, DataError
from detrkit.registry import MODULES
from tests.data.conftest import CocoMaker, box, refused_images, save_image
from tests.data.test_transforms import RECIPE


def images(count: int) -> list[dict]:
    return [{"id": i, "file_name": f"{i}.jpg", "height": 40, "width": 60} for i in range(count)]


@pytest.fixture
def path(make_coco: CocoMaker) -> Path:
    """Six images with one box each, except the last."""
    return make_coco([box(i + 1, image=i) for i in range(5)], images(6))


def break_image(path: Path, number: int) -> None:
    file = path.parents[1] / "images" / "train" / f"{number}.jpg"
    file.write_bytes(file.read_bytes()[:-60])


def test_a_sample_without_transforms(path: Path) -> None:
    index = read_coco(path)
    sample = DetectionDataset(index)[2]
    assert torch.equal(sample.image, read_image(index.paths[2]))
    assert (sample.image_id, sample.orig_size) == (2, (40, 60))
    target = sample.target()
    np.testing.assert_allclose(
        target.boxes_cxcywh, [[20 / 60, 12.5 / 40, 20 / 60, 15 / 40]], rtol=1e-6
    )
    assert len(DetectionDataset(index)[5]) == 0


def test_samples_depend_on_seed_epoch_and_index_alone(path: Path) -> None:
    data = DetectionDataset(read_coco(path), Compose(RECIPE), seed=3)
    again = DetectionDataset(read_coco(path), Compose(RECIPE), seed=3)
    for _ in range(5):
        again[1]  # what was drawn before must not matter
    torch.manual_seed(99)
    np.random.seed(99)
    first, second = data[SampleKey(4, 0, 2)], again[SampleKey(4, 7, 2)]
    assert torch.equal(first.image, second.image)
    np.testing.assert_array_equal(first.boxes_xyxy, second.boxes_xyxy)
    assert not torch.equal(first.image, data[SampleKey(5, 0, 2)].image)
    assert not torch.equal(first.image, data[SampleKey(4, 0, 2, repeat=1)].image)
    assert torch.equal(first.image, data[SampleKey(4, 0, 2, repeat=0)].image)
    assert not torch.equal(first.image, DetectionDataset(data.index, Compose(RECIPE))[2].image)


def test_index_is_never_written_to(path: Path) -> None:
    index = read_coco(path)
    before = index.boxes_xyxy.copy()
    data = DetectionDataset(index, Compose(RECIPE))
    for number in range(6):
        data[number]
    np.testing.assert_array_equal(index.boxes_xyxy, before)


def test_a_broken_image_is_replaced_in_training(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    break_image(path, 1)
    data = DetectionDataset(read_coco(path))
    first, second = data[SampleKey(0, 0, 1)], data[SampleKey(0, 0, 1)]
    assert first.image_id == second.image_id != 1
    assert {data[SampleKey(e, 0, 1)].image_id for e in range(20)} == {0, 2, 3, 4, 5}
    with caplog.at_level(logging.WARNING, "detrkit"):
        assert [Path(p).name for p in data.report_broken()] == ["1.jpg"]
        assert data.report_broken() == []
    assert caplog.text.count("1.jpg: unreadable image, replaced by another") == 1
    assert [f.where for f in data.index.faults if "CORRUPT" in f.kind.name] == ["image 1"]


def test_a_broken_image_stays_in_evaluation(path: Path) -> None:
    break_image(path, 1)
    data = DetectionDataset(read_coco(path), training=False)
    sample = data[1]
    assert (sample.image_id, sample.size, len(sample)) == (1, (40, 60), 1)
    assert sample.image.unique().tolist() == [114]
    assert data.broken.tolist() == [0, 1, 0, 0, 0, 0]


def test_evaluation_resizes_as_deployment_does(path: Path) -> None:
    """Bit for bit; training takes a faster filter, one grey level off at times."""
    resize = Compose([{"type": "Resize", "size": [23, 37]}])
    exact, fast = (
        DetectionDataset(read_coco(path), resize, training=training)[0].image.int()
        for training in (False, True)
    )
    source = DetectionDataset(read_coco(path))[0].image
    assert torch.equal(exact, resize.image_spec().resized(source).int())
    assert (exact - fast).abs().max() <= 2


def test_nothing_readable_stops(path: Path) -> None:
    index = read_coco(path)
    for number in range(6):
        break_image(path, number)
    with pytest.raises(DataError, match="20 images in a row"):
        DetectionDataset(index)[0]


def test_boxes_are_clipped_for_training(make_coco: CocoMaker) -> None:
    index = read_coco(make_coco([box(1, bbox=[-0.6, 30, 30, 10.9])]))
    np.testing.assert_allclose(index.boxes_xyxy, [[-0.6, 30, 29.4, 40.9]], rtol=1e-5)
    np.testing.assert_allclose(DetectionDataset(index)[0].boxes_xyxy, [[0, 30, 29.4, 40]])


def test_pickles_without_its_images(path: Path) -> None:
    data = pickle.loads(pickle.dumps(DetectionDataset(read_coco(path), Compose(RECIPE))))
    assert len(data[0].image) == 3


def test_coco_detection_reads_when_needed(path: Path) -> None:
    data = CocoDetection("/nowhere", "/nowhere.json", Compose([]), remap_mscoco_category=True)
    with pytest.raises(DataError, match=r"nowhere\.json"):
        len(data)
    data = MODULES.create(
        "CocoDetection",
        img_folder=str(path.parents[1] / "images" / "train"),
        ann_file=str(path),
        transforms=Compose([]),
    )
    assert len(data) == 6
    assert data.class_map.names == ("cat", "dog")
    with pytest.raises(ConfigError, match="return_masks"):
        CocoDetection("", "", return_masks=True)


def test_voc_detection_reads_pairs(tmp_path: Path) -> None:
    save_image(tmp_path / "pictures" / "x.jpg")
    (tmp_path / "x.xml").write_text(
        "<annotation><object><name>dog</name><bndbox><xmin>1</xmin><ymin>2</ymin>"
        "<xmax>30</xmax><ymax>20</ymax></bndbox></object></annotation>"
    )
    (tmp_path / "trainval.txt").write_text("pictures/x.jpg x.xml\n")
    (tmp_path / "label_list.txt").write_text("cat\ndog\n")
    data = VOCDetection(str(tmp_path), transforms=[{"type": "Resize", "size": [8, 8]}])
    assert data[0].labels.tolist() == [1]
    assert data[0].image.shape == (3, 8, 8)


def test_hostile_images_do_not_stop_training(shared_data, tmp_path: Path) -> None:
    import json

    from detrkit.data import build_loader

    files = sorted((shared_data("hostile_images") / "files").iterdir())
    entries = [
        {"id": i, "file_name": f.name, "height": 100, "width": 100} for i, f in enumerate(files)
    ]
    boxes = [box(i + 1, image=i, bbox=[1, 1, 90, 90]) for i in range(len(files))]
    content = {"images": entries, "annotations": boxes, "categories": [{"id": 1, "name": "x"}]}
    (tmp_path / "all.json").write_text(json.dumps(content), encoding="utf-8")
    index = read_coco(tmp_path / "all.json", files[0].parent)
    assert len(index) == 36
    for training in (True, False):
        data = DetectionDataset(index, Compose(RECIPE), training=training)
        loader = build_loader(data, batch_size=6, shuffle=training)
        assert sum(len(batch) for batch in loader) == 36
        broken = {files[i].name for i in data.broken.nonzero().flatten()}
        assert broken == refused_images(shared_data("hostile_images"))
