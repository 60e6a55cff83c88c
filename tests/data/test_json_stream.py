"""Reading in pieces gives what reading as a whole gives, mistakes included."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from detrkit.data.json_stream import JsonStream
from detrkit.data.text import read_json
from detrkit.data.utf8 import Encoding, NotUtf8
from detrkit.errors import DataError


class Entry(msgspec.Struct, gc=False):
    id: int
    name: str = ""


ENTRIES = msgspec.json.Decoder(list[Entry])

TEXT = st.text(st.sampled_from('ab"\\{}[],: \n\té日🙂'), max_size=8)
VALUE = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=8,
)
ENTRY = st.fixed_dictionaries(
    {"id": st.integers(-9, 9) | VALUE}, optional={"name": TEXT, "polygon": VALUE, "rle": VALUE}
)
OBJECT = st.dictionaries(TEXT, VALUE | st.lists(ENTRY, max_size=9), max_size=4)
LAYOUT = st.sampled_from([None, 0, 2])
BLOCK = st.integers(1, 300)


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("json") / "x.json"


def streamed(path: Path, block: int, encoding: Encoding = "utf-8") -> dict[str, Any]:
    """The whole file through the stream."""
    found: dict[str, Any] = {}
    with JsonStream(path, encoding, block) as stream:
        for key in stream:
            if not stream.is_list():
                found[key] = stream.value()
                continue
            found[key] = []
            for part in stream.elements(ENTRIES):
                assert (part.typed is None) is not (part.plain is None)
                found[key] += part.typed or part.plain or []
    return found


def alike(value: Any, typed: Any) -> bool:
    """Whether a typed entry is what `json` makes of it."""
    if isinstance(typed, Entry):
        return (typed.id, typed.name) == (value["id"], value.get("name", ""))
    return json.dumps(value) == json.dumps(typed)  # NaN equals NaN here


@given(OBJECT, LAYOUT, BLOCK, st.sampled_from(["utf-8", "utf-8-sig"]), st.booleans())
def test_any_object(
    file: Path, content: dict, indent: int | None, block: int, encoding: str, ascii: bool
) -> None:
    file.write_bytes(json.dumps(content, indent=indent, ensure_ascii=ascii).encode(encoding))
    found = streamed(file, block)
    assert list(found) == list(content)
    for key, value in content.items():
        if isinstance(value, list):
            assert len(value) == len(found[key])
            assert all(map(alike, value, found[key]))
        else:
            assert alike(value, found[key])
    with JsonStream(file, block=block) as stream:  # and skipping everything
        assert list(stream) == list(content)


def test_ordinary_entries_are_typed(file: Path) -> None:
    content = {"a": [{"id": i, "name": "}, {", "polygon": [[1, 2]]} for i in range(1000)]}
    file.write_text(json.dumps(content))
    with JsonStream(file, block=5000) as stream:
        for _ in stream:
            parts = [p.typed for p in stream.elements(ENTRIES) if p.typed is not None]
    assert sum(map(len, parts)) > 800
    assert len(parts) > 5


def whole(path: Path) -> tuple[Any, DataError | None]:
    """What reading the file at once gives."""
    try:
        return read_json(path), None
    except DataError as error:
        return None, error


def place_of(error: DataError) -> tuple[str, ...] | None:
    found = re.search(r"line (\d+), column (\d+)", error.message)
    return found.groups() if found else None


@given(OBJECT, LAYOUT, BLOCK, st.sampled_from(["utf-8", "gb18030"]), st.data())
@example({"images": [{"id": 1}]}, None, 5, "utf-8", None)
def test_mistakes_are_where_json_says(
    file: Path,
    content: dict,
    indent: int | None,
    block: int,
    encoding: Encoding,
    data: st.DataObject | None,
) -> None:
    text = json.dumps(content, indent=indent, ensure_ascii=False)
    if data is None:
        text = text[:-3]
    else:
        at = data.draw(st.integers(0, len(text)))
        inserted = data.draw(st.sampled_from(["", ",", '"', "]", "}", "{", "\\", "x", "\x00"]))
        dropped = data.draw(st.integers(0, 3) | st.just(10_000))
        text = text[:at] + inserted + text[at + dropped :]
    file.write_bytes(text.encode(encoding))
    expected, mistake = whole(file)
    if mistake is not None:
        with pytest.raises(DataError) as caught:
            streamed(file, block, encoding)
        assert "\n" not in caught.value.message
        assert "not readable as JSON" in caught.value.message
        assert place_of(caught.value) == place_of(mistake)
    elif not isinstance(expected, dict):
        with pytest.raises(DataError, match="expected a JSON object"):
            streamed(file, block, encoding)
    else:
        assert set(streamed(file, block, encoding)) == set(expected)


@given(OBJECT.filter(lambda c: not json.dumps(c, ensure_ascii=False).isascii()), BLOCK)
def test_other_encodings_are_noticed(file: Path, content: dict, block: int) -> None:
    data = json.dumps(content, ensure_ascii=False).encode("gb18030")
    try:
        data.decode("utf-8")
    except UnicodeDecodeError as error:
        if error.reason == "unexpected end of data":
            return
    else:
        return
    file.write_bytes(data)
    with pytest.raises(NotUtf8):
        streamed(file, block)
    found = streamed(file, block, "gb18030")
    assert list(found) == list(content)
    assert all(len(found[k]) == len(v) for k, v in content.items() if isinstance(v, list))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "line 1, column 1"),
        ("[1, 2]", "expected a JSON object"),
        ("<html>", "line 1, column 1"),
        ('{"a": 1} x', "line 1, column 10"),
        ('{"a": 1,\n "b": [{"id": 1},\n {"id" 2}]}', "line 3, column 8"),
        ('{"a": [' + "[" * 100_000, "nested too deeply"),
        ('{"a": ' + "1" * 5000 + "}", "digits"),
        ('{"日本": [{"id": 1}, {"id": x}]}', "line 1, column 27"),
    ],
)
@pytest.mark.parametrize("block", [1, 10_000_000])
def test_files_that_stop(tmp_path: Path, text: str, expected: str, block: int) -> None:
    (tmp_path / "x.json").write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match=expected) as caught:
        streamed(tmp_path / "x.json", block)
    assert "x.json" in caught.value.message


def test_missing_and_unreadable_files(tmp_path: Path) -> None:
    for path in (tmp_path / "nowhere.json", tmp_path):
        with pytest.raises(DataError, match=re.escape(str(path))):
            streamed(path, 100)
