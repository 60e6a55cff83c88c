"""Numbers that are not finite, injected: dropped steps, going back, stopping, what is left."""

from __future__ import annotations

import copy
import json
import logging
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from detrkit.engine.amp import Precision
from detrkit.engine.checkpoint import Checkpoint
from detrkit.engine.divergence import Policy
from detrkit.engine.observers import EpochReport, Observer, StepReport
from detrkit.engine.optim import build_optimizer
from detrkit.engine.safeguard import Safeguard
from detrkit.engine.trainer import Trainer
from detrkit.errors import ConfigError, Interrupted, TrainingDiverged
from detrkit.structures import Batch
from tests.engine.test_trainer import Act, log_of, state_of
from tests.engine.toy import Loader, Loss, equal, trainer

NAN, INF = float("nan"), float("inf")


class Spoiled(Loader):
    """Some batches (epoch, number) hold pixels that are not finite."""

    def __init__(self, bad: set[tuple[int, int]], batches: int = 5, value: float = NAN) -> None:
        super().__init__(batches)
        self.bad, self.value = bad, value

    def __iter__(self) -> Iterator[Batch]:
        for batch in super().__iter__():
            if self.made[-1] in self.bad:
                batch.images[0, 0, 0, 0] = self.value
            yield batch


def spoiled(folder: Path, *bad: tuple[int, int], value: float = NAN, **more: Any) -> Trainer:
    run = trainer(folder, **more)
    run.loader = Spoiled(set(bad), len(run.loader), value)
    return run


def content(run: Trainer) -> dict[str, Any]:
    """All that a step may change."""
    assert run.ema is not None
    return copy.deepcopy(
        {
            "model": run.model.state_dict(),
            "ema": run.ema.state_dict(),
            "optimizer": {
                k: v for k, v in run.optimizer.state_dict().items() if k != "param_groups"
            },
        }
    )


class Contents(Observer):
    """What the run holds after each step, and its reports."""

    def __init__(self) -> None:
        self.run: Trainer | None = None
        self.after: list[dict[str, Any]] = []
        self.epochs: list[EpochReport] = []

    def step(self, report: StepReport) -> None:
        if report.phase == "train" and self.run is not None:
            self.after.append(content(self.run))

    def epoch(self, report: EpochReport) -> None:
        self.epochs.append(report)


def on_the_device(run: Trainer) -> Trainer:
    """As on a GPU: the host reads the flag one step later."""
    run.safeguard = Safeguard(run.optimizer, on_device=True)
    run.watch.lag = 1
    return run


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


class Sharp(nn.Module):
    """A loss of zero whose slope is infinite, at chosen calls."""

    def __init__(self, *calls: int) -> None:
        super().__init__()
        self.calls, self.count, self.loss = calls, -1, Loss()

    def forward(self, outputs: Any, targets: Any, epoch: int = 0) -> Any:
        self.count += 1
        losses = self.loss(outputs, targets, epoch)
        if self.count in self.calls:
            losses["loss_sharp"] = (outputs["pred"].sum() * 0).sqrt()
        else:
            losses["loss_sharp"] = outputs["pred"].sum() * 0
        return losses


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


# Going back ------------------------------------------------------------------------------------


def test_too_many_in_a_row_go_back_to_the_start_of_the_epoch(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    watcher = Contents()
    bad = [(1, number) for number in (2, 3)]
    run = spoiled(tmp_path, *bad, policy=Policy(max_skips=2), observers=[watcher])
    watcher.run = run
    restored: list[dict[str, Any]] = []
    back = run.roll_back

    def watched() -> str | None:
        change = back()
        restored.append(content(run))
        return change

    run.roll_back = watched  # type: ignore[method-assign]
    run.fit()
    assert len(restored) == 1
    assert equal(restored[0], watcher.after[4])  # after the last step of epoch 0
    assert run.state.roll_backs == 1
    assert run.state.lr_scale == 0.5
    # the run went on with the next batch and the next place of the schedule
    assert run.loader.made == [(e, n) for e in range(4) for n in range(5)]  # type: ignore[attr-defined]
    assert (run.state.step, run.state.schedule_step) == (20, 20)
    assert "2 steps in a row dropped: back to the last good state" in caplog.text
    assert "going on in epoch 2 after batch 4 with learning rates x 0.5" in caplog.text
    assert run.lr == pytest.approx(0.01 * run.plan.lr_factor(19) * 0.5)
    assert (tmp_path / "diverged" / "step_8" / "report.json").is_file()
    assert not (tmp_path / "epoch_start.pth").exists()


def test_the_first_epoch_goes_back_to_the_beginning(tmp_path: Path) -> None:
    run = spoiled(tmp_path, (0, 1), (0, 2), policy=Policy(max_skips=2))
    start = content(run)
    restored = []
    restore = run._restore
    run._restore = lambda kept: (restore(kept), restored.append(content(run)))  # type: ignore
    run.fit()
    assert equal(restored[0]["model"], start["model"])
    assert run.state.step == 20


def test_a_row_over_the_end_of_an_epoch_goes_back_to_before_it(tmp_path: Path) -> None:
    """Weights that something spoiled must not be taken for the good ones."""
    run = trainer(tmp_path, policy=Policy(max_skips=99))  # but an epoch has five steps

    def poison() -> None:
        with torch.no_grad():
            run.model.net[0].weight.fill_(NAN)  # type: ignore[union-attr, index]

    run.observers = [*run.observers, Act(6, poison)]
    run.fit()
    assert run.state.roll_backs == 1
    assert all(value.isfinite().all() for value in run.model.state_dict().values())
    assert [row["train/skipped_steps"] for row in log_of(tmp_path)] == [0, 3, 2, 0]


@pytest.mark.parametrize(
    ("amp", "then"), [("fp16", ["bf16", "off", "off"]), ("bf16", ["off", "off", "off"])]
)
def test_the_number_format_gets_safer(tmp_path: Path, amp: Any, then: list[str]) -> None:
    run = trainer(tmp_path, precision=Precision(amp))
    run.keeper.save_start(run.snapshot())
    for number, expected in enumerate(then):
        assert run.roll_back() is not None
        assert run.precision.amp == run.state.amp == expected
        assert run.scaler.is_enabled() == (expected == "fp16")
        assert run.state.lr_scale == 0.5 ** max(number + 1 - len(set(then)), 0)
    again = trainer(tmp_path / "again", precision=Precision(amp))
    again.resume(run.snapshot())
    assert again.precision.amp == "off"
    assert not again.scaler.is_enabled()
    assert again.state.lr_scale == run.state.lr_scale


def test_fp16_that_overflows_in_the_model_goes_on_in_bf16(tmp_path: Path) -> None:
    run = trainer(tmp_path, epochs=2, stop=2, precision=Precision("fp16"), policy=Policy("skip", 3))

    class Loud(nn.Module):
        """Overflows float16, and only that."""

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return (x + 60000 + 60000) * 1e-9 + x

    run.model.net.insert(1, Loud())  # type: ignore[union-attr, operator]
    run.fit()
    assert run.state.amp == "bf16"
    assert run.state.roll_backs == 1
    rows = log_of(tmp_path)
    assert [row["train/skipped_steps"] for row in rows] == [3, 0]
    report = json.loads((tmp_path / "diverged" / "step_2" / "report.json").read_text())
    (process,) = report["processes"]
    assert report["amp"] == "fp16"
    assert process["forward"]["kind"] == "Loud"
    assert process["forward"]["dtype"] == "float16"
    assert process["forward"]["largest_input"] < 10


def test_a_scale_that_cannot_get_smaller_is_no_search(tmp_path: Path) -> None:
    """Gradients that overflow at any scale are not the scaler's business."""
    run = trainer(tmp_path, epochs=1, batches=30, precision=Precision("fp16"))
    run.criterion = Sharp(*range(99))
    run.fit()
    # 2^16 … 2^0 are tried, then steps count as dropped, and after ten of them bf16 goes on
    assert run.state.amp == "bf16"
    assert run.state.roll_backs == 1
    assert log_of(tmp_path)[0]["train/skipped_steps"] == 30 - 17


def test_a_short_run_does_not_end_amid_dropped_steps(tmp_path: Path) -> None:
    """Two steps an epoch, none of which counts: ten in a row would be more than the run has."""
    run = spoiled(tmp_path, *[(e, n) for e in range(9) for n in range(2)], epochs=9, batches=2)
    with pytest.raises(TrainingDiverged, match="3 steps in a row dropped after going back 2 times"):
        run.fit()
    assert run.state.step == 9


def test_after_all_roll_backs_the_run_stops(tmp_path: Path) -> None:
    run = spoiled(
        tmp_path, *[(1, n) for n in range(9)], batches=9, policy=Policy(max_skips=2)
    )  # fmt: skip
    with pytest.raises(TrainingDiverged) as error:
        run.fit()
    assert "2 steps in a row dropped after going back 2 times" in error.value.message
    assert str(tmp_path / "diverged" / "step_14") in error.value.message
    assert error.value.exit_code == 7
    folders = sorted(path.name for path in (tmp_path / "diverged").iterdir())
    assert folders == ["step_10", "step_12", "step_14"]
    kept = Checkpoint.load(tmp_path / "last.pth")
    assert kept.position["step"] == 9
    assert all(value.isfinite().all() for value in kept.weights.values())


def test_a_restart_is_gone_back_to_as_well(tmp_path: Path) -> None:
    """Stage 2 starts from the best weights of stage 1, not from those of the epoch before."""
    run = spoiled(
        tmp_path, (3, 2), (3, 3), scores=[0.1, 0.5, 0.2, 0.6], policy=Policy(max_skips=2)
    )  # fmt: skip
    restored = []
    restore = run._restore
    run._restore = lambda kept: (restored.append(kept.position["epoch"]), restore(kept))  # type: ignore
    run.fit()
    assert restored == [2, 2]  # entering stage 2, and again; position 2: epoch 1 was the best
    assert run.state.schedule_step == 15  # rewound once, to the end of epoch 1


# Resuming --------------------------------------------------------------------------------------

BAD = [(0, 1), (1, 1), (1, 2), (1, 4), (2, 0), (2, 1)]


@pytest.mark.parametrize("step", [1, 6, 7, 8, 9, 11, 12])
def test_a_run_that_was_stopped_goes_back_as_the_whole(tmp_path: Path, step: int) -> None:
    policy = Policy(max_skips=3, max_roll_backs=3)

    def make(name: str, **more: Any) -> Trainer:
        return spoiled(tmp_path / name, *BAD, policy=policy, **more)

    whole = make("whole")
    whole.fit()
    assert whole.state.roll_backs == 1
    first = make("parts")
    first.observers = [
        *first.observers, Act(step, lambda: setattr(first.guard, "requested", True))
    ]  # fmt: skip
    with pytest.raises(Interrupted):
        first.fit()
    kept = Checkpoint.load(tmp_path / "parts" / "last.pth")
    assert kept.position["step"] == step + 1
    rest = make("parts", first_epoch=kept.position["epoch"])
    rest.resume(kept)
    rest.evaluator.calls = kept.position["epoch"]  # type: ignore[union-attr]
    rest.fit()
    assert equal(state_of(tmp_path / "whole"), state_of(tmp_path / "parts"))
    assert log_of(tmp_path / "whole") == log_of(tmp_path / "parts")


def test_saving_often_changes_no_roll_back(tmp_path: Path) -> None:
    policy = Policy(max_skips=3, max_roll_backs=3)
    spoiled(tmp_path / "whole", *BAD, policy=policy).fit()
    often = spoiled(tmp_path / "often", *BAD, policy=policy)
    often.keeper.seconds = 0.0
    often.fit()
    assert equal(state_of(tmp_path / "whole"), state_of(tmp_path / "often"))


def test_without_links_the_start_is_copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(1, "no links here")

    monkeypatch.setattr("os.link", refuse)
    test_saving_often_changes_no_roll_back(tmp_path)


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
