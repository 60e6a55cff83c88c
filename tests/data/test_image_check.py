"""Which images are looked at when annotations are read, and what is settled later."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from detrkit.data import DetectionDataset, image_check, open_dataset
from detrkit.data.coco import read_coco
from detrkit.data.faults import FaultKind
from detrkit.data.image_check import CheckImages, read_indexed
from detrkit.errors import DataError, UsageError
from tests.data.conftest import CocoMaker, box, save_image


@pytest.fixture
def headers(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the images whose headers were read."""
    read: list[str] = []
    original = image_check.read_header

    def recorded(path: str | Path) -> Any:
        read.append(Path(path).name)
        return original(path)

    monkeypatch.setattr(image_check, "read_header", recorded)
    return read


def images(count: int, size: tuple[int, int] | None = (40, 60)) -> list[dict[str, Any]]:
    sides = {"height": size[0], "width": size[1]} if size else {}
    return [{"id": i, "file_name": f"{i}.png", **sides} for i in range(count)]


@pytest.mark.parametrize(
    ("policy", "expected"), [("all", 30), ("auto", 30), ("sample", 10), ("none", 0)]
)
def test_how_many_headers_are_read(
    make_coco: CocoMaker,
    headers: list[str],
    monkeypatch: pytest.MonkeyPatch,
    policy: CheckImages,
    expected: int,
) -> None:
    monkeypatch.setattr(image_check, "SAMPLE", 10)
    path = make_coco([box(1, image=3)], images(30))
    index = read_coco(path, check_images=policy)
    assert (len(index), len(set(headers)), len(headers)) == (30, expected, expected)
    assert index.sizes.tolist() == [[40, 60]] * 30
    headers.clear()
    monkeypatch.setattr(image_check, "ALL_UP_TO", 29)
    read_coco(path, check_images=policy)
    assert len(headers) == (10 if policy == "auto" else expected)


def test_a_sample_that_disagrees_has_all_read(
    make_coco: CocoMaker, headers: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(image_check, "SAMPLE", 5)
    path = make_coco([box(1, image=3)], images(20))
    for i in range(20):
        save_image(path.parents[1] / "images/train" / f"{i}.png", (20, 30))
    index = read_coco(path, check_images="sample")
    assert len(headers) == len(set(headers)) == 20
    assert index.faults.counts[FaultKind.SIZE_MISMATCH] == 20
    np.testing.assert_array_equal(index.boxes_xyxy, [[5, 2.5, 15, 10]])


@pytest.mark.parametrize("policy", ["sample", "none"])
def test_unknown_sizes_are_read_in_any_case(
    make_coco: CocoMaker, headers: list[str], monkeypatch: pytest.MonkeyPatch, policy: CheckImages
) -> None:
    monkeypatch.setattr(image_check, "SAMPLE", 0)
    entries = [*images(3), {"id": 9, "file_name": "9.png"}]
    index = read_coco(make_coco([box(1, image=9)], entries), check_images=policy)
    assert headers == ["9.png"]
    assert index.sizes.tolist() == [[40, 60]] * 4


def test_a_missing_image_is_noticed_without_opening_any(
    make_coco: CocoMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(image_check, "SAMPLE", 0)
    path = make_coco([box(1, image=0), box(2, image=1)], images(3))
    (path.parents[1] / "images/train/1.png").unlink()
    index = read_coco(path, check_images="sample")
    assert [index.image_id(i) for i in range(len(index))] == [0, 2]
    assert index.faults.counts[FaultKind.MISSING_IMAGE] == 1
    assert index.faults.counts[FaultKind.SKIPPED_WITH_IMAGE] == 1


def test_annotations_without_pictures(make_coco: CocoMaker, tmp_path: Path) -> None:
    make_coco([box(1, image=1)], images(2), files=False)
    index = open_dataset(tmp_path, check_images="none")
    assert (len(index), index.num_boxes) == (2, 1)
    assert [Path(p).name for p in index.paths] == ["0.png", "1.png"]
    with pytest.raises(DataError, match="none of its 2 images"):
        open_dataset(tmp_path)


def test_unknown_policy(make_coco: CocoMaker) -> None:
    with pytest.raises(UsageError, match="`some`") as caught:
        read_coco(make_coco([box(1)]), check_images="some")  # type: ignore[arg-type]
    assert "sample" in (caught.value.hint or "")


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(
    ("annotated", "scale", "kind"),
    [
        ((40, 60), 1.0, None),
        ((80, 120), 0.5, FaultKind.SIZE_MISMATCH),
        ((30, 60), 1.0, FaultKind.SIZE_MISMATCH),
    ],
)
def test_sizes_that_differ_are_settled_when_read(
    make_coco: CocoMaker,
    caplog: pytest.LogCaptureFixture,
    annotated: tuple[int, int],
    scale: float,
    kind: FaultKind | None,
    training: bool,
) -> None:
    """As if the header had been read first; only the frame of evaluation is the index's."""
    path = make_coco([box(1, image=0, bbox=[20, 10, 30, 18])], images(1, annotated))
    checked = DetectionDataset(read_coco(path), training=training)[0]
    data = DetectionDataset(read_coco(path, check_images="none"), training=training)
    sample = data[0]
    assert sample.size == checked.size == (40, 60)
    np.testing.assert_array_equal(sample.boxes_xyxy, checked.boxes_xyxy)
    np.testing.assert_array_equal(sample.area, checked.area)
    assert sample.orig_size == (annotated if scale != 1 else (40, 60))
    with caplog.at_level(logging.WARNING, "detrkit"):
        assert data.report_broken() == []
        assert data.report_broken() == []
    assert caplog.text.count("file believed") == (kind is not None)
    assert data.index.faults.counts.get(FaultKind.SIZE_MISMATCH, 0) == (kind is not None)


def test_orientation_is_settled_when_read(make_coco: CocoMaker) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    entry = {"id": 0, "file_name": "a.jpg", "height": 40, "width": 60}
    path = make_coco([box(1, image=0)], [entry])
    save_image(path.parents[1] / "images/train/a.jpg", exif=exif)
    data = DetectionDataset(read_coco(path, check_images="none"))
    assert data[0].size == (40, 60)
    assert read_indexed(data.index, 0).fault is FaultKind.EXIF_ROTATION
    data.report_broken()
    assert data.index.faults.counts[FaultKind.EXIF_ROTATION] == 1
