"""Reading YAML: numbers, encodings, includes, variables, mistakes with their lines."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from detrkit.config import load_config
from detrkit.config.loader import parse_value
from detrkit.errors import ConfigError
from tests.config.conftest import Write


def read(path: Path) -> dict[str, Any]:
    return load_config(path, strict=False).tree


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-4", 1e-4),
        ("1E5", 1e5),
        ("-2.5e+3", -2500.0),
        ("1_000.5", 1000.5),
        ("1.", 1.0),
        (".5", 0.5),
        (".inf", math.inf),
        ("12", 12),
        ("0x10", 16),
        ("on", True),
        ("No", False),
        ("~", None),
        ("", None),
        ("2024-05-01", "2024-05-01"),
        ("1.2.3", "1.2.3"),
        ("e5", "e5"),
        ("'1e-4'", "1e-4"),
        ("[1e-4, {a: b}]", [1e-4, {"a": "b"}]),
    ],
)
def test_values(text: str, value: Any) -> None:
    got = parse_value(text)
    assert got == value
    assert type(got) is type(value)


def test_utf8_bom_utf16_and_gb18030(write: Write) -> None:
    for encoding in ("utf-8", "utf-8-sig", "gb18030", "utf-16"):
        path = write("a.yml", "exp_name: 检测\n".encode(encoding))
        assert read(path) == {"exp_name": "检测"}, encoding


def test_bytes_that_are_no_text(write: Write) -> None:
    with pytest.raises(ConfigError, match="neither UTF-8 nor GB18030"):
        read(write("a.yml", b"\x89PNG\xff\xff\xff"))


def test_empty_file_is_an_empty_config(write: Write) -> None:
    assert read(write("a.yml", "")) == {}
    assert read(write("b.yml", "# only a comment\n")) == {}


def test_key_given_twice_names_both_lines(write: Write) -> None:
    path = write("a.yml", "epochs: 1\nNeck:\n  hidden_dim: 1\n  x: 2\n  hidden_dim: 3\nepochs: 4\n")
    with pytest.raises(ConfigError) as caught:
        read(path)
    assert [str(p) for p in caught.value.problems] == [
        "line 6  epochs: given twice, also in line 1",
        "line 5  Neck.hidden_dim: given twice, also in line 3",
    ]


def test_merge_key_and_anchor(write: Write) -> None:
    path = write("a.yml", "a: &a {x: 1, y: 2}\nb:\n  <<: *a\n  y: 3\nc: *a\n")
    tree = read(path)
    assert tree == {"a": {"x": 1, "y": 2}, "b": {"x": 1, "y": 3}, "c": {"x": 1, "y": 2}}
    tree["a"]["x"] = 9
    assert tree["c"]["x"] == 1, "aliases must not share one object"


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        ("a: 1\nb: [1, 2\nc: 3\n", 3, "not valid YAML"),
        ("a:\n\tb: 1\n", 2, "tabs"),
        ("- 1\n- 2\n", 1, "expected `key: value`"),
        ("a: 1\nb: !!python/object/apply:os.system [ls]\n", 2, "not valid YAML"),
        ("a: &a [*a]\n", 1, "alias contains itself"),
        ("a: 1\n? [x, y]\n: 2\n", 2, "a key must be"),
        ("a: *nowhere\n", 1, "undefined alias"),
    ],
)
def test_broken_yaml_names_the_line(write: Write, text: str, line: int, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        read(write("a.yml", text))
    assert caught.value.problems[0].where.endswith(f"line {line}")


def test_alias_bomb_is_refused(write: Write) -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 9)]
    with pytest.raises(ConfigError, match="aliases that multiply"):
        read(write("a.yml", "\n".join(lines)))


def test_includes_merge_in_order_and_the_file_wins(write: Write) -> None:
    write("base/one.yml", "Neck: {hidden_dim: 1, num_classes: 1}\nepochs: 1\nsync_bn: true\n")
    write("base/two.yml", "__include__: three.yml\nNeck: {num_classes: 2}\nepochs: 2\n")
    write("base/three.yml", "epochs: 3\nsync_bn: false\n")
    path = write(
        "main.yml", "__include__:\n  - base/one.yml\n  - base/two.yml\nNeck: {hidden_dim: 9}\n"
    )
    config = load_config(path, strict=False)
    assert config.tree == {
        "Neck": {"hidden_dim": 9, "num_classes": 2},
        "epochs": 2,
        "sync_bn": False,
    }
    assert str(config.origin("Neck.hidden_dim")).endswith("main.yml:4")
    assert str(config.origin("Neck.num_classes")).endswith("two.yml:2")
    assert str(config.origin("sync_bn")).endswith("three.yml:2")


def test_lists_replace(write: Write) -> None:
    write("one.yml", "a: {b: [1, {c: 2}, 3]}\n")
    config = load_config(write("main.yml", "__include__: one.yml\na: {b: [4]}\n"), strict=False)
    assert config.tree == {"a": {"b": [4]}}
    assert ("a", "b", 1, "c") not in config.origins(), "origins of replaced values must go"


def test_one_file_included_twice_is_no_cycle(write: Write) -> None:
    write("base.yml", "epochs: 1\n")
    write("left.yml", "__include__: base.yml\n")
    write("right.yml", "__include__: base.yml\nepochs: 2\n")
    assert read(write("main.yml", "__include__: [left.yml, right.yml]\n")) == {"epochs": 2}


def test_cycle_is_named(write: Write) -> None:
    write("a.yml", "__include__: b.yml\n")
    path = write("b.yml", "\n__include__: [a.yml]\n")
    with pytest.raises(ConfigError, match=r"b\.yml -> a\.yml -> b\.yml"):
        read(path)


def test_missing_includes_are_reported_together(write: Write) -> None:
    path = write("main.yml", "epochs: 1\n__include__:\n  - no.yml\n  - nowhere.yml\n")
    with pytest.raises(ConfigError) as caught:
        read(path)
    assert [p.where for p in caught.value.problems] == ["line 3", "line 4"]
    assert "no.yml" in str(caught.value)
    assert "nowhere.yml" in str(caught.value)


def test_include_must_be_files(write: Write) -> None:
    with pytest.raises(ConfigError, match="expected a file or a list of files"):
        read(write("main.yml", "__include__: {a: 1}\n"))


def test_include_by_catalogue_path(write: Write) -> None:
    """A user's file outside the checkout can build on detrkit's configs."""
    tree = read(write("main.yml", "__include__: [dfine/include/n.yml]\nepochs: 3\n"))
    assert tree["HGNetv2"]["name"] == "B0"
    assert tree["epochs"] == 3
    assert read(write("b.yml", "__include__: dfine_n_coco\n"))["num_classes"] == 80


def test_variables(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DETRKIT_TEST_ROOT", "/data")
    monkeypatch.setenv("DETRKIT_TEST_EMPTY", "")
    monkeypatch.delenv("DETRKIT_TEST_UNSET", raising=False)
    path = write(
        "a.yml",
        "a: ${DETRKIT_TEST_ROOT}/x\n"
        "b: ${DETRKIT_TEST_UNSET:-y}/z\n"
        "c: ${DETRKIT_TEST_UNSET:-12}\n"
        'd: "${DETRKIT_TEST_UNSET:-12}"\n'
        "e: $${HOME}\n"
        "f: '^(?=.*a)$'\n"
        "g: ${DETRKIT_TEST_EMPTY:-full}\n"
        "h: '${DETRKIT_TEST_EMPTY}'\n",
    )
    assert read(path) == {
        "a": "/data/x",
        "b": "y/z",
        "c": 12,
        "d": "12",
        "e": "${HOME}",
        "f": "^(?=.*a)$",
        "g": "full",
        "h": "",
    }


def test_unset_variable_is_a_problem(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DETRKIT_TEST_UNSET", raising=False)
    with pytest.raises(ConfigError, match=r"line 2.*`DETRKIT_TEST_UNSET` is not set"):
        read(write("a.yml", "a: 1\nb: ${DETRKIT_TEST_UNSET}\n"))


def test_both_spellings_load(write: Write) -> None:
    tree = read(write("a.yml", "epoches: 12\nlrsheduler: flatcosine\n"))
    assert tree == {"epochs": 12, "lr_scheduler_kind": "flatcosine"}
    assert read(write("b.yml", "epoches: 12\nepochs: 12\n")) == {"epochs": 12}


def test_contradicting_spellings_are_an_error(write: Write) -> None:
    with pytest.raises(ConfigError, match=r"line 2  epoches: means the same as `epochs`"):
        read(write("a.yml", "epochs: 3\nepoches: 12\n"))


def test_spelling_of_a_later_file_wins(write: Write) -> None:
    write("base.yml", "epochs: 72\n")
    config = load_config(write("a.yml", "__include__: base.yml\nepoches: 12\n"), strict=False)
    assert config.get("epochs") == 12
    assert config.get("epoches") == 12, "either spelling reads the value"
    assert str(config.origin("epochs")).endswith("a.yml:2")
