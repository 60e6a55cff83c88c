"""Strict checking: every mistake at once, each with its place and a suggestion."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, Optional

import pytest

from detrkit.config.schema import expected
from detrkit.errors import ConfigError
from tests.config.conftest import Load, Write

GOOD = """\
epochs: 10
num_classes: 3
model: Net
Net: {backbone: Backbone, neck: Neck}
Backbone: {depth: 50}
optimizer: {type: Sgd, lr: 0.1}
train_dataloader:
  type: Loader
  dataset: {type: Dataset, folder: x, transforms: {ops: [{type: Resize, size: [3, 4]}]}}
"""


def problems(load: Load, text: str, **arguments: Any) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load(text, **arguments)
    return [str(problem) for problem in caught.value.problems]


def test_good_config_passes(load: Load) -> None:
    assert load(GOOD).run.epochs == 10


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ("epochs: 10", "epochs: many", "line 1  epochs: expected a whole number, got 'many'"),
        ("epochs: 10", "epochs: 1.5", "line 1  epochs: expected a whole number, got 1.5"),
        ("epochs: 10", "epochs: true", "line 1  epochs: expected a whole number, got True"),
        ("epochs: 10", "epoch: 10", "line 1  epoch: unknown key, did you mean `epochs`?"),
        (
            "epochs: 10",
            "eval_spatial_size: [1]",
            "line 1  eval_spatial_size: expected a list of 2 "
            "(a whole number, a whole number), got [1]",
        ),
        ("epochs: 10", "amp: bf32", "line 1  amp: expected 'bf16' or 'fp16' or 'off', got 'bf32'"),
        (
            "model: Net",
            "model: Nett",
            "line 3  model: unknown component `Nett`, did you mean `Net`?",
        ),
        (
            "model: Net",
            "model: 3",
            "line 3  model: expected a component (its name, or `type: …`), got 3",
        ),
        (
            "{backbone: Backbone,",
            "{backbone: BackBone,",
            "line 4  Net.backbone: unknown component `BackBone`, did you mean `Backbone`?",
        ),
        ("backbone: Backbone, ", "", "line 4  Net: Net needs `backbone`"),
        (
            "Backbone: {depth",
            "BackBone: {depth",
            "line 5  BackBone: unknown section, did you mean `Backbone`?",
        ),
        (
            "{depth: 50}",
            "{dept: 50}",
            "line 5  Backbone.dept: unknown argument, did you mean `depth`?",
        ),
        (
            "{depth: 50}",
            "{depth: '50'}",
            "line 5  Backbone.depth: expected a whole number, got '50'",
        ),
        (
            "{depth: 50}",
            "{sizes: [1, x]}",
            "line 5  Backbone.sizes: expected a list of a whole number or null, got [1, 'x']",
        ),
        ("type: Sgd, ", "", "line 6  optimizer: needs `type`, the name of a component"),
        (
            "type: Sgd",
            "type: SGd",
            "line 6  optimizer: unknown component `SGd`, did you mean `Sgd`?",
        ),
        (", lr: 0.1", "", "line 6  optimizer: Sgd needs `lr`"),
        (
            "lr: 0.1",
            "lr: 0.1, momentun: 1",
            "line 6  optimizer.momentun: unknown argument of Sgd, did you mean `momentum`?",
        ),
        (
            "type: Resize, size",
            "type: Resize, sise",
            "line 9  train_dataloader.dataset.transforms.ops.0.sise: "
            "unknown argument of Resize, did you mean `size`?",
        ),
        ("folder: x, ", "", "line 9  train_dataloader.dataset: Dataset needs `folder`"),
    ],
)
def test_mistakes(load: Load, old: str, new: str, problem: str) -> None:
    assert old in GOOD
    assert problem in problems(load, GOOD.replace(old, new))


def test_all_at_once(load: Load) -> None:
    text = GOOD.replace("depth: 50", "dept: 50").replace("epochs: 10", "epochs: many")
    found = problems(load, text, update=["clip_max_nrom=1", "optimizer.lr=fast"])
    assert found == [
        "line 5  Backbone.dept: unknown argument, did you mean `depth`?",
        "--update  optimizer.lr: expected a number, got 'fast'",
        "line 1  epochs: expected a whole number, got 'many'",
        "--update  clip_max_nrom: unknown key, did you mean `clip_max_norm`?",
    ]


def test_message_names_file_count_and_hint(load: Load) -> None:
    with pytest.raises(ConfigError) as caught:
        load(GOOD.replace("epochs", "epoch"))
    assert caught.value.message.startswith("1 problem in ")
    assert "show-config" in (caught.value.hint or "")


def test_problem_of_an_include_names_that_file(load: Load, write: Write) -> None:
    write("base.yml", "\nBackbone: {dept: 5}\n")
    (found,) = problems(load, "__include__: base.yml\nmodel: Net\nNet: {backbone: Backbone}\n")
    assert found.startswith(str(write("base.yml", "")) + ":2  Backbone.dept")


def test_components_that_need_each_other(load: Load) -> None:
    text = "model: A\nA: {type: Net, backbone: B}\nB: {type: Net, backbone: A}\n"
    assert problems(load, text) == ["line 3  B.backbone: components need each other: A -> B -> A"]


def test_data_replaces_missing_paths(load: Load) -> None:
    text = "data: ./d\ntrain_dataloader: {type: Loader, dataset: {type: Dataset}}\n"
    assert load(text).run.data == "./d"


def test_data_replaces_the_type_but_not_the_transforms(load: Load) -> None:
    text = (
        "data: ./d\n"
        "train_dataloader:\n"
        "  type: Loader\n"
        "  dataset: {transforms: {ops: [{type: Resize, sise: 3, size: [1]}]}}\n"
    )
    assert problems(load, text) == [
        "line 4  train_dataloader.dataset.transforms.ops.0.sise: "
        "unknown argument of Resize, did you mean `size`?"
    ]
    assert problems(load, text.replace("data: ./d", "epochs: 3").replace("sise: 3, ", "")) == [
        "line 4  train_dataloader.dataset: needs `type`, the name of a component"
    ]


def test_data_does_not_excuse_a_model(load: Load) -> None:
    assert problems(load, "data: ./d\nmodel: Net\n") == ["line 2  model: Net needs `backbone`"]


def test_unused_sections_are_no_mistake(load: Load, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG, "detrkit"):
        load(GOOD + "Adam: {nonsense: 1}\nother: {type: Neck, nonsense: 1}\n")
    assert "section `Adam` is not used" in caplog.text
    assert "section `other` is not used" in caplog.text


def test_unused_section_of_unknown_type(load: Load) -> None:
    assert problems(load, GOOD + "other: {type: Nekc}\n") == [
        "line 10  other: unknown component `Nekc`, did you mean `Neck`?"
    ]


def test_shared_key_against_section_warns(load: Load, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "detrkit"):
        load(GOOD + "Neck: {num_classes: 5}\n")
    assert "Neck.num_classes is 5" in caplog.text
    caplog.clear()
    with caplog.at_level(logging.WARNING, "detrkit"):
        load(GOOD + "Neck: {num_classes: 3}\n")
    assert not caplog.records


def test_null_section_uses_defaults(load: Load) -> None:
    assert load(GOOD + "Neck:\n").get("Neck", 1) is None


def test_strict_false_only_reads(load: Load) -> None:
    assert load("epoch: x\nmodel: Nothing\n", strict=False).tree == {
        "epoch": "x",
        "model": "Nothing",
    }


class Unknown:
    """Says nothing about plain data."""


@pytest.mark.parametrize(
    ("value", "annotation", "fits"),
    [
        (1, float, True),
        (True, int, False),
        (1, bool, False),
        (1.0, int, False),
        (None, Optional[int], True),  # noqa: UP045
        (None, int | None, True),
        (None, int, False),
        ("a", Literal["a", "b"], True),
        (1, Literal[True], False),
        ([1, 2], tuple[int, int], True),
        ([1, 2, 3], tuple[int, int], False),
        ([1, 2, 3], tuple[int, ...], True),
        ([1, "a"], list[int], False),
        ([1, "a"], list, True),
        ([1, 2], Sequence[float], True),
        ("ab", Sequence[str], False),
        ({"a": 1}, dict[str, float], True),
        ({"a": "x"}, dict[str, float], False),
        ([1], dict, False),
        ("x", Unknown, True),
        ("x", Path, True),
        ("x", "not resolved", True),
        ("x", Any, True),
    ],
)
def test_types(value: Any, annotation: Any, fits: bool) -> None:
    assert (expected(value, annotation) is None) is fits


@pytest.mark.parametrize("written", ["off", "'off'", "false"])
def test_off_is_what_yaml_takes_for_false(load: Load, written: str) -> None:
    assert load(f"{GOOD}amp: {written}\n").run.amp == "off"
    assert load(GOOD, update=[f"amp={written}"]).run.amp == "off"
