from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from detrkit.data.coco_writer import CocoCounts, write_coco
from detrkit.errors import DetrkitError

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
    # lone surrogates stand for bytes of file names that are not UTF-8
    | st.text(st.characters(exclude_categories=())),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)  # fmt: skip
ENTRIES = st.lists(st.dictionaries(st.text(), JSON, max_size=4), max_size=4)


@given(ENTRIES, ENTRIES, ENTRIES, st.dictionaries(st.text(), JSON, max_size=3))
@settings(max_examples=60)
def test_what_is_written_is_read(
    tmp_path_factory: pytest.TempPathFactory,
    images: list,
    annotations: list,
    categories: list,
    more: dict,
) -> None:
    path = tmp_path_factory.mktemp("coco") / "new" / "a.json"
    counts = write_coco(
        path, images=images, annotations=iter(annotations), categories=categories, more=more
    )
    own = {"images": images, "annotations": annotations, "categories": categories}
    assert json.loads(path.read_text(encoding="utf-8")) == more | own
    assert counts == CocoCounts(len(categories), len(images), len(annotations))


def test_one_entry_a_line_and_readable_names(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    images = [{"id": 1, "file_name": "猫 'a'.jpg"}, {"id": 2, "file_name": "b.jpg"}]
    write_coco(path, images=images, annotations=[], categories=[])
    assert '\n{"id":1,"file_name":"猫 \'a\'.jpg"},\n' in path.read_text(encoding="utf-8")


def test_more_entries_than_are_written_at_once(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    entries = ({"id": number} for number in range(2501))
    counts = write_coco(path, images=[], annotations=entries, categories=[])
    assert counts.annotations == 2501
    assert [a["id"] for a in json.loads(path.read_text())["annotations"]] == list(range(2501))


def test_numbers_that_json_lacks_become_null(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    entry = {"bbox": [float("nan"), 1.5], "extra": {"a": float("inf")}, "name": "猫"}
    write_coco(path, images=[], annotations=[entry, {"id": 2}], categories=[])
    expected = [{"bbox": [None, 1.5], "extra": {"a": None}, "name": "猫"}, {"id": 2}]
    assert json.loads(path.read_text(encoding="utf-8"))["annotations"] == expected


def test_a_failure_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_coco(path, images=[{"id": 1}], annotations=[], categories=[])
    before = path.read_bytes()

    def full():
        yield {"id": 1}
        raise OSError(28, "No space left on device")

    with pytest.raises(DetrkitError, match="no space left"):
        write_coco(path, images=[], annotations=full(), categories=[])
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]
    with pytest.raises(DetrkitError, match="cannot write"):
        write_coco(path / "below.json", images=[], annotations=[], categories=[])
