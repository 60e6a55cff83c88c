"""`detrkit info`: configs, weights, components."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from detrkit.cli.app import main
from tests.engine.bright import small_detector


def test_config_in_numbers(capsys: Any) -> None:
    assert main(["info", "dfine_n_coco", "--size", "64x96", "--json"]) == 0
    model = json.loads(capsys.readouterr().out)["model"]
    assert model["input"] == [1, 3, 64, 96]
    assert model["parameters"]["total"] == 3_782_693
    assert model["parameters"]["deployed"] == 3_753_799
    assert sum(model["parameters"]["parts"].values()) == 3_782_693
    assert model["flops"]["calflops"] > 1e8
    assert "layers" not in model


def test_tables(capsys: Any) -> None:
    args = ["info", "dfine_n_coco", "--size", "96", "--layers", "--depth", "1"]
    assert main([*args, "-u", "num_classes=2"]) == 0
    out = capsys.readouterr().out
    assert "FLOPs by calflops" in out
    assert "does not see fused attention" in out
    order = [out.rindex(f"  {part} ") for part in ("backbone", "encoder", "decoder")]
    assert order == sorted(order)
    assert "input_proj" not in out


def test_weights(tmp_path: Path, capsys: Any) -> None:
    path = small_detector(tmp_path / "best.pth")
    assert main(["info", str(path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["model"]["input"] == [1, 3, 64, 96]


def test_a_backbone_of_layers_is_shown_row_by_row(capsys: Any) -> None:
    assert main(["info", "dfine_yolo11_n_coco", "--size", "64"]) == 0
    out = capsys.readouterr().out
    assert "C2PSA" in out
    assert "image" in out
    assert main(["info", "dfine_yolo11_n_coco", "--size", "64x96", "--json"]) == 0
    model = json.loads(capsys.readouterr().out)["model"]
    rows = model["graphs"]["backbone"]
    assert len(rows) == 11
    assert rows[10]["output"] == [1, 256, 2, 3]
    assert rows[2]["arguments"] == {
        "out_channels": 64, "c3k": False, "expansion": 0.25, "num_blocks": 1,
    }  # fmt: skip
    assert sum(row["parameters"] for row in rows) > 1e6


def test_component(capsys: Any) -> None:
    assert main(["info", "HybridEncoder"]) == 0
    out = capsys.readouterr().out
    assert "arXiv:2304.08069" in out
    assert "hidden_dim" in out
    assert main(["info", "DFINE", "--json"]) == 0
    module = json.loads(capsys.readouterr().out)["module"]
    assert module["arguments"]["backbone"] == {
        "type": "nn.Module", "required": True, "default": None, "from": "component",
    }  # fmt: skip


def test_all_configs_of_a_folder(tmp_path: Path, capsys: Any) -> None:
    (tmp_path / "base").mkdir()
    files = {
        "base/part.yml": "lr: 1.0",
        "large.yml": "__include__: [quickstart]\nnum_classes: 300",
        "small.yaml": "__include__: [quickstart]\nnum_classes: 2",
        "wrong.yml": "__include__: [quickstart]\nDFINETransformer: {hiden_dim: 3}",
        "settings.yml": "epochs: 3",
    }
    from detrkit.config.catalogue import find

    for name, text in files.items():
        text = text.replace("quickstart", f"'{find('quickstart').path.as_posix()}'")
        (tmp_path / name).write_text(text, encoding="utf-8")
    assert main(["info", "--all", str(tmp_path), "--size", "64", "--json"]) == 0
    captured = capsys.readouterr()
    found = json.loads(captured.out)
    assert [model["name"] for model in found["models"]] == ["small", "large"]
    small, large = found["models"]
    assert small["parameters"]["deployed"] < large["parameters"]["deployed"]
    assert small["input"] == [1, 3, 64, 64]
    assert found["parts"] == ["base/part", "settings"]
    assert "hidden_dim" in found["problems"]["wrong"]
    assert "wrong is left out" in captured.err
    assert main(["info", str(tmp_path), "--all", "--size", "64"]) == 0
    out = capsys.readouterr().out
    assert out.index("small") < out.index("large")
    assert "2 models, deployed" in out
    assert main(["info", str(small["input"]), "--all"]) == 2
    assert main(["info", str(tmp_path / "base"), "--all"]) == 3
    assert main(["info", str(tmp_path), "--all", "--layers"]) == 2


@pytest.mark.parametrize(
    ("args", "code", "message"),
    [
        (["dfine_q_coco"], 3, "did you mean `dfine_"),
        (["missing.pth"], 5, "missing.pth"),
        (["dfine_n_coco", "--size", "big"], 2, "HEIGHTxWIDTH"),
    ],
)
def test_mistakes(capsys: Any, args: list[str], code: int, message: str) -> None:
    assert main(["info", *args]) == code
    assert message in capsys.readouterr().err
