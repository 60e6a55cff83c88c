"""show-config and modules: text for people, one JSON object for programs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from detrkit.config import load_config
from tests.cli.conftest import Run


@pytest.fixture
def config_file(tmp_path: Path) -> Path:
    path = tmp_path / "mine.yml"
    path.write_text("__include__: dfine_n_coco\nepochs: 7\n")
    return path


def test_prints_yaml_that_loads_again(run: Run, config_file: Path, tmp_path: Path) -> None:
    result = run("show-config", config_file, "-u", "seed=1", "clip_max_norm=0.5")
    assert result.code == 0, result.err
    tree = yaml.safe_load(result.out)
    assert (tree["epochs"], tree["seed"], tree["clip_max_norm"]) == (7, 1, 0.5)
    (tmp_path / "again.yml").write_text(result.out)
    expected = load_config(config_file, update=["seed=1", "clip_max_norm=0.5"])
    assert load_config(tmp_path / "again.yml").tree == expected.tree


def test_authors_flags(run: Run) -> None:
    result = run("show-config", "-c", "dfine_n_coco", "-u", "epoches=3", "seed=0")
    assert result.code == 0, result.err
    assert "epochs: 3\n" in result.out


def test_origin(run: Run, config_file: Path) -> None:
    result = run("show-config", config_file, "--origin", "-u", "seed=1")
    rows = {line.split()[0]: line.split() for line in result.out.splitlines() if line.strip()}
    assert rows["epochs"] == ["epochs", "7", f"{config_file}:2"]
    assert rows["seed"] == ["seed", "1", "--update"]
    assert rows["HGNetv2.name"][-1].endswith("configs/base/hgnetv2/n.yml:2")


def test_diff(run: Run, config_file: Path) -> None:
    result = run("show-config", config_file, "--diff", "dfine_n_coco", "--json", "-u", "seed=1")
    found = {row["key"]: row for row in json.loads(result.out)["diff"]}
    assert set(found) == {"epochs", "seed"}
    assert found["epochs"]["this"] == {"value": 7, "origin": f"{config_file}:2"}
    assert found["epochs"]["other"]["value"] == 160
    assert found["seed"]["other"] is None
    text = run("show-config", config_file, "--diff", "dfine_n_coco").out
    assert "160" in text
    assert len(text.splitlines()) == 2


def test_json_holds_config_origins_and_nothing_else(run: Run, config_file: Path) -> None:
    result = run("show-config", config_file, "--json", "--origin")
    payload = json.loads(result.out)
    assert (payload["kind"], payload["version"], payload["problems"]) == ("config", 1, [])
    assert payload["config"]["epochs"] == 7
    assert payload["origins"]["epochs"] == f"{config_file}:2"


def test_mistakes_follow_what_loads(run: Run, config_file: Path) -> None:
    args = ("show-config", config_file, "-u", "clip_max_nrom=1", "HybridEncoder.hiden_dim=2")
    result = run(*args)
    assert result.code == 3
    assert "clip_max_nrom: 1" in result.out
    assert "error: 2 problems in" in result.err
    assert "HybridEncoder.hiden_dim: unknown argument, did you mean `hidden_dim`?" in result.err
    as_json = run(*args, "--json")
    assert as_json.code == 3
    assert len(json.loads(as_json.out)["problems"]) == 2


def test_unreadable_config(run: Run, tmp_path: Path) -> None:
    (tmp_path / "bad.yml").write_text("a: [1\n")
    result = run("show-config", tmp_path / "bad.yml")
    assert result.code == 3
    assert result.out == ""
    assert "not valid YAML" in result.err
    assert run("show-config", "dfine_z_coco").code == 3


def test_plan_and_quirks(run: Run) -> None:
    text = run("show-config", "dfine_n_coco", "--plan", "--batches", "10").out
    assert "160 epochs of 10 batches" in text
    plan = json.loads(run("show-config", "dfine_n_coco", "--plan", "--json").out)["plan"]
    assert plan["stages"][-1]["epochs"] == [148, 159]
    short = run("show-config", "deim_s_coco", "--plan", "-u", "epochs=12", "schedule=auto").out
    assert "epochs 1-5  strong augmentation, mosaic 50%, mixup 50%" in short
    assert "epoch 6  learning rate begins to fall" in short
    assert "empty-norm-group" in run("show-config", "dfine_n_coco", "--quirks").out
    quirks = json.loads(run("show-config", "dfine_n_coco", "--quirks", "--json").out)["quirks"]
    assert {"name", "sentence", "where"} == set(quirks[0])


def test_unused_sections_are_told_under_v(run: Run, config_file: Path) -> None:
    config_file.write_text(config_file.read_text() + "SGD: {}\n")
    assert "not used" not in run("show-config", config_file).err
    assert "section `SGD` is not used" in run("show-config", config_file, "-v").err


def test_plugin_flag(run: Run, tmp_path: Path) -> None:
    result = run("modules", "--plugin", tmp_path / "none.py")
    assert result.code == 3
    assert "plug-in not found" in result.err


def test_modules(run: Run) -> None:
    assert "HGNetv2" in run("modules", "backbone").out
    entries = json.loads(run("modules", "backbone", "--json").out)["modules"]
    assert {entry["family"] for entry in entries} == {"backbone"}
    result = run("modules", "backbon")
    assert result.code == 2
    assert "did you mean `backbone`" in result.err
