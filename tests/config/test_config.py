"""Overrides, origins, short forms, immutability, dump; laws by property tests."""

from __future__ import annotations

import copy
import pickle
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from detrkit.config import Config, Flag, Origin, load_config
from detrkit.errors import ConfigError
from tests.config.conftest import Load, Write

TEXT = """\
epochs: 10
optimizer: {type: Sgd, lr: 0.1, groups: [{lr: 1.0}, {lr: 2.0}]}
model: Net
Net: {backbone: Backbone}
Backbone: {depth: 50}
"""


def test_update_sets_typed_values_and_origins(load: Load) -> None:
    config = load(
        TEXT,
        strict=False,
        update=["optimizer.lr=1e-4", "optimizer.groups.1.lr=5", "Neck.hidden_dim=8", "seed="],
    )
    assert config.get("optimizer.lr") == 1e-4
    assert config.get("optimizer.groups") == [{"lr": 1.0}, {"lr": 5}]
    assert config.get("Neck") == {"hidden_dim": 8}
    assert config.get("seed", "default") is None
    assert str(config.origin("optimizer.lr")) == "--update"
    assert str(config.origin("optimizer.type")).endswith("main.yml:2")
    assert str(config.origin("Backbone.depth")).endswith("main.yml:5")


def test_update_with_old_spelling(load: Load) -> None:
    assert load(TEXT, strict=False, update=["epoches=3"]).run.epochs == 3


def test_flags_lie_between_file_and_updates(load: Load) -> None:
    overrides = {"epochs": 20, "seed": Flag(3, "--random"), "optimizer.lr": 0.5}
    config = load(TEXT, strict=False, overrides=overrides, update=["epochs=30"])
    assert config.run.epochs == 30
    assert str(config.origin("seed")) == "--random"
    assert str(config.origin("optimizer.lr")) == "--optimizer.lr"
    assert str(load(TEXT, strict=False, overrides=overrides).origin("epochs")) == "--epochs"


@pytest.mark.parametrize(
    ("update", "message"),
    [
        ("epochs", "expected key=value"),
        ("=3", "expected key=value"),
        ("a..b=3", "expected key=value"),
        ("a=[1", "not valid YAML"),
        ("epochs.x=3", "`epochs` is 10, not a mapping"),
        ("model.backbone=3", "name of a section; set `Net.…` instead"),
        ("optimizer.groups.7.lr=3", "`7` is no index"),
        ("optimizer.groups.x.lr=3", "`x` is no index"),
        ("image_size=big", r"expected \[h, w\]"),
    ],
)
def test_wrong_updates(load: Load, update: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        load(TEXT, strict=False, update=[update])
    assert caught.value.exit_code == 3
    assert caught.value.problems[0].where == "--update"


def test_wrong_updates_are_reported_together(load: Load) -> None:
    with pytest.raises(ConfigError, match="3 problems") as caught:
        load(TEXT, strict=False, update=["nonsense", "epochs.x=3", "a=[1"])
    assert len(caught.value.problems) == 3


def test_nothing_leaks(load: Load) -> None:
    config = load(TEXT, strict=False)
    before = copy.deepcopy(config.tree)
    config.tree["optimizer"]["lr"] = 99
    config.get("optimizer")["lr"] = 99
    changed = config.with_updates(["optimizer.lr=7"])
    again = load(TEXT, strict=False)
    assert config.tree == before == again.tree
    assert changed.get("optimizer.lr") == 7
    assert config.with_values({"optimizer": {"lr": 3}}).get("optimizer.type") == "Sgd"
    assert config.tree == before


def test_with_values_names_its_origin(load: Load) -> None:
    config = load(TEXT, strict=False).with_values({"num_classes": 3}, origin="data set")
    assert config.run.num_classes == 3
    assert str(config.origin("num_classes")) == "data set"


def test_values_of_another_configs_object_are_copied(load: Load) -> None:
    values = {"Neck": {"hidden_dim": [1]}}
    config = load(TEXT, strict=False).with_values(values)
    values["Neck"]["hidden_dim"].append(2)
    assert config.get("Neck.hidden_dim") == [1]


def test_get_origin_and_contains(load: Load) -> None:
    config = load(TEXT, strict=False)
    assert config.get("optimizer.groups.1.lr") == 2.0
    assert config.get("no.such", 5) == 5
    assert "optimizer.lr" in config
    assert "optimizer.x" not in config
    with pytest.raises(KeyError):
        config.origin("optimizer.x")


def test_from_tree_and_pickle() -> None:
    config = Config.from_tree({"epochs": 3, "Net": {"a": [1]}}, name="best.pth")
    assert config.name == "best.pth"
    assert config.run.epochs == 3
    assert str(config.origin("Net.a")) == "best.pth"
    assert pickle.loads(pickle.dumps(config)).tree == config.tree


def test_run_defaults_and_null(load: Load) -> None:
    run = load("eval_spatial_size: [320, 640]\nclip_max_norm: ~\nepochs: ~\n", strict=False).run
    assert run.eval_spatial_size == run.image_size == (320, 640)
    assert run.clip_max_norm == 0.0
    assert run.epochs is None
    assert run.task == "detection"


LOADERS = """\
eval_spatial_size: [640, 640]
train_dataloader:
  type: Loader
  dataset:
    transforms: {ops: [{type: Resize, size: [640, 640]}, {type: Flip}]}
  collate_fn: {type: Collate, base_size: 640}
val_dataloader:
  dataset:
    transforms: {ops: [{type: Resize, size: [640, 640]}]}
  collate_fn: {type: Collate}
"""


def sizes(config: Config) -> list[Any]:
    return [
        config.get("eval_spatial_size"),
        config.get("train_dataloader.dataset.transforms.ops.0.size"),
        config.get("train_dataloader.collate_fn.base_size"),
        config.get("val_dataloader.dataset.transforms.ops.0.size"),
        config.get("val_dataloader.collate_fn.base_size"),
    ]


def test_image_size_expands(load: Load) -> None:
    square = load(LOADERS, strict=False, overrides={"image_size": Flag([320, 320], "--size")})
    assert sizes(square) == [[320, 320], [320, 320], 320, [320, 320], None]
    assert str(square.origin("eval_spatial_size")) == "--size"
    assert "image_size" not in square.tree, "the resolved config speaks the dialect only"
    wide = load(LOADERS, strict=False, update=["image_size=[320,640]"])
    assert sizes(wide) == [[320, 640], [320, 640], [320, 640], [320, 640], None]
    assert sizes(load(LOADERS, strict=False, update=["image_size=320"])) == sizes(square)
    assert sizes(load(LOADERS, strict=False).with_values({"image_size": [320, 320]})) == sizes(
        square
    )


def test_image_size_reaches_mosaics_and_listed_scales(load: Load) -> None:
    text = """\
train_dataloader:
  dataset: {transforms: {ops: [{type: Mosaic, output_size: 320}]}}
  collate_fn: {scales: [480, 512, 640, 640, 768, 800]}
"""
    tree = load(text, strict=False, update=["image_size=320"]).tree
    loader = tree["train_dataloader"]
    assert loader["dataset"]["transforms"]["ops"] == [{"type": "Mosaic", "output_size": 160}]
    assert loader["collate_fn"]["scales"] == [256, 256, 320, 320, 384, 384]
    wide = load(text, strict=False, update=["image_size=[320, 640]"]).tree["train_dataloader"]
    assert wide["dataset"]["transforms"]["ops"][0]["output_size"] == 320
    assert wide["collate_fn"]["scales"][0] == [256, 480]
    assert wide["collate_fn"]["scales"][-1] == [384, 800]


def test_schedule_auto_remembers_what_the_include_was_made_for(write: Write) -> None:
    write("base.yml", "epochs: 58\n")
    top = write("top.yml", "__include__: base.yml\nepochs: 12\nschedule: auto\n")
    assert load_config(top, strict=False).run.base_epochs == 58
    above = write("above.yml", "__include__: top.yml\nepochs: 6\nschedule: auto\n")
    assert load_config(above, strict=False).run.base_epochs == 58
    plain = write("plain.yml", "__include__: base.yml\nepochs: 12\n")
    assert load_config(plain, strict=False).run.base_epochs is None
    update = ["epochs=9", "schedule=auto"]
    assert load_config(plain, strict=False, update=update).run.base_epochs == 12
    assert load_config(above, strict=False, update=update).run.base_epochs == 58
    own = write("own.yml", "epochs: 12\nschedule: auto\n")
    assert load_config(own, strict=False).run.base_epochs is None


def test_image_size_yields_to_what_is_set_later(write: Write) -> None:
    write("base.yml", LOADERS + "image_size: [320, 320]\n")
    path = write("main.yml", "__include__: base.yml\neval_spatial_size: [256, 256]\n")
    config = load_config(path, strict=False, update=["train_dataloader.collate_fn.base_size=128"])
    assert sizes(config) == [[256, 256], [320, 320], 128, [320, 320], None]


@pytest.mark.parametrize("size", ["[0, 5]", "[1, 2, 3]", "big", "true", "[1.5, 2]", "-4"])
def test_wrong_image_size(load: Load, size: str) -> None:
    with pytest.raises(ConfigError, match=r"line 1  image_size: expected \[h, w\]"):
        load(f"image_size: {size}\n", strict=False)


def test_plugins_are_relative_to_their_file(write: Write) -> None:
    write("sub/block.py", "")
    write("sub/base.yml", "plugins: [./block.py]\n")
    config = load_config(write("main.yml", "__include__: sub/base.yml\n"), strict=False)
    assert Path(config.run.plugins[0]) == Path(write("sub/block.py", ""))


def test_type_change_leaves_arguments_behind(load: Load, write: Write) -> None:
    write("base.yml", "optimizer: {type: Adam, lr: 0.1, betas: [0.5, 0.9]}\n")
    config = load("__include__: base.yml\noptimizer: {type: Sgd, momentum: 0.8}\n")
    assert config.get("optimizer") == {"type": "Sgd", "lr": 0.1, "momentum": 0.8}
    assert load(
        "optimizer: {type: Adam, lr: 0.1, betas: [0.5, 0.9]}\n", update=["optimizer.type=Sgd"]
    ).get("optimizer") == {"type": "Sgd", "lr": 0.1}


def test_argument_set_with_the_new_type_is_not_left_behind(load: Load, write: Write) -> None:
    write("base.yml", "optimizer: {type: Adam, lr: 0.1, betas: [0.5, 0.9]}\n")
    with pytest.raises(ConfigError, match="unknown argument of Sgd"):
        load("__include__: base.yml\noptimizer: {type: Sgd, betas: [0.1, 0.2]}\n")


def test_origin_from_a_file_and_from_a_flag() -> None:
    origin = Origin("/x/a.yml", 14)
    assert str(origin) == "/x/a.yml:14"
    assert origin.seen_from("/x/a.yml") == "line 14"
    assert origin.seen_from("/x/b.yml") == "/x/a.yml:14"
    assert str(Origin(flag="--epochs")) == "--epochs"


# Laws -----------------------------------------------------------------------------------------

scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(10**6), 10**6),
    st.floats(allow_nan=False),
    st.text(st.characters(blacklist_categories=("Cs", "Cc")), max_size=12),
    st.sampled_from(
        [
            "1e-4",
            "1:30",
            "2024-01-01",
            "on",
            "~",
            "${HOME}",
            "$${HOME}",
            "${X:-y}",
            "=",
            "<<",
            "检测",
        ]
    ),
)
names = st.sampled_from(["alpha", "beta", "gamma", "delta", "on", "x1"])
trees = st.dictionaries(
    names,
    st.recursive(
        scalars,
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=3),
        max_leaves=12,
    ),
    max_size=4,
)
keys = st.lists(names, min_size=1, max_size=3).map(".".join)


@given(tree=trees)
def test_dump_and_load_round_trip(tree: dict[str, Any]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "dump.yml"
        path.write_text(Config.from_tree(tree).dump(), encoding="utf-8")
        loaded = load_config(path, strict=False)
        assert loaded.tree == tree
        assert loaded.dump() == path.read_text(encoding="utf-8")


@given(tree=trees, key=keys, value=scalars | st.dictionaries(names, scalars, max_size=2))
def test_overriding_twice_equals_once(tree: dict[str, Any], key: str, value: Any) -> None:
    config = Config.from_tree(tree)
    try:
        once = config.with_values({key: value})
    except ConfigError:
        return  # the path runs through a scalar
    twice = once.with_values({key: value})
    assert once.tree == twice.tree
    assert once.inherited() == twice.inherited()
    assert config.tree == tree


@given(base=trees, top=trees)
def test_merge_keeps_the_upper_values(base: dict[str, Any], top: dict[str, Any]) -> None:
    from detrkit.config.tree import Origin, Tree, find, walk

    def tree(data: dict[str, Any], layer: int) -> Tree:
        origins = {path: Origin("f", layer, layer=layer) for path, _ in walk(data)}
        return Tree(copy.deepcopy(data), origins)

    merged = tree(base, 1)
    merged.merge(tree(top, 2))
    for path, value in walk(top):
        if not isinstance(value, dict):
            assert find(merged.data, path) == value
            assert merged.origins[path].line == 2
    assert set(merged.origins) == {path for path, _ in walk(merged.data)}
    again = merged.copy()
    again.merge(tree(top, 2))
    assert again.data == merged.data
