"""Checkpoints: layout, atomic writing, messages."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from detrkit.engine.checkpoint import Checkpoint
from detrkit.errors import DetrkitError, WeightsError
from detrkit.files import write_atomically
from detrkit.structures import ClassMap, ImageSpec


def full() -> Checkpoint:
    net = nn.Linear(2, 2)
    optimizer = torch.optim.AdamW(net.parameters())
    net(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    return Checkpoint(
        model=net.state_dict(),
        ema={"module": {k: v + 1 for k, v in net.state_dict().items()}, "updates": 3},
        optimizer=optimizer.state_dict(),
        last_epoch=4,
        config={"epochs": 9, "image_size": [32, 64]},
        config_name="tiny",
        class_map=ClassMap(("猫", "dog"), ("a7", 3)),
        image_spec=ImageSpec((32, 64)),
        metrics={"AP": 0.5},
        position={"epoch": 5, "step": 50},
    )


def test_round_trip(tmp_path: Path) -> None:
    saved = full()
    saved.save(tmp_path / "last.pth")
    read = Checkpoint.load(tmp_path / "last.pth")
    assert read.class_map == saved.class_map
    assert read.image_spec == saved.image_spec
    assert read.config == saved.config
    assert (read.metrics, read.position, read.last_epoch) == ({"AP": 0.5}, saved.position, 4)
    assert read.can_resume
    assert torch.equal(read.weights["weight"], saved.ema["module"]["weight"])  # type: ignore[index]
    assert list(tmp_path.iterdir()) == [tmp_path / "last.pth"]


def test_the_authors_layout(tmp_path: Path) -> None:
    full().save(tmp_path / "last.pth")
    content = torch.load(tmp_path / "last.pth", weights_only=True)
    assert {"date", "last_epoch", "model", "ema", "optimizer", "detrkit"} <= set(content)
    assert set(content["ema"]) == {"module", "updates"}


def test_stripped(tmp_path: Path) -> None:
    full().stripped().save(tmp_path / "best.pth")
    read = Checkpoint.load(tmp_path / "best.pth")
    assert not read.can_resume
    assert read.ema is None
    assert read.model is not None
    assert torch.equal(read.model["weight"], full().weights["weight"]) or read.model
    assert read.class_map is not None


@pytest.mark.parametrize("form", ["train", "stripped", "bare", "ema only", "ddp", "state_dict"])
def test_reads_others_files(tmp_path: Path, form: str) -> None:
    state = nn.Linear(2, 2).state_dict()
    wrapped = {f"module.{k}": v for k, v in state.items()}
    content = {
        "train": {
            "model": state,
            "ema": {"module": state, "updates": 9},
            "optimizer": {"state": {}, "param_groups": []},
            "last_epoch": 3,
            "date": "2024",
        },
        "stripped": {"model": state},
        "bare": dict(state),
        "ema only": {"ema": {"module": state, "updates": 1}},
        "ddp": {"model": wrapped},
        "state_dict": {"state_dict": dict(state)},
    }[form]
    torch.save(content, tmp_path / "w.pth")
    read = Checkpoint.load(tmp_path / "w.pth")
    assert list(read.weights) == ["weight", "bias"]
    assert read.class_map is None
    assert read.last_epoch == (3 if form == "train" else -1)


def test_missing_names_its_neighbours(tmp_path: Path) -> None:
    full().save(tmp_path / "best.pth")
    with pytest.raises(WeightsError, match="not found") as error:
        Checkpoint.load(tmp_path / "bets.pth")
    assert "best.pth" in (error.value.hint or "")
    with pytest.raises(WeightsError, match="is a folder"):
        Checkpoint.load(tmp_path)


def test_damaged(tmp_path: Path) -> None:
    file = tmp_path / "last.pth"
    full().save(file)
    whole = file.read_bytes()
    for content in (b"", b"no checkpoint", whole[: len(whole) // 2]):
        file.write_bytes(content)
        with pytest.raises(WeightsError, match="damaged"):
            Checkpoint.load(file)


def test_code_inside_is_not_run(tmp_path: Path) -> None:
    state = nn.Linear(2, 2).state_dict()
    torch.save({"model": state, "args": Path("x")}, tmp_path / "w.pth")
    with pytest.raises(WeightsError, match=r"Python objects.*\(pathlib") as error:
        Checkpoint.load(tmp_path / "w.pth")
    assert "weights strip" in (error.value.hint or "")
    assert "--trust" in (error.value.hint or "")
    assert list(Checkpoint.load(tmp_path / "w.pth", trusted=True).weights) == ["weight", "bias"]


def test_objects_of_programs_that_are_not_here(tmp_path: Path) -> None:
    class Left:
        def __reduce__(self) -> tuple[object, ...]:
            import types

            module = types.ModuleType("gone_program")
            return (_absent(module), ())

    def _absent(module: object) -> type:
        import sys

        kind = type("Settings", (), {"__module__": "gone_program", "__qualname__": "Settings"})
        sys.modules["gone_program"] = module  # type: ignore[assignment]
        module.Settings = kind  # type: ignore[attr-defined]
        return kind

    torch.save({"model": {}, "args": Left()}, tmp_path / "w.pth")
    del sys.modules["gone_program"]
    with pytest.raises(WeightsError, match=r"a program that is not here: .*gone_program"):
        Checkpoint.load(tmp_path / "w.pth", trusted=True)


def test_numbers_of_numpy_are_plain(tmp_path: Path) -> None:
    state = nn.Linear(2, 2).state_dict()
    content = {"model": state, "best": np.float64(0.5), "curve": np.arange(3), "n": np.int64(3)}
    torch.save(content, tmp_path / "w.pth")
    assert list(Checkpoint.load(tmp_path / "w.pth").weights) == ["weight", "bias"]


@pytest.mark.parametrize("content", [[1, 2], {"epoch": 3}, {}])
def test_no_checkpoint(tmp_path: Path, content: object) -> None:
    torch.save(content, tmp_path / "w.pth")
    with pytest.raises(WeightsError, match="not a"):
        Checkpoint.load(tmp_path / "w.pth")


def test_newer_format(tmp_path: Path) -> None:
    torch.save({"model": {}, "detrkit": {"format": 99, "version": "9.0"}}, tmp_path / "w.pth")
    with pytest.raises(WeightsError, match="newer"):
        Checkpoint.load(tmp_path / "w.pth")


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    file = tmp_path / "last.pth"
    file.write_bytes(b"old")

    def broken(handle: object) -> None:
        handle.write(b"half")  # type: ignore[attr-defined]
        raise OSError(28, "No space left on device")

    with pytest.raises(DetrkitError, match="no space left") as error:
        write_atomically(file, broken)
    assert "resume" in (error.value.hint or "")
    assert file.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [file]


@pytest.mark.parametrize("number", [13, 30])
def test_no_permission(tmp_path: Path, number: int) -> None:
    def denied(_: object) -> None:
        raise OSError(number, os.strerror(number))

    with pytest.raises(DetrkitError, match="read-only"):
        write_atomically(tmp_path / "x", denied)


@pytest.mark.skipif(sys.platform == "win32", reason="needs a limit on file sizes")
def test_a_disk_that_is_really_full(tmp_path: Path) -> None:
    """torch.save itself runs into the limit; whatever it raises becomes our message."""
    script = f"""
import resource, torch
from pathlib import Path
from detrkit.engine.checkpoint import Checkpoint
from detrkit.errors import DetrkitError
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
path = Path({str(tmp_path / "last.pth")!r})
Checkpoint(model={{"w": torch.zeros(10)}}).save(path)
try:
    Checkpoint(model={{"w": torch.zeros(1_000_000)}}).save(path)
except DetrkitError as error:
    assert "no space left" in error.message, error.message
    assert len(Checkpoint.load(path).weights["w"]) == 10
    raise SystemExit(42)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 42, done.stderr
    assert [p.name for p in tmp_path.iterdir()] == ["last.pth"]
