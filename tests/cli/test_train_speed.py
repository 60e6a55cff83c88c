"""`--profile`, `--channels-last` and `--compile` through the command line."""

from __future__ import annotations

import gzip
import json
import shutil
from pathlib import Path

import pytest

from detrkit.cli.app import main
from tests.conftest import REPOSITORY
from tests.engine.tiny_data import write_coco, write_config


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with `tiny.yml` and `data/`."""
    write_coco(tmp_path / "data", train=8, val=2)
    write_config(tmp_path, REPOSITORY)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def losses(run: Path) -> list[float]:
    lines = (run / "log.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line)["train/loss"] for line in lines]


def test_a_profile_says_where_a_step_goes(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--data", "data", "--epochs", "2", "-o", "run", "--profile", "2", "--json"]
    assert main(["train", "tiny.yml", *options]) == 0
    printed = capsys.readouterr()
    files = json.loads(printed.out)["files"]
    assert Path(files["profile"]) == Path("run/profile")
    assert "one step, mean of 2" in printed.err
    table = Path("run/profile/table.txt").read_text(encoding="utf-8").splitlines()
    parts = [line.split()[0] for line in table[: table.index("")]]
    assert parts == [
        "data", "forward", "backbone", "encoder", "decoder", "loss", "match",
        "backward", "losses", "decoder", "encoder", "backbone",
        "clip", "optimizer", "ema", "other", "step",
    ]  # fmt: skip
    numbers = json.loads(Path("run/profile/profile.json").read_text(encoding="utf-8"))
    assert (numbers["kind"], numbers["steps"], numbers["device"]) == ("profile", 2, "cpu")
    rows = numbers["parts"]
    assert [row["name"] for row in rows] == parts
    share = sum(row["share"] for row in rows if not row["inside"] and row["name"] != "step")
    assert share == pytest.approx(1, abs=0.01)
    for phase in ("forward", "backward"):
        whole = next(row["milliseconds"] for row in rows if row["name"] == phase)
        inside = sum(row["milliseconds"] for row in rows if row["inside"] == phase)
        assert 0.3 * whole < inside <= whole
    kinds = {row["name"] for row in numbers["operations"]}
    assert {"convolution", "matrix product", "sampling", "normalization", "optimizer"} <= kinds
    assert sum(row["share"] for row in numbers["operations"]) == pytest.approx(1)
    assert "of a step, forward and backward" in printed.err
    with gzip.open("run/profile/trace.json.gz", "rt", encoding="utf-8") as file:
        assert json.load(file)["traceEvents"]


#: All images in one step, so that the loss of the first epoch is that of the untrained model: what
#: Adam makes of a gradient's rounding, when it begins with the signs, is not in it yet.
ONE_STEP = ["--data", "data", "--batch", "8", "--amp", "off"]


def test_the_layout_of_memory_changes_no_more_than_rounding(place: Path) -> None:
    common = [*ONE_STEP, "--epochs", "1"]
    assert main(["train", "tiny.yml", *common, "-o", "last", "--channels-last"]) == 0
    assert main(["train", "tiny.yml", *common, "-o", "first", "--no-channels-last"]) == 0
    assert losses(place / "last") == pytest.approx(losses(place / "first"), rel=1e-5)


def test_compile_needs_a_compiler(
    place: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    options = ["--data", "data", "--epochs", "1", "--device", "cpu", "-o", "run", "--compile"]
    assert main(["train", "tiny.yml", *options]) == 2
    assert "C++ compiler" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="needs a C++ compiler")
def test_the_compiled_model_learns_the_same(place: Path) -> None:
    common = [*ONE_STEP, "--epochs", "2"]
    assert main(["train", "tiny.yml", *common, "-o", "plain"]) == 0
    assert main(["train", "tiny.yml", *common, "-o", "compiled", "--compile"]) == 0
    plain, compiled = losses(place / "plain"), losses(place / "compiled")
    assert compiled[0] == pytest.approx(plain[0], rel=1e-5)
    assert compiled[1] == pytest.approx(plain[1], rel=5e-2)
