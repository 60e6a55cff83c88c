"""The configs that come with detrkit, and the authors' own files."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import yaml

from detrkit.config import CatalogueEntry, Config, build, build_component, catalogue, load_config
from detrkit.config.catalogue import resolve
from detrkit.errors import ConfigError

ENTRIES = catalogue()

#: The authors' repository: a folder with `dfine/`, `dataset/`, `runtime.yml`.
AUTHORS = Path(os.environ.get("DETRKIT_AUTHORS_CONFIGS", "/nonexistent"))
AUTHORS_FILES = sorted(AUTHORS.glob("dfine/**/*.yml"))

#: What may differ: where files lie, names of projects, and the class count of "your data set".
FREE = (
    "output_dir",
    "project_name",
    "data",
    "HGNetv2.local_model_dir",
    "train_dataloader.dataset.img_folder",
    "train_dataloader.dataset.ann_file",
    "val_dataloader.dataset.img_folder",
    "val_dataloader.dataset.ann_file",
)


def leaves(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Dotted keys to values; lists stay whole."""
    found: dict[str, Any] = {}
    for key, value in tree.items():
        inner = isinstance(value, dict)
        found |= leaves(value, f"{prefix}{key}.") if inner else {f"{prefix}{key}": value}
    return found


def build_parts(config: Config) -> Any:
    """Everything that a config names and that needs no data; returns the model."""
    for loader in ("train_dataloader", "val_dataloader"):
        build_component(config, config.get(f"{loader}.dataset.transforms"))
        build_component(config, config.get(f"{loader}.collate_fn"))
    build(config, "criterion")
    build(config, "postprocessor")
    return build(config, "model")


def test_names_and_aliases() -> None:
    names = [entry.name for entry in ENTRIES]
    assert len(set(names)) == len(names)
    assert {f"dfine_hgnetv2_{s}_coco" for s in "nsmlx"} <= set(names)
    assert resolve("dfine_n_coco") == resolve("dfine_hgnetv2_n_coco")
    assert all(entry.summary for entry in ENTRIES), "each config starts with a comment"


def test_unknown_names_get_suggestions(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="did you mean `dfine_n_coco`"):
        resolve("dfine_n_cocoo")
    (tmp_path / "mine.yml").touch()
    with pytest.raises(ConfigError, match=r"did you mean `mine\.yml`"):
        resolve(tmp_path / "mein.yml")
    with pytest.raises(ConfigError, match="is a folder"):
        resolve(tmp_path)


@pytest.mark.parametrize("entry", [pytest.param(e, id=e.name) for e in ENTRIES])
def test_every_config_checks(entry: CatalogueEntry) -> None:
    config = load_config(entry.path)
    assert config.run.epochs
    assert config.tree == load_config(entry.name).tree, "loading twice gives the same"


@pytest.mark.parametrize("size", list("nsmlx"))
def test_components_build(size: str) -> None:
    config = load_config(f"dfine_{size}_coco").with_values({"num_classes": 7}, origin="data set")
    before = config.tree
    model = build_parts(config)
    assert sum(p.numel() for p in model.parameters()) > 3e6
    assert model.num_classes == 7
    assert config.tree == before


@pytest.mark.skipif(not AUTHORS_FILES, reason="DETRKIT_AUTHORS_CONFIGS is not set")
@pytest.mark.parametrize(
    "path", [pytest.param(p, id=str(p.relative_to(AUTHORS))) for p in AUTHORS_FILES]
)
def test_authors_files_load_check_and_build_unmodified(path: Path) -> None:
    is_part = path.parent.name == "include"  # incomplete on its own
    config = load_config(path, strict=not is_part)
    if not is_part:
        build_parts(config)


@pytest.mark.skipif(not AUTHORS_FILES, reason="DETRKIT_AUTHORS_CONFIGS is not set")
@pytest.mark.parametrize(
    "path",
    [
        pytest.param(p, id=str(p.relative_to(AUTHORS)))
        for p in AUTHORS_FILES
        if p.parent.name != "include"
    ],
)
def test_our_files_resolve_to_the_authors_values(path: Path) -> None:
    ours = leaves(load_config(path.stem, strict=False).tree)
    theirs = leaves(load_config(path, strict=False).tree)
    # Absent in the Objects365 files: the constructor's default is this number.
    theirs.setdefault("train_dataloader.collate_fn.ema_restart_decay", 0.9999)
    for key in {*ours, *theirs}:
        if key not in FREE:
            assert ours.get(key, "absent") == theirs.get(key, "absent"), key


@pytest.mark.parametrize("entry", [pytest.param(e, id=e.name) for e in ENTRIES])
def test_no_value_is_said_twice(entry: CatalogueEntry, tmp_path: Path) -> None:
    """A config sets nothing that its includes already say."""
    own = yaml.safe_load(entry.path.read_text(encoding="utf-8"))
    includes = [str((entry.path.parent / file).resolve()) for file in own.pop("__include__", [])]
    base = tmp_path / "base.yml"
    base.write_text(yaml.safe_dump({"__include__": includes}), encoding="utf-8")
    inherited = leaves(load_config(base, strict=False).tree)
    said_twice = [key for key, value in leaves(own).items() if inherited.get(key, ...) == value]
    assert not said_twice
