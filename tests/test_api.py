"""`import detrkit` is light, and its names do what they say."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

import detrkit
from detrkit.errors import ConfigError


def test_import_is_light() -> None:
    code = (
        "import sys, detrkit; assert detrkit.__version__;"
        "heavy = {'torch', 'numpy', 'yaml', 'typer'} & set(sys.modules);"
        "sys.exit(str(heavy) if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_names() -> None:
    assert set(dir(detrkit)) == set(detrkit.__all__)
    for name in detrkit.__all__:
        assert getattr(detrkit, name)
    with pytest.raises(AttributeError, match="no attribute `laod`"):
        detrkit.laod  # noqa: B018


def test_build_model_from_everything_that_names_one(tmp_path: Path) -> None:
    update = ["num_classes=5", "DFINETransformer.num_queries=20"]
    config = detrkit.load_config("dfine_n_coco", update=update)
    by_name = detrkit.build_model("dfine_n_coco", update=update, seed=3)
    by_config = detrkit.build_model(config, seed=3)
    (tmp_path / "mine.yml").write_text(config.dump(), encoding="utf-8")
    by_file = detrkit.build_model(tmp_path / "mine.yml", seed=3)
    states = [m.state_dict() for m in (by_name, by_config, by_file)]
    for name, value in states[0].items():
        assert torch.equal(value, states[1][name]), name
        assert torch.equal(value, states[2][name]), name
    assert detrkit.build_model(config, update=["num_classes=7"]).num_classes == 7
    assert config.run.num_classes == 5


def test_create() -> None:
    block = detrkit.create("DFINEPostProcessor", num_classes=2)
    assert block.num_classes == 2
    with pytest.raises(ConfigError, match="did you mean `DFINEPostProcessor`"):
        detrkit.create("DFINEPostProcesor")
