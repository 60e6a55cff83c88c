from __future__ import annotations

import gc
import pickle
import shutil
from dataclasses import replace
from multiprocessing import Queue, get_context
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from detrkit.data.faults import FaultKind
from detrkit.data.index import FORMAT, DatasetIndex
from detrkit.data.strings import PackedStrings
from detrkit.errors import DataError, UsageError
from detrkit.structures import ClassMap


def make_index(counts: list[int]) -> DatasetIndex:
    """Images with so many boxes; every value tells which box it is."""
    total = sum(counts)
    rows = np.arange(total)
    return DatasetIndex(
        paths=PackedStrings.pack(f"é{i}.jpg" for i in range(len(counts))),
        sizes=np.stack([np.arange(len(counts)) + 1] * 2, 1).astype(np.int32),
        image_ids=np.arange(len(counts)) * 10,
        offsets=np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
        boxes_xyxy=np.stack([rows, rows, rows + 1, rows + 1], 1).astype(np.float32),
        labels=rows % 3,
        iscrowd=rows % 5 == 4,
        area=np.ones(total),
        annotation_ids=rows + 100,
        class_map=ClassMap.from_names("abc"),
        apply_exif=np.ones(len(counts), bool),
        source="test",
    )


COUNTS = st.lists(st.integers(0, 4), min_size=1, max_size=12)


@settings(deadline=None)
@given(COUNTS, st.data())
def test_subset_keeps_each_image_with_its_boxes(counts: list[int], data: st.DataObject) -> None:
    index = make_index(counts)
    chosen = data.draw(st.lists(st.integers(0, len(counts) - 1), max_size=8))
    part = index.subset(chosen)
    assert len(part) == len(chosen)
    for new, old in enumerate(chosen):
        assert part.paths[new] == index.paths[old]
        assert part.image_id(new) == index.image_id(old)
        np.testing.assert_array_equal(
            part.annotation_ids[part.boxes_of(new)], index.annotation_ids[index.boxes_of(old)]
        )


@settings(deadline=None)
@given(COUNTS.filter(lambda c: len(c) > 1), st.floats(0.01, 0.99), st.integers(0, 9))
def test_split_is_a_partition(counts: list[int], fraction: float, seed: int) -> None:
    index = make_index(counts)
    train, val = index.split(fraction, seed)
    assert len(train) >= 1
    assert len(val) >= 1
    assert sorted([*train.image_ids, *val.image_ids]) == index.image_ids.tolist()
    assert train.num_boxes + val.num_boxes == index.num_boxes


def test_split_needs_two_images() -> None:
    with pytest.raises(UsageError, match="cannot be split"):
        make_index([3]).split(0.5)


@settings(deadline=None)
@given(st.lists(st.text(st.characters(codec="utf-8"), max_size=6), max_size=6))
def test_packed_strings_round_trip(strings: list[str]) -> None:
    packed = pickle.loads(pickle.dumps(PackedStrings.pack(strings)))
    assert list(packed) == strings
    assert [packed[-i - 1] for i in range(len(packed))] == strings[::-1]
    with pytest.raises(IndexError):
        packed[len(strings)]


def test_undecodable_file_names_survive() -> None:
    name = b"caf\xe9.jpg".decode("utf-8", "surrogateescape")
    assert PackedStrings.pack([name])[0] == name


def test_concat_numbers_colliding_ids_anew() -> None:
    both = DatasetIndex.concat([make_index([1, 2]), make_index([0, 3])])
    assert len(both) == 4
    assert both.num_boxes == 6
    assert len(set(both.image_ids.tolist())) == 4
    assert len(set(both.annotation_ids.tolist())) == 6
    assert np.diff(both.offsets).tolist() == [1, 2, 0, 3]


def test_pickled_index_is_small_and_equal() -> None:
    index = make_index([2] * 1000)
    data = pickle.dumps(index)
    assert len(data) < 250_000
    np.testing.assert_array_equal(pickle.loads(data).boxes_xyxy, index.boxes_xyxy)


def test_boxes_per_class_leave_crowds_out() -> None:
    index = make_index([10])
    assert index.boxes_per_class().sum() == 8


def columns(index: DatasetIndex) -> dict[str, object]:
    """Everything in an index, comparable."""
    return {
        "paths": list(index.paths),
        "ids": [index.image_id(i) for i in range(len(index))],
        **{
            name: getattr(index, name).tolist()
            for name in (
                *("sizes", "offsets", "boxes_xyxy", "labels", "iscrowd", "area"),
                *("annotation_ids", "apply_exif"),
            )
        },
        "class_map": index.class_map,
        "faults": index.faults,
        "source": index.source,
    }


@pytest.mark.parametrize("ids", ["numbers", "text"])
@pytest.mark.parametrize("counts", [[2, 0, 3], [0], [1] * 50])
def test_saved_and_loaded(tmp_path: Path, counts: list[int], ids: str) -> None:
    index = make_index(counts)
    if ids == "text":
        index = replace(index, image_ids=PackedStrings.pack(f"日/{i}" for i in range(len(counts))))
    index.faults.add(FaultKind.EMPTY_BOX, "a.json", "annotation 3", "x", count=4)
    index.save(tmp_path / "index")
    loaded = DatasetIndex.load(tmp_path / "index")
    assert columns(loaded) == columns(index)
    assert isinstance(loaded.boxes_xyxy.base, np.memmap)
    with pytest.raises(ValueError, match="read-only"):
        loaded.boxes_xyxy[:] = 0
    assert [f.name for f in tmp_path.iterdir()] == ["index"]


def test_saving_replaces_an_index_and_nothing_else(tmp_path: Path) -> None:
    make_index([1]).save(tmp_path / "index")
    make_index([2]).save(tmp_path / "index")
    assert DatasetIndex.load(tmp_path / "index").num_boxes == 2
    (tmp_path / "photos").mkdir()
    with pytest.raises(UsageError, match="photos exists"):
        make_index([1]).save(tmp_path / "photos")


def test_damaged_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="not a complete index"):
        DatasetIndex.load(tmp_path / "nowhere")
    folder = tmp_path / "index"

    def saved() -> Path:
        make_index([2, 3]).save(folder)
        return folder

    (saved() / "labels.npy").unlink()
    with pytest.raises(DataError, match="not a complete index"):
        DatasetIndex.load(folder)
    (saved() / "area.npy").write_bytes((folder / "area.npy").read_bytes()[:-1])
    with pytest.raises(DataError, match="not a complete index"):
        DatasetIndex.load(folder)
    np.save(saved() / "area.npy", np.zeros(3))
    with pytest.raises(DataError, match="damaged"):
        DatasetIndex.load(folder)
    head = (saved() / "index.json").read_text(encoding="utf-8")
    (folder / "index.json").write_text(head.replace(f'"format": {FORMAT}', '"format": 0'))
    with pytest.raises(DataError, match="another version"):
        DatasetIndex.load(folder)


def test_a_failed_save_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: object, **options: object) -> None:
        raise OSError(28, "No space left on device")

    make_index([1]).save(tmp_path / "index")
    monkeypatch.setattr(np, "save", full)
    with pytest.raises(OSError, match="No space"):
        make_index([2]).save(tmp_path / "index")
    assert [f.name for f in tmp_path.iterdir()] == ["index"]
    assert DatasetIndex.load(tmp_path / "index").num_boxes == 1


def report_to(results: Queue, indices: dict[str, DatasetIndex]) -> None:
    mapped = {name: isinstance(i.boxes_xyxy.base, np.memmap) for name, i in indices.items()}
    results.put((mapped, {name: columns(index) for name, index in indices.items()}))


def test_a_large_index_reaches_new_processes_as_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("detrkit.data.index._SHARED_FROM", 10_000)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    make_index([100, 300]).save(tmp_path / "index")
    loaded = DatasetIndex.load(tmp_path / "index")
    indices = {
        "small": make_index([1]),
        "in memory": make_index([300, 100]),
        "loaded": loaded,
        "changed": replace(loaded, class_map=ClassMap.from_names("xyz")),
        "part": loaded.subset([1]),
    }
    methods = get_context("spawn")
    results = methods.Queue()
    process = methods.Process(target=report_to, args=(results, indices))
    process.start()
    mapped, found = results.get(timeout=120)
    process.join()
    assert mapped == {name: name != "small" for name in indices}
    assert found == {name: columns(index) for name, index in indices.items()}
    assert len(list(tmp_path.glob("detrkit-index-*"))) == 3
    del indices
    gc.collect()
    assert not list(tmp_path.glob("detrkit-index-*"))


def test_pickled_elsewhere_an_index_is_complete(tmp_path: Path) -> None:
    make_index([3]).save(tmp_path / "index")
    data = pickle.dumps(DatasetIndex.load(tmp_path / "index"))
    shutil.rmtree(tmp_path / "index")
    assert columns(pickle.loads(data)) == columns(make_index([3]))
