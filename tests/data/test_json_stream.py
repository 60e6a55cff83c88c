"""Streaming JSON gives what `json` gives, wherever the window ends."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from detrkit.data import json_stream
from detrkit.data.json_stream import JsonFile, StreamedList
from detrkit.data.text import read_json
from detrkit.errors import DataError
from tests.data.test_coco_writer import JSON

Write = Callable[[str], JsonFile]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def writer(text: str, encoding: str = "utf-8") -> JsonFile:
        path = tmp_path / "a.json"
        path.write_bytes(text.encode(encoding, "surrogatepass"))
        return JsonFile(path)

    return writer


@given(
    st.dictionaries(st.text(), JSON, max_size=4),
    st.lists(JSON, max_size=5),
    st.sampled_from([None, 0, 3]),
    st.booleans(),
    st.integers(1, 60),
)
@settings(max_examples=150)
def test_any_object_through_any_window(
    tmp_path_factory: pytest.TempPathFactory,
    members: dict,
    entries: list,
    indent: int | None,
    ascii_only: bool,
    window: int,
) -> None:
    content = members | {"annotations": entries}
    text = json.dumps(content, indent=indent, ensure_ascii=ascii_only)
    path = tmp_path_factory.mktemp("json") / "a.json"
    try:
        path.write_text(text, encoding="utf-8", newline="")
    except UnicodeEncodeError:
        path.write_text(json.dumps(content, indent=indent), encoding="utf-8", newline="")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_stream, "_CHUNK", window)
        file = JsonFile(path)
        assert file.members() == content
        assert file.members(skip=["annotations"]) == {
            **content,
            "annotations": StreamedList(len(entries)),
        }
        assert list(file.entries("annotations")) == entries


@pytest.mark.parametrize("encoding", ["utf-8-sig", "gb18030"])
def test_encodings(write: Callable[..., JsonFile], encoding: str) -> None:
    file = write(json.dumps({"name": "汽车", "a": [1]}, ensure_ascii=False), encoding)
    assert file.members(["a"]) == {"name": "汽车", "a": StreamedList(1)}


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{",
        '{"a"',
        '{"a": ',
        '{"a": [1, 2',
        '{"a": [1, 2 3]}',
        '{"a": [1,, 2]}',
        '{"a": [1,]}',
        '{"a": [1] "b": 2}',
        '{"a": 1,}',
        "{'a': 1}",
        '{"a": 1} x',
        '{"a": "never closed}',
        '{"a": [{"b": tru}]}',
        '{"a": 1e}',
        '{"a": ' + "[" * 200_000,
        '{"a": ' + "9" * 5000 + "}",
        "\n\n  nonsense",
    ],
    ids=lambda text: text[:20],
)
@pytest.mark.parametrize("window", [1, 7, 1 << 20])
def test_what_is_not_json_stops(
    write: Write, monkeypatch: pytest.MonkeyPatch, text: str, window: int
) -> None:
    monkeypatch.setattr(json_stream, "_CHUNK", max(window, len(text) // 50))
    file = write(text)
    for read in (file.members, lambda: file.members(["a"])):
        with pytest.raises(DataError, match=r"a\.json: line \d+, column \d+") as caught:
            read()
        assert caught.value.exit_code == 4


@pytest.mark.parametrize("window", [2, 5, 1 << 20])
def test_the_place_of_an_error_is_that_of_json(
    write: Write, monkeypatch: pytest.MonkeyPatch, window: int
) -> None:
    monkeypatch.setattr(json_stream, "_CHUNK", window)
    file = write('{"a": [1,\n  {"b": 2},\n  {"b" 3}\n]}')
    messages = []
    for read in (lambda: read_json(file.path), file.members, lambda: list(file.entries("a"))):
        with pytest.raises(DataError) as caught:
            read()
        messages.append(caught.value.message)
    assert messages[0] == messages[1] == messages[2]
    assert "line 3, column 8" in messages[0]


@pytest.mark.parametrize("text", ['{"b": [1]}', '{"a": {"c": 1}}', '{"a": 3}', "{}"])
def test_no_such_list(write: Write, text: str) -> None:
    with pytest.raises(DataError, match="`a` must be a list"):
        list(write(text).entries("a"))


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="missing file"):
        JsonFile(tmp_path / "none.json").members()
    (tmp_path / "bytes.json").write_bytes(b"\xff\xff\x00\x81")
    with pytest.raises(DataError, match="not a text file"):
        JsonFile(tmp_path / "bytes.json").members()
