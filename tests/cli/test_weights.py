"""`detrkit weights`: inspect, strip, convert; exit codes and JSON."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from detrkit.engine.checkpoint import Checkpoint
from detrkit.structures import ClassMap
from tests.cli.conftest import Run
from tests.engine.lively import checkpoint_of, lively_detector

CONFIG = "deimv2_hgnetv2_atto_coco"


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A training checkpoint as detrkit writes it."""
    checkpoint = checkpoint_of(lively_detector(CONFIG, ClassMap(("猫", "[dog]"), (1, 2))))
    assert checkpoint.model is not None
    checkpoint.ema = {"module": dict(checkpoint.model), "updates": 3}
    checkpoint.optimizer = {"state": {}, "param_groups": []}
    checkpoint.last_epoch, checkpoint.metrics = 4, {"AP": 0.25}
    path = tmp_path_factory.mktemp("weights") / "last.pth"
    checkpoint.save(path)
    return path


@pytest.fixture(scope="module")
def theirs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file as the authors publish it."""
    path = tmp_path_factory.mktemp("weights") / "theirs.pth"
    torch.save({"model": lively_detector(CONFIG).model.state_dict()}, path)
    return path


def test_inspect(run: Run, ours: Path, theirs: Path) -> None:
    result = run("weights", "inspect", ours)
    assert result.code == 0
    for text in ("averaged weights", "optimizer", "猫, [dog]", CONFIG, "320 x 320", "AP 0.250"):
        assert text in result.out
    result = run("weights", "inspect", theirs)
    assert result.code == 0
    assert f"the tensors are those of {CONFIG}" in result.out
    assert "80, without names; by their number those of COCO" in result.out


def test_inspect_json(run: Run, ours: Path) -> None:
    content: dict[str, Any] = json.loads(run("weights", "inspect", ours, "--json").out)
    assert content["kind"] == "weights"
    assert content["classes"] == {"count": 2, "names": ["猫", "[dog]"], "source": "file"}
    assert content["config"] == CONFIG
    assert (content["epochs"], content["metrics"], content["image_size"]) == (
        5,
        {"AP": 0.25},
        [320, 320],
    )
    assert set(content["parts"]) == {"backbone", "encoder", "decoder"}
    assert content["report"] is None


def test_inspect_against_a_config(run: Run, theirs: Path) -> None:
    result = run("weights", "inspect", theirs, "-c", CONFIG, "--json")
    report = json.loads(result.out)["report"]
    assert report["missing"] == report["unexpected"] == []
    assert report["mismatched"] == {}
    result = run("weights", "inspect", theirs, "-c", "deimv2_hgnetv2_pico_coco", "--json")
    report = json.loads(result.out)["report"]
    groups = report["groups"]
    assert groups["decoder"]["mismatched"] == sum("decoder." in n[:8] for n in report["mismatched"])
    assert report["unexpected"] or report["missing"]
    result = run("weights", "inspect", theirs, "-c", "deimv2_hgnetv2_pico_coco")
    assert "other shape" in result.out


def test_strip(run: Run, ours: Path, tmp_path: Path) -> None:
    result = run("weights", "strip", ours, "-o", tmp_path / "new" / "best.pth")
    assert result.code == 0
    assert "best.pth" in result.out
    read = Checkpoint.load(tmp_path / "new" / "best.pth")
    assert (read.optimizer, read.ema) == (None, None)


def test_code_inside(run: Run, tmp_path: Path, theirs: Path) -> None:
    """Refused, unless the user says so; afterwards the file is clean."""
    content = torch.load(theirs, weights_only=True)
    torch.save({**content, "args": Path("configs/x.yml")}, tmp_path / "args.pth")
    result = run("weights", "inspect", tmp_path / "args.pth")
    assert result.code == 5
    assert "holds Python objects" in result.err
    assert "--trust" in result.err
    result = run("weights", "strip", tmp_path / "args.pth", "--trust", "-o", tmp_path / "clean.pth")
    assert result.code == 0
    assert run("weights", "inspect", tmp_path / "clean.pth").code == 0


def test_convert(run: Run, ours: Path, tmp_path: Path) -> None:
    file = tmp_path / "best.safetensors"
    result = run("weights", "convert", ours, "--to", "safetensors", "-o", file, "--json")
    assert result.code == 0
    assert json.loads(result.out)["tensors"] == len(Checkpoint.load(ours).weights)
    result = run("weights", "convert", file, "--to", "authors", "-o", tmp_path / "b.pth")
    assert result.code == 0
    before, after = Checkpoint.load(ours), Checkpoint.load(tmp_path / "b.pth")
    assert after.class_map == before.class_map
    assert all(torch.equal(after.weights[n], v) for n, v in before.weights.items())


def test_what_has_no_counterpart(run: Run, theirs: Path, tmp_path: Path) -> None:
    result = run("weights", "convert", theirs, "--to", "hf", "-o", tmp_path / "hf")
    assert result.code == 5
    assert "not the authors' model" in result.err
    assert not (tmp_path / "hf").exists()


@pytest.mark.parametrize(
    ("args", "code", "message"),
    [
        (["inspec", "x"], 2, "did you mean `inspect`"),
        (["inspect", "absent.pth"], 5, "not found"),
        (["convert", "absent.pth", "-o", "x.pth"], 2, "--to"),
        (["convert", "absent.pth", "--to", "onnx", "-o", "x.pth"], 2, "onnx"),
        (["convert", "absent.pth", "--to", "authors", "-o", "x.onnx"], 2, "end with"),
        (["strip", "absent.pth"], 2, "--output"),
    ],
)
def test_mistakes(run: Run, args: list[str], code: int, message: str) -> None:
    result = run("weights", *args)
    assert result.code == code
    assert message in result.err


def test_help(run: Run) -> None:
    assert "weights" in run("--help").out
    result = run("weights", "--help")
    assert result.code == 0
    assert all(name in result.out for name in ("inspect", "strip", "convert"))
    assert "--trust" in run("weights", "strip", "-h").out
