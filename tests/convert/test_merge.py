"""Several data sets as one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from detrkit.convert.from_coco import read_document
from detrkit.convert.merge import merge
from detrkit.convert.operations import Source, Target, merge_datasets
from detrkit.convert.placing import Place
from detrkit.data import open_dataset, open_splits
from detrkit.data.faults import FaultKind
from tests.convert.sets import read_coco_files, write_coco_set
from tests.data.conftest import box

CAT, DOG, COW = ({"id": i, "name": n} for i, n in enumerate(("cat", "dog", "cow"), start=1))


def content(
    annotations: list[dict],
    *,
    ids: tuple[Any, ...] = (1,),
    categories: Any = (CAT, DOG),
    **more: Any,
) -> dict[str, Any]:
    images = [{"id": i, "file_name": f"{i}.png", "height": 40, "width": 60} for i in ids]
    return {"images": images, "annotations": annotations, "categories": list(categories)} | more


def document(root: Path, what: dict[str, Any]) -> Any:
    return read_document(write_coco_set(root, {"train": what}) / "annotations/instances_train.json")


def test_classes_by_name(tmp_path: Path) -> None:
    first = document(tmp_path / "a", content([box(1, category=2)]))
    swapped = ({"id": 1, "name": "dog"}, {"id": 2, "name": "cow"}, {"id": 9, "name": "ant"})
    other = [box(1, category=1), box(2, category=2), box(3, category=9)]
    second = document(tmp_path / "b", content(other, categories=swapped))
    merged = merge([first, second]).document
    found = {c["name"]: c["id"] for c in merged.categories}
    assert found == {"cat": 1, "dog": 2, "cow": 3, "ant": 9}
    names = {v: k for k, v in found.items()}
    written = list(merged.annotations())
    assert [names[a["category_id"]] for a in written] == ["dog", "dog", "cow", "ant"]


def test_ids_that_are_taken(tmp_path: Path) -> None:
    first = document(tmp_path / "a", content([box(1), box(5)], ids=(1, 4)))
    second = document(tmp_path / "b", content([box(5), box(2, image=3)], ids=(1, 3)))
    merged = merge([first, second])
    assert [i["id"] for i in merged.document.images] == [1, 4, 5, 3]
    assert merged.renumbered == 1
    pairs = [(a["id"], a["image_id"]) for a in merged.document.annotations()]
    assert pairs == [(1, 1), (5, 1), (6, 5), (2, 3)]


def test_text_ids_that_are_taken(tmp_path: Path) -> None:
    parts = [document(tmp_path / n, content([box(1, image="x")], ids=("x", "y"))) for n in "ab"]
    merged = merge(parts).document
    assert [i["id"] for i in merged.images] == ["x", "y", "x_2", "y_2"]
    assert [a["image_id"] for a in merged.annotations()] == ["x", "x_2"]


def test_one_file_in_two_sources(tmp_path: Path) -> None:
    """People annotated, then cars on the same pictures; a box that both have counts once."""
    both = content([box(1), box(2, category=2), box(3, bbox=[0, 0, 3, 3])], ids=(1, 2))
    root = write_coco_set(tmp_path, {"train": both})
    file = root / "annotations/instances_train.json"
    again = content([box(1), box(1), box(7, bbox=[1, 2, 3, 4])], ids=(2, 1))
    again["annotations"][1]["image_id"] = 2
    other = write_coco_set(tmp_path / "x", {"train": again}) / "annotations/instances_train.json"
    merged = merge([read_document(file), read_document(other, root / "images/train")])
    result = merged.document
    assert (len(result), merged.joined) == (2, 2)
    assert [i["file_name"] for i in result.images] == ["1.png", "2.png"]
    found = [(a["image_id"], a["bbox"]) for a in result.annotations()]
    assert found[3:] == [(2, [10, 5, 20, 15]), (1, [1, 2, 3, 4])]
    assert result.faults.counts[FaultKind.REPEATED_BOX] == 1


def test_licenses_keep_their_meaning(tmp_path: Path) -> None:
    free, paid = {"id": 1, "name": "free"}, {"id": 1, "name": "paid"}
    parts = []
    for name, entries in (("a", [free]), ("b", [paid, {"id": 2, "name": "free"}])):
        what = content([], ids=(1, 2), licenses=entries)
        for image, entry in zip(what["images"], [*entries, *entries], strict=False):
            image["license"] = entry["id"]
        parts.append(document(tmp_path / name, what))
    merged = merge(parts).document
    names = {e["id"]: e["name"] for e in merged.more["licenses"]}
    assert [names[i["license"]] for i in merged.images] == ["free", "free", "paid", "free"]
    assert len(names) == 2


def test_split_by_split(tmp_path: Path) -> None:
    """A class of one split of one source belongs to all splits of the result."""
    a = write_coco_set(tmp_path / "a", {"train": content([box(1)]), "val": content([])})
    cow = content([box(1, category=3)], ids=(5,), categories=(COW,))
    b = write_coco_set(tmp_path / "b", {"val": cow})
    summary = merge_datasets([Source(a), Source(b)], Target(tmp_path / "out", Place.refer))
    written = read_coco_files(tmp_path / "out")
    assert {s: len(c["images"]) for s, c in written.items()} == {"train": 1, "val": 2}
    for part in written.values():
        assert [c["name"] for c in part["categories"]] == ["cat", "dog", "cow"]
    assert summary.classes == ["cat", "dog", "cow"]
    parts = open_splits(tmp_path / "out")
    assert [len(parts[s]) for s in ("train", "val")] == [1, 2]


def test_all_splits_in_one_file(tmp_path: Path) -> None:
    a = write_coco_set(tmp_path / "a", {"train": content([box(1)]), "val": content([box(1)])})
    merge_datasets([Source(a)], Target(tmp_path / "all.json", Place.refer))
    index = open_dataset(tmp_path / "all.json")
    assert (len(index), index.num_boxes) == (2, 2)


@pytest.mark.parametrize("place", [Place.refer, Place.link])
def test_equal_file_names(tmp_path: Path, place: Place) -> None:
    """Both sources have a 1.png; they are two pictures."""
    roots = [write_coco_set(tmp_path / n, {"train": content([box(1)])}) for n in "ab"]
    out = tmp_path / "out"
    merge_datasets([Source(root) for root in roots], Target(out, place))
    index = open_splits(out)["train"]
    files = {Path(p).stat().st_ino for p in index.paths}
    assert files == {(r / "images/train/1.png").stat().st_ino for r in roots}
    assert len({Path(p).resolve() for p in index.paths}) == 2
