"""The configs that come with detrkit: names, families, nothing said twice, everything builds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from detrkit.config import CatalogueEntry, Config, build, build_component, catalogue, load_config
from detrkit.config.catalogue import DATA, FAMILIES, SIZES, find, resolve, root
from detrkit.errors import ConfigError
from tests.config.authors import leaves

ENTRIES = catalogue()
FILES = sorted(root().rglob("*.yml"))

#: One config of each graph; the others differ in sizes and numbers.
SMALL = [
    "dfine_n_coco",
    "dfine_s_coco",
    "rtdetrv2_r18vd_120e_coco",
    "rtdetrv2_r18vd_dsp_3x_coco",
    "rtdetrv2_r18vd_120e_voc",
    "deim_n_coco",
    "deim_r18vd_120e_coco",
    "deimv2_atto_coco",
    "deimv2_femto_coco",
    "deimv2_pico_coco",
    "deimv2_n_coco",
    "deimv2_dinov3_s_coco",
    "dfine_yolo11_n_coco",
    "dfine_hgnetv2_s_p2_custom",
    "dfine_hgnetv2_s_hyperace_custom",
    "dfine_hgnetv2_s_goldyolo_custom",
    "dfine_hgnetv2_s_hsfpn_custom",
    "dfine_hgnetv2_s_fdpn_custom",
    "dfine_hgnetv2_s_rgcspelan_custom",
]


def build_parts(config: Config) -> Any:
    """Everything that a config names and that needs no data; returns the model."""
    for loader in ("train_dataloader", "val_dataloader"):
        build_component(config, config.get(f"{loader}.dataset.transforms"))
        build_component(config, config.get(f"{loader}.collate_fn"))
    build(config, "criterion")
    build(config, "postprocessor")
    return build(config, "model")


def entries(names: list[str] | None = None) -> list[Any]:
    """Test parameters: all configs, or those of these names."""
    chosen = ENTRIES if names is None else [find(name) for name in names]
    return [pytest.param(entry, id=entry.name) for entry in chosen]


def test_names_and_aliases() -> None:
    names = [entry.name for entry in ENTRIES]
    assert len(set(names)) == len(names)
    assert len({name for entry in ENTRIES for name in {*entry.names}}) == sum(
        len({*entry.names}) for entry in ENTRIES
    ), "no two configs answer to one name"
    assert resolve("dfine_n_coco") == resolve("dfine_hgnetv2_n_coco")
    assert resolve("deimv2_atto_coco") == resolve("deimv2_hgnetv2_atto_coco.yml")
    assert all(entry.summary for entry in ENTRIES), "each config starts with a comment"


def test_the_same_file_name_in_two_families() -> None:
    assert resolve("dfine_hgnetv2_n_coco") == root() / "dfine" / "dfine_hgnetv2_n_coco.yml"
    ours = resolve("deim_dfine/dfine_hgnetv2_n_coco")
    assert ours == root() / "deim_dfine" / "dfine_hgnetv2_n_coco.yml"
    assert resolve("dfine/dfine_hgnetv2_n_coco") == resolve("dfine_n_coco")


def test_an_alias_never_stands_for_two_backbones() -> None:
    assert find("deimv2_dinov3_s_coco").alias == "deimv2_dinov3_s_coco"
    assert find("rtdetrv2_hgnetv2_l_6x_coco").alias == "rtdetrv2_hgnetv2_l_6x_coco"
    with pytest.raises(ConfigError, match="did you mean"):
        find("deimv2_s_coco")


def test_unknown_names_get_suggestions(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="did you mean `dfine_n_coco`"):
        resolve("dfine_n_cocoo")
    (tmp_path / "mine.yml").touch()
    with pytest.raises(ConfigError, match=r"did you mean `mine\.yml`"):
        resolve(tmp_path / "mein.yml")
    with pytest.raises(ConfigError, match="is a folder"):
        resolve(tmp_path)


def test_family_size_and_data() -> None:
    entry = find("deim_r50vd_m_60e_coco")
    assert (entry.family, entry.size, entry.data) == ("deim_rtdetrv2", "M*", "COCO")
    assert find("deim_r50vd_m_custom").size == "R50-M"
    assert find("dfine_l_obj2custom").data == DATA["obj2custom"]
    assert find("quickstart").family == ""
    ranked = sorted(ENTRIES, key=lambda entry: entry.rank)
    assert [e.alias for e in ranked if e.family == "dfine"][:5] == [
        f"dfine_{size}_coco" for size in "nsmlx"
    ]


@pytest.mark.parametrize("family", FAMILIES)
def test_every_model_on_coco_has_a_config_for_your_data(family: str) -> None:
    """Whatever can be trained on COCO can be trained with `--data DIR` under a name of its own."""
    of_family = [entry for entry in ENTRIES if entry.family == family]
    graphs = {
        data: {
            tuple(word for word in entry.words if word in (*SIZES, "hgnetv2", "dinov3"))
            for entry in of_family
            if entry.data == data and entry.name == entry.path.stem
        }
        for data in ("COCO", DATA["custom"])
    }
    assert graphs["COCO"] == graphs[DATA["custom"]]


@pytest.mark.parametrize("entry", entries())
def test_every_config_loads(entry: CatalogueEntry) -> None:
    assert load_config(entry.name, strict=False).run.epochs


@pytest.mark.parametrize("entry", entries(SMALL))
def test_configs_check_and_build(entry: CatalogueEntry) -> None:
    config = load_config(entry.path).with_values({"num_classes": 7}, origin="data set")
    before = config.tree
    model = build_parts(config)
    assert model.num_classes == 7
    assert config.tree == before
    again = load_config(entry.name).with_values({"num_classes": 7}, origin="data set")
    assert again.tree == before, "loading twice gives the same"


@pytest.mark.slow
@pytest.mark.parametrize("entry", entries())
def test_every_config_checks_and_builds(entry: CatalogueEntry) -> None:
    build_parts(load_config(entry.path))


@pytest.mark.parametrize("path", [pytest.param(p, id=str(p.relative_to(root()))) for p in FILES])
def test_no_value_is_said_twice(path: Path, tmp_path: Path) -> None:
    """A file sets nothing that its includes already say."""
    own = yaml.safe_load(path.read_text(encoding="utf-8"))
    includes = [str((path.parent / file).resolve()) for file in own.pop("__include__", [])]
    base = tmp_path / "base.yml"
    base.write_text(yaml.safe_dump({"__include__": includes}), encoding="utf-8")
    inherited = leaves(load_config(base, strict=False).tree)
    assert [key for key, value in leaves(own).items() if inherited.get(key, ...) == value] == []


def test_every_part_is_included() -> None:
    """No file lies about that no config uses."""
    used = {entry.path for entry in ENTRIES}
    waiting = list(used)
    while waiting:
        path = waiting.pop()
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
        for file in content.get("__include__", []):
            part = (path.parent / file).resolve()
            if part not in used:
                used.add(part)
                waiting.append(part)
    assert sorted({path.resolve() for path in FILES} - {path.resolve() for path in used}) == []
