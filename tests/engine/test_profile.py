"""The profile of a few steps."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest
import torch

from detrkit.engine.observers.base import StepReport
from detrkit.engine.observers.profile import WARM_UP, StepProfile
from detrkit.phases import PHASES, phase, phase_of

CPU = torch.device("cpu")


def run(observer: StepProfile, batches: int) -> None:
    """Two epochs of steps with a forward pass each."""
    weight = torch.ones(64, 64)
    for epoch in range(2):
        for batch in range(batches):
            with phase("forward"):
                weight = weight @ weight / 64
            observer.step(StepReport("train", epoch, 2, batch, batches, seconds=0.01))
        observer.step(StepReport("val", epoch, 2, 0, 1))


def test_names_of_the_parts() -> None:
    assert phase_of("detrkit: loss") == "loss"
    assert phase_of("aten::mm") is None
    assert "match" in PHASES


@pytest.mark.parametrize(("batches", "profiled"), [(20, 4), (WARM_UP + 2, 4), (4, 3), (2, 1)])
def test_the_steps_behind_the_first(tmp_path: Path, batches: int, profiled: int) -> None:
    observer = StepProfile(tmp_path / "profile", 4, CPU)
    run(observer, batches)
    observer.close()
    with gzip.open(tmp_path / "profile/trace.json.gz", "rt", encoding="utf-8") as file:
        events = json.load(file)["traceEvents"]
    assert sum(event.get("name") == "detrkit: forward" for event in events) == profiled
    table = (tmp_path / "profile/table.txt").read_text(encoding="utf-8")
    assert table.startswith("forward ")
    assert "aten::mm" in table
    assert "\nstep               10.00 ms  100.0%" in table  # ten milliseconds, as reported


def test_epochs_of_one_step_cannot_be_profiled(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    observer = StepProfile(tmp_path / "profile", 4, CPU)
    run(observer, 1)
    observer.close()
    assert "nothing was profiled" in caplog.text
    assert not (tmp_path / "profile").exists()


def test_a_full_disk_does_not_end_the_run(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "profile").write_text("a file stands in the way", encoding="utf-8")
    run(StepProfile(tmp_path / "profile", 2, CPU), 10)
    assert "cannot be written" in caplog.text
