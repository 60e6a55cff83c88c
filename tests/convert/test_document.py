"""Documents: ids, subsets, and what is left out when a COCO file is faulty."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from detrkit.convert import document as document_module
from detrkit.convert.document import NO_ID, settle_ids
from detrkit.convert.from_coco import read_document
from detrkit.data import open_dataset
from detrkit.data.faults import FaultKind
from detrkit.errors import DataError
from tests.data.conftest import CocoMaker, box


@given(st.lists(st.tuples(st.integers(-3, 6) | st.just(NO_ID), st.booleans()), max_size=12))
def test_ids_become_unique_and_first_ones_stay(rows: list[tuple[int, bool]]) -> None:
    ids = np.array([i for i, _ in rows], np.int64)
    wanted = np.array([w for _, w in rows], bool)
    settled = settle_ids(ids, wanted)
    kept = settled[wanted].tolist()
    assert len(set(kept)) == len(kept)
    assert NO_ID not in kept
    seen: set[int] = set()
    for before, after in zip(ids[wanted].tolist(), kept, strict=True):
        assert (before == after) == (before not in seen and before != NO_ID)
        seen.add(before)


BAD: list[tuple[Any, FaultKind]] = [
    ("text", FaultKind.WRONG_TYPE),
    (None, FaultKind.WRONG_TYPE),
    ([], FaultKind.WRONG_TYPE),
    ({}, FaultKind.UNKNOWN_KEY),
    ({"id": 9, "image_id": 1, "catgory_id": 1, "bbox": [0, 0, 1, 1]}, FaultKind.UNKNOWN_KEY),
    (box(9, image=77), FaultKind.UNKNOWN_IMAGE),
    (box(9, image=None), FaultKind.WRONG_TYPE),
    (box(9, category=77), FaultKind.UNKNOWN_CLASS),
    (box(9, category=[1]), FaultKind.WRONG_TYPE),
    (box(9, bbox=[1, 2, 3]), FaultKind.WRONG_TYPE),
    (box(9, bbox=[1, 2, "x", 3]), FaultKind.WRONG_TYPE),
    (box(9, bbox=[float("nan"), 2, 3, 3]), FaultKind.NOT_FINITE),
    (box(9, bbox=[1, float("inf"), 3, 3]), FaultKind.NOT_FINITE),
    (box(9, bbox={"x": 1}), FaultKind.WRONG_TYPE),
]


@pytest.mark.parametrize(("entry", "kind"), BAD)
def test_entries_that_are_left_out(
    make_coco: CocoMaker,
    entry: Any,
    kind: FaultKind,
) -> None:
    path = make_coco([box(1), entry, box(2)])
    document = read_document(path)
    assert document.faults.counts == {kind: 1}
    assert [a["id"] for a in document.annotations()] == [1, 2]
    assert (len(document.owners), document.num_annotations) == (3, 2)
    index = open_dataset(path)
    assert index.faults.counts[kind] == 1
    assert [f.where for f in document.faults] == [f.where for f in index.faults if f.kind is kind]


def test_numbers_as_text_are_read_as_numbers(make_coco: CocoMaker) -> None:
    document = read_document(make_coco([box(1, bbox=["10", 5, "20.5", 15], image="1")]))
    [annotation] = document.annotations()
    assert annotation["bbox"] == [10, 5, 20.5, 15]
    assert annotation["image_id"] == 1


def test_ids_of_any_kind(make_coco: CocoMaker) -> None:
    entries = [box(4), box(4), box("text"), {k: v for k, v in box(0).items() if k != "id"}]
    document = read_document(make_coco(entries))
    assert [a["id"] for a in document.annotations()] == [4, 5, 6, 7]
    assert document.faults.counts == {FaultKind.DUPLICATE_ANNOTATION_ID: 1}


def test_images_that_are_left_out(make_coco: CocoMaker) -> None:
    good = {"id": 1, "file_name": "a.jpg", "height": 40, "width": 60}
    images = [
        good,
        good,
        {"id": 2},
        {"file_name": "b.jpg"},
        "text",
        {"id": True, "file_name": "c.jpg"},
    ]
    document = read_document(make_coco([box(1), box(2, image=2)], images))
    assert document.images == [good]
    assert document.faults.counts == {
        FaultKind.DUPLICATE_IMAGE_ID: 1,
        FaultKind.WRONG_TYPE: 4,
        FaultKind.UNKNOWN_IMAGE: 1,
    }


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "{}",
        '{"images": [], "annotations": []}',
        '{"images": [], "annotations": [], "categories": []}',
        '{"images": {}, "annotations": [], "categories": [{"id": 1}]}',
        '{"images": [], "annotations": {}, "categories": [{"id": 1}]}',
        '{"images": [], "annotations": [], "categories": [{"id": 1}, {"id": 1, "name": "x"}]}',
        '{"images": [], "annotations": [, "categories": [{"id": 1}]}',
        '{"images": [{"id": 1, "file_name": "a"}, {"id": 1, "file_name": "b"}],'
        ' "annotations": [], "categories": [{"id": 1}]}',
    ],
)
def test_files_that_stop(tmp_path: Path, text: str) -> None:
    path = tmp_path / "a.json"
    path.write_text(text)
    with pytest.raises(DataError, match=r"a\.json"):
        read_document(path)
    path.write_bytes("汽车".encode("gb18030") + text.encode())
    with pytest.raises(DataError, match=r"a\.json"):
        read_document(path)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "gb18030"])
def test_encodings(make_coco: CocoMaker, encoding: str) -> None:
    path = make_coco([box(1)], None, [{"id": 1, "name": "汽车"}], note="公路")
    content = json.dumps(json.loads(path.read_text(encoding="utf-8")), ensure_ascii=False)
    path.write_bytes(content.encode(encoding))
    document = read_document(path)
    assert document.names == ["汽车"]
    assert document.more == {"note": "公路"}
    assert [a["id"] for a in document.annotations()] == [1]


def test_lists_in_any_order_and_other_members(make_coco: CocoMaker) -> None:
    path = make_coco([box(1), box(2)], info={"year": 2024}, licenses=[{"id": 3}])
    content = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps(dict(reversed(content.items()))), encoding="utf-8")
    document = read_document(path)
    assert document.more == {"info": {"year": 2024}, "licenses": [{"id": 3}]}
    assert list(document.annotations()) == content["annotations"]
    assert list(document.annotations()) == content["annotations"]  # again


def test_subset(make_coco: CocoMaker) -> None:
    images = [{"id": i, "file_name": f"{i}.jpg", "height": 40, "width": 60} for i in range(4)]
    annotations = [box(n, image=n % 4, category=1 + n % 2) for n in range(8)]
    document = read_document(make_coco(annotations, images))
    part = document.subset([3, 1])
    assert [image["id"] for image in part.images] == [3, 1]
    assert [a["id"] for a in part.annotations()] == [1, 3, 5, 7]
    assert part.per_image().tolist() == [2, 2]
    assert part.per_category().tolist() == [0, 4]
    assert not len(list(document.subset([]).annotations()))
    groups = dict(part.by_image())
    assert [a["id"] for a in groups[0]] == [3, 7]


def test_more_annotations_than_are_packed_at_once(
    make_coco: CocoMaker,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(document_module, "_CHUNK", 8)
    document = read_document(make_coco([box(n, category=1 + n % 2) for n in range(21)]))
    assert document.per_category().tolist() == [11, 10]
    assert [a["id"] for a in document.annotations()] == list(range(21))
