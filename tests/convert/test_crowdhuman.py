"""CrowdHuman's .odgt files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from detrkit.convert.crowdhuman import PersonBox, find_files, read_documents
from detrkit.convert.sources import open_documents
from detrkit.data.faults import FaultKind
from detrkit.errors import DataError
from tests.convert.sets import write_image


def person(number: int = 0, **changes: Any) -> dict[str, Any]:
    return {
        "tag": "person",
        "fbox": [-5, 10, 30, 40],
        "vbox": [0, 10, 20, 20],
        "hbox": [3, 10, 8, 9],
        "head_attr": {"ignore": 0, "occ": 0, "unsure": 0},
        "extra": {"box_id": number, "occ": 1},
    } | changes


def write_lines(path: Path, *lines: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    texts = [line if isinstance(line, str) else json.dumps(line) for line in lines]
    path.write_text("\n".join(texts) + "\n", encoding="utf-8")
    return path


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Two pictures for training, one for validation, as the archives unpack."""
    mask = {"tag": "mask", "fbox": [1, 2, 3, 4], "vbox": [1, 2, 3, 4], "hbox": [1, 2, 3, 4]}
    ignored = person(2, extra={"box_id": 2, "ignore": 1})
    no_head = person(3, head_attr={"ignore": 1})
    first = {"ID": "273271,1a", "gtboxes": [person(), mask, ignored, no_head]}
    write_lines(tmp_path / "annotation_train.odgt", first, "", {"ID": "b", "gtboxes": []})
    write_lines(tmp_path / "annotation_val.odgt", {"ID": "c", "gtboxes": [person()]})
    write_image(tmp_path / "CrowdHuman_train01/Images/273271,1a.jpg", (40, 60))
    write_image(tmp_path / "CrowdHuman_train02/Images/b.jpg", (30, 20))
    write_image(tmp_path / "CrowdHuman_val/Images/c.jpg", (40, 60))
    return tmp_path


def test_the_usual_form(root: Path) -> None:
    documents = open_documents(root)
    assert list(documents) == ["train", "val"]
    train = documents["train"]
    assert train.categories == [{"id": 1, "name": "person"}]
    assert train.images == [
        {"ID": "273271,1a", "id": 1, "file_name": "273271,1a.jpg", "height": 40, "width": 60},
        {"ID": "b", "id": 2, "file_name": "b.jpg", "height": 30, "width": 20},
    ]
    assert documents["val"].images[0]["id"] == 3
    written = list(train.annotations())
    assert [a["iscrowd"] for a in written] == [0, 1, 1, 0]
    assert written[0]["bbox"] == [-5, 10, 30, 40]  # as annotated, outside the picture
    assert written[0]["area"] == 1200
    assert {k: written[0][k] for k in person()} == person()
    assert not train.faults.counts


@pytest.mark.parametrize(
    ("box", "expected", "crowds"),
    [
        (PersonBox.full, [-5, 10, 30, 40], [0, 1, 1, 0]),
        (PersonBox.visible, [0, 10, 20, 20], [0, 1, 1, 0]),
        (PersonBox.head, [3, 10, 8, 9], [0, 1, 0, 1]),
    ],
)
def test_which_box(root: Path, box: PersonBox, expected: list, crowds: list) -> None:
    written = list(read_documents(find_files(root), box=box)["train"].annotations())
    assert written[0]["bbox"] == expected
    assert [a["iscrowd"] for a in written] == crowds


def test_progress_counts_images(root: Path) -> None:
    seen: list[tuple[int, int]] = []
    read_documents(find_files(root), progress=lambda *now: seen.append(now))
    assert seen == [(1, 2), (2, 2), (1, 1)]


@pytest.mark.parametrize(
    ("item", "kind"),
    [
        ("text", FaultKind.UNKNOWN_KEY),
        ({"tag": "person"}, FaultKind.UNKNOWN_KEY),
        (person(fbox=[1, 2, 3]), FaultKind.WRONG_TYPE),
        (person(fbox=[1, 2, 3, "4"]), FaultKind.WRONG_TYPE),
        (person(fbox=None), FaultKind.WRONG_TYPE),
        (person(fbox=[1, 2, float("nan"), 4]), FaultKind.NOT_FINITE),
        (person(fbox=[1, 2, 10**400, 4]), FaultKind.NOT_FINITE),
    ],
)
def test_boxes_that_are_left_out(root: Path, item: Any, kind: FaultKind) -> None:
    line = {"ID": "b", "gtboxes": [person(), item, person()]}
    train = read_documents({"train": write_lines(root / "x.odgt", line)})["train"]
    assert train.faults.counts == {kind: 1}
    assert "line 1, box 2" in str(next(iter(train.faults)))
    assert train.num_annotations == 2


@pytest.mark.parametrize(
    ("line", "kind"),
    [
        ("{", FaultKind.WRONG_TYPE),
        ("[" * 100_000, FaultKind.WRONG_TYPE),
        ("[]", FaultKind.WRONG_TYPE),
        ({"gtboxes": []}, FaultKind.WRONG_TYPE),
        ({"ID": "c", "gtboxes": {}}, FaultKind.WRONG_TYPE),
        ({"ID": "b", "gtboxes": []}, FaultKind.DUPLICATE_IMAGE_ID),
    ],
)
def test_lines_that_are_left_out(root: Path, line: Any, kind: FaultKind) -> None:
    good = {"ID": "b", "gtboxes": [person()]}
    train = read_documents({"train": write_lines(root / "x.odgt", good, line)})["train"]
    assert train.faults.counts == {kind: 1}
    assert (len(train), train.num_annotations) == (1, 1)


def test_images_that_cannot_be_read(root: Path) -> None:
    (root / "CrowdHuman_train01/Images/273271,1a.jpg").write_bytes(b"no picture")
    (root / "CrowdHuman_train02/Images/b.jpg").unlink()
    train = read_documents(find_files(root))["train"]
    assert len(train) == 0
    assert train.faults.counts == {
        FaultKind.CORRUPT_IMAGE: 1,
        FaultKind.SKIPPED_WITH_IMAGE: 4,
        FaultKind.MISSING_IMAGE: 1,
    }


def test_files_that_stop(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="missing file"):
        read_documents({"train": tmp_path / "none.odgt"})
    with pytest.raises(DataError, match="no line is an annotation"):
        read_documents({"train": write_lines(tmp_path / "a.odgt", "[]", "{}")})
    assert find_files(tmp_path / "a.odgt") == {"train": tmp_path / "a.odgt"}
