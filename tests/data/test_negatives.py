"""Images without targets: from folders and data sets, with everything that can be wrong."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from detrkit.data import BatchImageCollateFunction, Compose, DetectionDataset, build_loader
from detrkit.data.caching import Room, cache_in_memory
from detrkit.data.coco import read_coco
from detrkit.data.index import DatasetIndex
from detrkit.data.negatives import at_most, open_negatives
from detrkit.data.same_files import same_files
from detrkit.errors import DataError, UsageError
from detrkit.structures import ClassMap
from tests.data.conftest import CocoMaker, box, save_image
from tests.data.test_caching import RECIPES

CLASSES = ClassMap(("cat", "dog"), (1, 2))


def pictures(folder: Path, count: int = 3, first: int = 50) -> Path:
    """Images at several depths, one of them turned by EXIF."""
    for number in range(count):
        below = folder / ("a/b" if number % 2 else ".")
        save_image(below / f"{number}.jpg", (30 + number, 50), seed=first + number)
    return folder


def coco_index(make_coco: CocoMaker, count: int = 4) -> DatasetIndex:
    """The last image has no boxes."""
    images = [
        {"id": n, "file_name": f"{n}.jpg", "height": 40, "width": 60} for n in range(1, count + 1)
    ]
    return read_coco(make_coco([box(n, n) for n in range(1, count)], images))


def test_a_folder_of_any_depth(tmp_path: Path) -> None:
    folder = pictures(tmp_path / "neg")
    (folder / "README.md").write_text("about")
    index = open_negatives(folder, CLASSES)
    assert sorted(index.image_ids) == ["0.jpg", "2.jpg", "a/b/1.jpg"]
    assert len(index) == 3
    assert index.num_boxes == 0
    assert index.class_map == CLASSES
    assert {index.size(i) for i in range(3)} == {(30, 50), (31, 50), (32, 50)}
    assert not index.faults.counts


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda p: None, "negatives: there is no .*neg"),
        (lambda p: p.mkdir(), "negatives: .* holds no images"),
        (lambda p: p.write_text("a.jpg"), "negatives: .*neither a folder nor a data set"),
    ],
    ids=["missing", "empty", "a text file"],
)
def test_nothing_there(tmp_path: Path, make: object, message: str) -> None:
    place = tmp_path / "neg"
    make(place)  # type: ignore[operator]
    with pytest.raises(DataError, match=message) as error:
        open_negatives(place, CLASSES)
    assert error.value.hint


def test_corrupt_images_are_left_out_and_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = pictures(tmp_path / "neg")
    (folder / "torn.jpg").write_bytes(b"\xff\xd8\xff nothing more")
    (folder / "empty.png").write_bytes(b"")
    with caplog.at_level(logging.WARNING, logger="detrkit"):
        assert len(open_negatives(folder, CLASSES)) == 3
    assert "torn.jpg" in caplog.text
    assert "empty.png" in caplog.text
    for image in folder.rglob("[0-9].jpg"):
        image.unlink()
    with pytest.raises(DataError, match=r"none of the 2 images in .* can be read"):
        open_negatives(folder, CLASSES)


def test_of_a_data_set_what_has_no_boxes(
    make_coco: CocoMaker, caplog: pytest.LogCaptureFixture
) -> None:
    index = coco_index(make_coco)
    file = Path(index.source)
    for place in (file, file.parent.parent):
        caplog.clear()
        with caplog.at_level(logging.WARNING, logger="detrkit"):
            found = open_negatives(place, ClassMap.from_names(["bird"]), key="eval_negatives")
        assert [Path(p).name for p in found.paths] == ["4.jpg"]
        assert found.num_boxes == 0
        assert found.class_map.names == ("bird",)
        assert "eval_negatives: 3 images of" in caplog.text
        assert "with boxes left out, e.g." in caplog.text


def test_a_data_set_without_empty_images(make_coco: CocoMaker) -> None:
    file = make_coco([box(1)])
    with pytest.raises(DataError, match=r"every image of .* has boxes \(1 image\)"):
        open_negatives(file, CLASSES)
    file.write_text("{")
    with pytest.raises(DataError, match="negatives: "):
        open_negatives(file, CLASSES)


def test_a_broken_data_set_is_not_taken_for_a_folder(tmp_path: Path) -> None:
    pictures(tmp_path / "yolo" / "images")
    (tmp_path / "yolo" / "labels").mkdir()
    with pytest.raises(DataError, match="YOLO labels without class names"):
        open_negatives(tmp_path / "yolo", CLASSES)


@given(st.integers(1, 60), st.integers(0, 60), st.floats(0.01, 0.99), st.integers(0, 3))
def test_at_most_a_share(count: int, others: int, share: float, seed: int) -> None:
    index = DatasetIndex(
        paths=np.arange(count),  # type: ignore[arg-type]
        sizes=np.ones((count, 2), np.int32),
        image_ids=np.arange(count),
        offsets=np.zeros(count + 1, np.int64),
        boxes_xyxy=np.zeros((0, 4), np.float32),
        labels=np.zeros(0, np.int64),
        iscrowd=np.zeros(0, bool),
        area=np.zeros(0),
        annotation_ids=np.zeros(0, np.int64),
        class_map=CLASSES,
        apply_exif=np.ones(count, bool),
    )
    kept = at_most(index, others, share, seed)
    assert 1 <= len(kept) <= count
    assert len(kept) == 1 or len(kept) <= share * (others + len(kept)) + 1e-6
    one_more = len(kept) + 1
    assert len(kept) == count or one_more > share * (others + one_more) - 1e-6
    assert list(kept.image_ids) == sorted(set(map(int, kept.image_ids)))
    assert list(at_most(index, others, share, seed).image_ids) == list(kept.image_ids)


@pytest.mark.parametrize("share", [0.0, 1.0, -0.5, float("nan")])
def test_no_share(tmp_path: Path, share: float) -> None:
    index = open_negatives(pictures(tmp_path / "neg"), CLASSES)
    with pytest.raises(UsageError, match="negatives_share must lie between 0 and 1"):
        at_most(index, 10, share, 0)


@pytest.mark.parametrize("recipe", RECIPES)
def test_they_are_training_images_like_others(
    tmp_path: Path, make_coco: CocoMaker, recipe: str
) -> None:
    """Through every augmentation, with and without a cache, whole epochs of batches."""
    own = coco_index(make_coco)

    def loader() -> object:
        dataset = DetectionDataset(own, Compose(**RECIPES[recipe]))
        dataset.extend(open_negatives(pictures(tmp_path / "neg", 5), CLASSES))
        collate = BatchImageCollateFunction(
            mixup_prob=0.5, mixup_epochs=[0, 9], copyblend_prob=0.5, copyblend_epochs=[0, 9]
        )
        return dataset, build_loader(
            dataset, batch_size=3, shuffle=True, drop_last=False, collate=collate
        )

    dataset, plain = loader()  # type: ignore[misc]
    assert len(dataset) == 9
    assert dataset[6].image_id == "4.jpg"
    assert not len(dataset[6]) or recipe != "dfine"
    cached, other = loader()  # type: ignore[misc]
    cache_in_memory(cached, Room(1 << 40), threads=2)
    assert len(cached.store) == 9
    seen = set()
    for epoch in range(3):
        for each in (plain, other):
            each.set_epoch(epoch)
        for a, b in zip(plain, other, strict=True):
            assert torch.equal(a.images, b.images)
            seen |= {t.image_id for t in a.targets}
            assert all(t.boxes_cxcywh.isfinite().all() for t in a.targets)
    assert seen == {"1", "2", "3", "4", "0.jpg", "2.jpg", "4.jpg", "a/b/1.jpg", "a/b/3.jpg"}


def test_the_same_file_and_copies_of_it(tmp_path: Path) -> None:
    a, b = pictures(tmp_path / "a", 2), pictures(tmp_path / "b", 4)  # equal content, other places
    (tmp_path / "b" / "c.jpg").write_bytes(b"x" * (a / "0.jpg").stat().st_size)  # equal size only
    ours = [str(a / "0.jpg"), str(a / "a/b/1.jpg"), str(tmp_path / "missing.jpg")]
    theirs = [str(p) for p in sorted(b.rglob("*.jpg"))]
    copies = same_files(ours, theirs)
    assert sorted(copies) == [
        (ours[0], str(b / "0.jpg")),
        (ours[1], str(b / "a" / "b" / "1.jpg")),
    ]
    assert same_files(ours, theirs, contents=False) == []
    around = str(tmp_path / "b" / ".." / "a" / "0.jpg")
    assert same_files([around], ours, contents=False) == [(around, ours[0])]
    assert same_files([], theirs) == same_files(ours, []) == []
