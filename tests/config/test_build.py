"""Building: the authors' rules of names, types, injection and sharing; nothing is written back."""

from __future__ import annotations

import pytest

from detrkit.config import build, build_component
from detrkit.errors import ConfigError
from detrkit.registry import Registry
from tests.config.conftest import Load, Part

TEXT = """\
num_classes: 3
model: Net
Net: {backbone: Backbone, neck: Neck}
Backbone: {depth: 50, sizes: [1, 2]}
optimizer: {type: Sgd, lr: 0.1}
"""


def test_names_sections_and_shares(load: Load, registry: Registry) -> None:
    net = build(load(TEXT), "model", registry=registry)
    assert net.backbone.depth == 50
    assert net.neck.num_classes == 3
    assert net.neck.hidden_dim == 64


def test_ready_arguments(load: Load, registry: Registry) -> None:
    parameters = [object()]
    optimizer = build(load(TEXT), "optimizer", registry=registry, params=parameters, lr=5)
    assert optimizer.params is parameters
    assert optimizer.lr == 5
    net = build(load(TEXT), "model", registry=registry, neck="mine")
    assert net.neck == "mine"


def test_inline_type_does_not_look_at_the_section(load: Load, registry: Registry) -> None:
    text = TEXT.replace("backbone: Backbone", "backbone: {type: Backbone, name: b}")
    backbone = build(load(text), "model", registry=registry).backbone
    assert (backbone.depth, backbone.name, backbone.sizes) == (18, "b", None)


def test_section_with_another_name(load: Load, registry: Registry) -> None:
    text = (
        TEXT.replace("backbone: Backbone", "backbone: mine") + "mine: {type: Backbone, depth: 7}\n"
    )
    assert build(load(text), "model", registry=registry).backbone.depth == 7


def test_registered_name_without_section(load: Load, registry: Registry) -> None:
    assert build(load(TEXT), "Neck", registry=registry).num_classes == 3
    assert build_component(load(TEXT), "Backbone", registry=registry).depth == 50
    assert build_component(load(TEXT), {"type": "Backbone"}, registry=registry).depth == 18


def test_injected_list(load: Load, registry: Registry) -> None:
    text = "model: {type: Net, backbone: [Backbone, {type: Neck, hidden_dim: 2}, Backbone]}\n"
    first, second, third = build(load(text), "model", registry=registry).backbone
    assert (first.depth, second.hidden_dim, third.depth) == (18, 2, 18)
    assert first is not third


def test_shared_key_wins_over_the_section(load: Load, registry: Registry) -> None:
    config = load(TEXT + "Neck: {num_classes: 5}\n")
    assert build(config, "Neck", registry=registry).num_classes == 3
    one = config.with_values({"num_classes": None})
    assert build(one, "Neck", registry=registry).num_classes == 5


def test_nothing_is_written_back(load: Load, registry: Registry) -> None:
    config = load(TEXT)
    before = config.tree
    first, second = (build(config, "model", registry=registry) for _ in range(2))
    first.backbone.sizes.append(99)
    assert second.backbone.sizes == [1, 2]
    assert config.tree == before
    assert first is not second


def test_two_configs_do_not_mix(load: Load, registry: Registry) -> None:
    deep = load(TEXT)
    build(deep, "model", registry=registry)
    plain = load("model: Net\nNet: {backbone: Backbone}\n")
    assert build(plain, "model", registry=registry).backbone.depth == 18
    assert build(plain, "model", registry=registry).neck is None


@pytest.mark.parametrize(
    ("text", "key", "message"),
    [
        (TEXT, "criterion", "has no `criterion`"),
        ("optimizer: {lr: 1}\n", "optimizer", "main.yml:1: `optimizer` names no component"),
        ("model: Nett\n", "model", "main.yml:1: unknown component `Nett`, did you mean `Net`"),
        ("model: {type: Picky, side: 3}\n", "model", "`Picky` cannot be built: ValueError: side"),
        ("model: {type: Picky, sid: 3}\n", "model", "`Picky` cannot be built: TypeError"),
        ("A: {type: Net, backbone: A}\nmodel: A\n", "model", "need each other: A -> A"),
    ],
)
def test_errors_name_the_place(
    load: Load, registry: Registry, text: str, key: str, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        build(load(text, strict=False), key, registry=registry)


def test_component_that_is_a_function(load: Load, registry: Registry) -> None:
    part = build(load("model: {type: Picky, side: 4}\n"), "model", registry=registry)
    assert isinstance(part, Part)
    assert part.side == 4


def test_leftover_of_another_type_is_not_passed(load: Load, registry: Registry) -> None:
    config = load(
        "optimizer: {type: Adam, lr: 0.1, betas: [0.5, 0.9]}\n",
        update=["optimizer.type=Sgd"],
        strict=False,
    )
    assert build(config, "optimizer", registry=registry, params=[]).lr == 0.1
