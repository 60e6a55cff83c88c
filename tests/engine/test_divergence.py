"""Numbers that are not finite, injected: dropped steps, going back, stopping, what is left."""

from __future__ import annotations

import json
import logging
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from detrkit.engine.amp import Precision
from detrkit.engine.checkpoint import Checkpoint
from detrkit.engine.divergence import Policy
from detrkit.engine.optim import build_optimizer
from detrkit.engine.safeguard import Safeguard
from detrkit.errors import ConfigError, TrainingDiverged
from tests.engine.spoiled import INF, NAN, Contents, Sharp, content, on_the_device, spoiled
from tests.engine.test_trainer import Act, log_of
from tests.engine.toy import Loss, equal, trainer


@pytest.mark.parametrize("value", [NAN, INF])
@pytest.mark.parametrize("device", [False, True])
def test_a_bad_step_changes_nothing_that_lasts(
    tmp_path: Path, value: float, device: bool, caplog: pytest.LogCaptureFixture
) -> None:
    watcher = Contents()
    run = spoiled(tmp_path, (0, 2), (1, 4), value=value, observers=[watcher])
    watcher.run = on_the_device(run) if device else run
    run.fit()
    for bad in (2, 9):
        before, after = watcher.after[bad - 1], watcher.after[bad]
        if device and bad == 2:  # the host does not know yet that the update did not count
            assert after["ema"].pop("updates") == before["ema"].pop("updates") + 1
        elif device:
            after["ema"].pop("updates"), before["ema"].pop("updates")
        assert equal(before, after), bad
        assert not equal(after, watcher.after[bad + 1])
    assert run.ema is not None
    assert run.ema.updates == 18
    assert [report.skipped_steps for report in watcher.epochs] == [1, 1, 0, 0]
    assert [row["train/skipped_steps"] for row in log_of(tmp_path)] == [1, 1, 0, 0]
    assert all(math.isfinite(report.losses["loss"]) for report in watcher.epochs)
    assert "the loss is not finite at step 2: loss_l1 = nan" in caplog.text
    assert "images 2-0, 2-1; the step is dropped" in caplog.text
    assert run.state.step == 20
    assert not (tmp_path / "diverged").exists()
    for value_ in Checkpoint.load(tmp_path / "last.pth").weights.values():
        assert value_.isfinite().all()


def test_averages_are_over_the_steps_that_count(tmp_path: Path) -> None:
    """One epoch with a bad last batch has the losses of one without it."""
    short, long = trainer(tmp_path / "a", batches=3), spoiled(tmp_path / "b", (0, 3), batches=4)
    for run in (short, long):
        run.state.epoch = 0
        run.plan = trainer(tmp_path / "c", batches=4).plan
        run.train_epoch(run.plan.at(0))
    assert short.state.mean_losses() == long.state.mean_losses()
    assert short.state.batch + 1 == long.state.batch


@settings(max_examples=12, deadline=None)
@given(
    bad=st.sets(st.tuples(st.integers(0, 1), st.integers(0, 4)), max_size=7),
    max_skips=st.sampled_from([3, 99]),
)
def test_the_device_decides_as_the_host(
    tmp_path_factory: pytest.TempPathFactory, bad: set[tuple[int, int]], max_skips: int
) -> None:
    folder = tmp_path_factory.mktemp("same")
    policy = Policy(max_skips=max_skips, max_roll_backs=9)
    host = spoiled(folder / "host", *bad, epochs=2, stop=2, policy=policy)
    device = on_the_device(spoiled(folder / "device", *bad, epochs=2, stop=2, policy=policy))
    for run in (host, device):
        assert run.ema is not None
        run.ema.warmups = 0  # in the warm-up the next decay is that of a step that counted
        run.fit()
    ours, theirs = content(host), content(device)
    for value in [*theirs["model"].values(), *theirs["ema"]["module"].values()]:
        assert value.isfinite().all()
    assert bool(host.state.roll_backs) == bool(device.state.roll_backs)
    if host.state.roll_backs:
        return  # what a GPU has done by the time it goes back is lost as well
    assert equal(ours["model"], theirs["model"])
    assert ours["ema"]["updates"] == theirs["ema"]["updates"] == 10 - len(bad)
    assert host.state.skips_in_a_row == device.state.skips_in_a_row
    average = ours["ema"]["module"]
    for name, value in theirs["ema"]["module"].items():
        assert torch.allclose(value, average[name], rtol=1e-5, atol=1e-7), name


def test_the_device_decides_without_the_host(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever reads a number from a GPU makes the host wait for it."""
    run = on_the_device(trainer(tmp_path))
    batches = list(run.loader)
    run.train_step(batches[0])  # the optimizer gets its state

    def read(*_: object) -> None:
        raise AssertionError("the host reads a number of the device")

    update = run.safeguard.update

    def watched(*arguments: Any) -> None:
        with monkeypatch.context() as patch:
            for name in ("__bool__", "__float__", "__int__", "item", "tolist", "cpu", "numpy"):
                patch.setattr(torch.Tensor, name, read)
            update(*arguments)

    monkeypatch.setattr(run.safeguard, "update", watched)
    before = content(run)
    run.train_step(batches[1])
    assert not run.safeguard.bad
    assert not equal(before["model"], content(run)["model"])
    before = content(run)
    batches[2].images[0] = NAN
    run.train_step(batches[2])
    assert run.safeguard.bad
    assert equal(before["model"], content(run)["model"])


@pytest.mark.parametrize("device", [False, True])
def test_momentum_does_not_start_from_a_bad_step(tmp_path: Path, device: bool) -> None:
    """A fused SGD would take its first momentum from it."""
    run = spoiled(tmp_path, (0, 0), (0, 2))
    run.optimizer = build_optimizer({"type": "SGD", "lr": 0.01, "momentum": 0.9}, run.model)
    run.safeguard = Safeguard(run.optimizer, on_device=device)
    run.fit()
    assert run.safeguard.masked == device
    momenta = [state["momentum_buffer"] for state in run.optimizer.state.values()]
    for value in [*momenta, *run.model.state_dict().values()]:
        assert value.isfinite().all()
    assert max(float(value.abs().max()) for value in momenta) < 10


@pytest.mark.parametrize("device", [False, True])
def test_in_fp16_an_overflow_is_left_out_but_not_counted(tmp_path: Path, device: bool) -> None:
    watcher = Contents()
    run = spoiled(tmp_path, (0, 3), epochs=1, precision=Precision("fp16"), observers=[watcher])
    watcher.run = on_the_device(run) if device else run
    run.observers = [*run.observers, Act(0, lambda: run.scaler.update(2.0**100))]
    run.fit()
    weights = [after["model"]["net.0.weight"] for after in watcher.after]
    assert torch.equal(weights[0], weights[1])  # no step, and a lower scale
    statistics = [after["model"]["net.1.running_mean"] for after in watcher.after]
    assert not torch.equal(statistics[0], statistics[1])  # nothing was wrong with the images
    assert torch.equal(statistics[2], statistics[3])
    assert watcher.epochs[0].skipped_steps == 1
    assert run.ema is not None
    assert run.ema.updates == 4


def test_a_gradient_that_is_not_finite_is_dropped(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = trainer(tmp_path)
    run.criterion = Sharp(3)
    run.fit()
    assert "the gradient is not finite at step 3 (the losses are)" in caplog.text
    assert all(value.isfinite().all() for value in run.model.state_dict().values())


def test_a_constant_that_is_not_finite_is_dropped_though_gradients_are(tmp_path: Path) -> None:
    class Logged(Loss):
        def forward(self, outputs: Any, targets: Any, epoch: int = 0) -> Any:
            bad = len(targets[0]) == 0
            return {**super().forward(outputs, targets), "x": torch.tensor(NAN if bad else 0.0)}

    run = trainer(tmp_path, epochs=1)
    run.criterion = Logged()
    run.fit()
    assert log_of(tmp_path)[0]["train/skipped_steps"] == 2  # batches 0 and 3


# Policies --------------------------------------------------------------------------------------


def test_stop_stops_at_once_and_leaves_a_folder(tmp_path: Path) -> None:
    run = spoiled(tmp_path, (1, 3), policy=Policy("stop"))
    with pytest.raises(TrainingDiverged, match="the loss is not finite at step 8") as error:
        run.fit()
    folder = tmp_path / "diverged" / "step_8"
    assert str(folder) in error.value.message
    report = json.loads((folder / "report.json").read_text())
    assert (report["step"], report["epoch"], report["batch"]) == (8, 1, 3)
    assert report["weights"] == [str(tmp_path / "last.pth"), str(tmp_path / "best.pth")]
    (process,) = report["processes"]
    assert [image["id"] for image in process["images"]] == ["3-0", "3-1"]
    assert process["pixels"] == ["3-0"]
    assert process["losses"]["step"] == process["losses"]["repetition"]
    assert process["losses"]["step"]["loss_l1"] == "nan"
    assert process["forward"]["module"] == "net.0"
    assert process["weights"] == []
    group = process["groups"]["all"]
    assert group["gradient_norm"] == "nan"
    assert "net.0.weight" in group["first"]


def test_a_plain_number_of_the_policy_is_checked() -> None:
    for policy in ({"max_skips": 0}, {"max_roll_backs": -1}):
        with pytest.raises(ConfigError, match="at least 1 and 0"):
            Policy(**policy)  # type: ignore[arg-type]


def test_no_roll_backs_stop_after_the_row(tmp_path: Path) -> None:
    policy = Policy(max_skips=2, max_roll_backs=0)
    run = spoiled(tmp_path, (0, 1), (0, 2), policy=policy)
    with pytest.raises(TrainingDiverged, match="2 steps in a row dropped; see"):
        run.fit()
    assert not (tmp_path / "epoch_start.pth").exists()


def test_only_a_few_are_described(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    every_other = [(0, number) for number in range(0, 20, 2)]
    with caplog.at_level(logging.WARNING):
        spoiled(tmp_path, *every_other, epochs=1, batches=20).fit()
    assert caplog.text.count("the step is dropped") == 5
    assert caplog.text.count("others of this epoch are only counted") == 1


def test_a_folder_that_cannot_be_written_does_not_hide_the_error(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = spoiled(tmp_path, (0, 3), policy=Policy("stop"))
    (tmp_path / "diverged").write_text("in the way")
    with pytest.raises(TrainingDiverged, match=r"images 3-0, 3-1$"):
        run.fit()
    assert "no diagnosis of the step" in caplog.text
