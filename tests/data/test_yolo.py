from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from detrkit.data import open_splits
from detrkit.data.faults import FaultKind
from detrkit.errors import DataError
from tests.data.conftest import save_image


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Two training images and one for validation; 60x40 pixels."""
    for name in ("train/a", "train/b", "val/c"):
        save_image(tmp_path / "images" / f"{name}.JPG")
        label = tmp_path / "labels" / f"{name}.txt"
        label.parent.mkdir(parents=True, exist_ok=True)
        label.write_text("1 0.5 0.5 0.5 0.25\n")
    (tmp_path / "data.yaml").write_text(
        "path: .\ntrain: images/train\nval: images/val\nnc: 2\nnames: [ace, king]\n"
    )
    return tmp_path


def with_label(root: Path, text: str) -> dict:
    (root / "labels/train/a.txt").write_text(text)
    return open_splits(root)["train"].faults.counts


def test_a_clean_set(root: Path) -> None:
    parts = open_splits(root)
    assert {name: len(part) for name, part in parts.items()} == {"train": 2, "val": 1}
    train = parts["train"]
    np.testing.assert_allclose(train.boxes_xyxy[0], [15, 15, 45, 25])
    assert train.labels.tolist() == [1, 1]
    assert train.class_map.names == ("ace", "king")
    assert [train.image_id(i) for i in range(2)] == ["images/train/a", "images/train/b"]
    assert set(train.faults.counts) == {FaultKind.CLASS_WITHOUT_BOXES}


@pytest.mark.parametrize(
    ("line", "kind"),
    [
        ("1 0.5 0.5 0 0.25", FaultKind.EMPTY_BOX),
        ("1 0.5 0.5 -0.5 0.25", FaultKind.EMPTY_BOX),
        ("1 nan 0.5 0.5 0.25", FaultKind.NOT_FINITE),
        ("1 2.5 0.5 0.5 0.25", FaultKind.OUTSIDE),
        ("7 0.5 0.5 0.5 0.25", FaultKind.UNKNOWN_CLASS),
        ("1.5 0.5 0.5 0.5 0.25", FaultKind.UNKNOWN_CLASS),
        ("1 0.5 0.5", FaultKind.WRONG_TYPE),
        ("king 0.5 0.5 0.5 0.25", FaultKind.WRONG_TYPE),
    ],
)
def test_lines_that_are_skipped(root: Path, line: str, kind: FaultKind) -> None:
    counts = with_label(root, f"0 0.5 0.5 0.5 0.25\n\n{line}\n")
    assert counts == {kind: 1}
    faults = open_splits(root)["train"].faults
    assert "a.txt: line 3" in str(next(iter(faults)))


def test_boxes_over_the_border_are_clipped(root: Path) -> None:
    (root / "labels/train/a.txt").write_text("0 0.0 0.5 0.5 0.5\n")
    train = open_splits(root)["train"]
    np.testing.assert_allclose(train.boxes_xyxy[0], [0, 10, 15, 30])
    assert train.faults.counts[FaultKind.CLIPPED] == 1


def test_polygons_become_their_boxes(root: Path) -> None:
    (root / "labels/train/a.txt").write_text("0 0.5 0.25 0.75 0.5 0.25 0.75\n")
    train = open_splits(root)["train"]
    np.testing.assert_allclose(train.boxes_xyxy[0], [15, 10, 45, 30])
    assert train.faults.counts[FaultKind.POLYGON] == 1


def test_images_without_labels_are_background(root: Path) -> None:
    (root / "labels/train/a.txt").unlink()
    train = open_splits(root)["train"]
    assert (len(train), train.num_boxes) == (2, 1)
    assert train.faults.counts[FaultKind.IMAGE_WITHOUT_LABELS] == 1


def test_labels_without_images_are_counted(root: Path) -> None:
    (root / "labels/train/stray.txt").write_text("0 0.5 0.5 0.5 0.5\n")
    faults = open_splits(root)["train"].faults
    assert any(f.kind is FaultKind.LABEL_WITHOUT_IMAGE and "stray" in f.file for f in faults)


def test_unreadable_images_are_skipped(root: Path) -> None:
    (root / "images/train/a.JPG").write_bytes(b"")
    train = open_splits(root)["train"]
    assert len(train) == 1
    assert train.faults.counts[FaultKind.CORRUPT_IMAGE] == 1


@pytest.mark.parametrize(
    "yaml",
    [
        "train: ../images/train\nval: ../images/valid\nnames: [ace, king]\n",
        "path: /home/someone/cards\ntrain: images/train\nval: images/val\nnames: [ace, king]\n",
        "train: C:\\cards\\images\\train\nval: ./images/val/\nnames: {0: ace, 1: king}\n",
        "train: [images/train]\nvalid: images/val\nnames: [ace, king]\n",
        "train: train.txt\nval: images/val\nnc: 2\n",
    ],
)
def test_wrong_paths_and_other_spellings(root: Path, yaml: str) -> None:
    (root / "data.yaml").write_text(yaml)
    (root / "train.txt").write_text("images/train/a.JPG\n./images/train/b.JPG\n")
    parts = open_splits(root)
    assert {name: len(part) for name, part in parts.items()} == {"train": 2, "val": 1}
    assert sum(part.num_boxes for part in parts.values()) == 3


def test_without_yaml(root: Path) -> None:
    (root / "data.yaml").unlink()
    with pytest.raises(DataError, match="without class names"):
        open_splits(root)
    (root / "cards.names").write_text("ace\nking\n")
    parts = open_splits(root)
    assert {name: len(part) for name, part in parts.items()} == {"train": 2, "val": 1}


@pytest.mark.parametrize(
    ("yaml", "expected"),
    [
        ("names: [a\n", "line "),
        ("train: images/train\n", "`names` is missing"),
        ("train: images/train\nname: [a]\n", "did you mean `name`"),
        ("train: images/train\nnames: 3\n", "must be a list"),
        ("test: nowhere\nnames: [a]\n", "no image folder found; tried `test: nowhere`"),
    ],
)
def test_yaml_files_that_stop(root: Path, yaml: str, expected: str) -> None:
    (root / "data.yaml").write_text(yaml)
    with pytest.raises(DataError, match=expected) as caught:
        open_splits(root / "data.yaml")
    assert "data.yaml" in caught.value.message


def test_a_number_of_classes_that_needs_all_memory_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "data.yaml"
    file.write_text("train: images/train\nnc: 2147483647\n", encoding="utf-8")
    with pytest.raises(DataError, match="`nc` is 2147483647, more than 100,000 classes"):
        open_splits(file)
