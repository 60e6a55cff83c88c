"""The loop on a tiny network: resuming, interrupting, stages, divergence."""

from __future__ import annotations

import copy
import json
import os
import signal
from pathlib import Path

import pytest
import torch
from torch import nn

from detrkit.engine.amp import Precision
from detrkit.engine.checkpoint import Checkpoint
from detrkit.engine.divergence import Policy
from detrkit.engine.observers import Observer, StepReport
from detrkit.engine.plan import Plan
from detrkit.errors import DetrkitError, Interrupted, TrainingDiverged
from tests.engine.toy import Loader, Net, equal, restarts_of, trainer, tree


class Act(Observer):
    """Does something at one step."""

    def __init__(self, step: int, action) -> None:  # type: ignore[no-untyped-def]
        self.at, self.action = step, action

    def step(self, report: StepReport) -> None:
        if report.phase == "train" and report.step == self.at:
            self.action()


def state_of(folder: Path) -> dict[str, object]:
    """What decides how a run goes on, without times."""
    checkpoint = Checkpoint.load(folder / "last.pth")
    position = {k: v for k, v in checkpoint.position.items() if "seconds" not in k}
    return {
        "model": checkpoint.model,
        "ema": checkpoint.ema,
        "optimizer": checkpoint.optimizer,
        "position": position,
    }


def log_of(folder: Path) -> list[dict[str, object]]:
    """The log without times."""
    rows = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [{k: v for k, v in row.items() if not k.startswith("resources/")} for row in rows]


def test_two_and_two_epochs_are_four(tmp_path: Path) -> None:
    trainer(tmp_path / "whole").fit()
    # the plan of the whole run, stopped after two epochs
    first = trainer(tmp_path / "parts")
    with pytest.raises(PowerCut):
        stop_after(first, epochs=2)
    second = trainer(tmp_path / "parts", first_epoch=2)
    second.resume(Checkpoint.load(tmp_path / "parts" / "last.pth"))
    second.evaluator.calls = 2  # type: ignore[union-attr]
    assert second.state.epoch == 2
    second.fit()
    assert equal(state_of(tmp_path / "whole"), state_of(tmp_path / "parts"))
    assert log_of(tmp_path / "whole") == log_of(tmp_path / "parts")
    assert second.loader.made[0] == (2, 0)  # type: ignore[attr-defined]


class PowerCut(BaseException):
    """Nothing in the engine knows it."""


def stop_after(run, epochs: int) -> None:  # type: ignore[no-untyped-def]
    """Breaks off like a power cut, right after the checkpoint of an epoch."""
    save = run.keeper.save_last

    def save_and_stop(snapshot: Checkpoint) -> None:
        save(snapshot)
        if run.state.epoch == epochs and run.state.batch == 0:
            raise PowerCut

    run.keeper.save_last = save_and_stop
    run.fit()


@pytest.mark.parametrize("step", [1, 7, 12, 16])
def test_ctrl_c_anywhere_then_resume_equals_the_whole(tmp_path: Path, step: int) -> None:
    trainer(tmp_path / "whole").fit()
    hit = Act(step, lambda: os.kill(os.getpid(), signal.SIGINT))
    with pytest.raises(Interrupted, match="interrupted in epoch") as error:
        trainer(tmp_path / "parts", observers=[hit]).fit()
    assert error.value.exit_code == 130
    assert "detrkit resume" in (error.value.hint or "")
    kept = Checkpoint.load(tmp_path / "parts" / "last.pth")
    assert kept.position["step"] == step + 1
    rest = trainer(tmp_path / "parts", first_epoch=kept.position["epoch"])
    rest.resume(kept)
    rest.evaluator.calls = kept.position["epoch"]  # type: ignore[union-attr]
    rest.fit()
    assert equal(state_of(tmp_path / "whole"), state_of(tmp_path / "parts"))
    assert log_of(tmp_path / "whole") == log_of(tmp_path / "parts")


def test_interrupt_in_the_evaluation_does_not_train_the_epoch_again(tmp_path: Path) -> None:
    trainer(tmp_path / "whole").fit()
    run = trainer(tmp_path / "parts")

    class Hit(Observer):
        def step(self, report: StepReport) -> None:
            if report.phase == "train" and report.step == 9:  # the last batch of epoch 1
                run.guard.requested = True

    run.observers = [*run.observers, Hit()]
    with pytest.raises(Interrupted, match="epoch 2, batch 5/5"):
        run.fit()
    kept = Checkpoint.load(tmp_path / "parts" / "last.pth")
    rest = trainer(tmp_path / "parts", first_epoch=kept.position["epoch"])
    rest.resume(kept)
    rest.evaluator.calls = 1  # type: ignore[union-attr]
    rest.fit()
    assert equal(state_of(tmp_path / "whole"), state_of(tmp_path / "parts"))
    assert rest.loader.made[0] == (2, 0)  # type: ignore[attr-defined]


def test_second_ctrl_c_stops_at_once_and_keeps_the_last_checkpoint(tmp_path: Path) -> None:
    def twice() -> None:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)

    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(Interrupted) as error:
        trainer(tmp_path, observers=[Act(7, twice)]).fit()
    assert "saved" not in error.value.message
    assert Checkpoint.load(tmp_path / "last.pth").position["epoch"] == 1
    assert signal.getsignal(signal.SIGINT) is before


def test_saving_inside_an_epoch_changes_nothing(tmp_path: Path) -> None:
    trainer(tmp_path / "whole").fit()
    often = trainer(tmp_path / "often")
    often.keeper.seconds = 0.0
    often.fit()
    assert equal(state_of(tmp_path / "whole"), state_of(tmp_path / "often"))


def test_the_second_stage_starts_from_the_best_of_the_first(tmp_path: Path) -> None:
    run = trainer(tmp_path, scores=[0.1, 0.5, 0.2, 0.6])
    seen = {}
    enter = run.enter

    def watch(stage):  # type: ignore[no-untyped-def]
        enter(stage)
        seen.update({k: v.clone() for k, v in run.model.state_dict().items()})
        seen["schedule_step"] = run.state.schedule_step

    run.enter = watch  # type: ignore[method-assign]
    run.fit()
    best = Checkpoint.load(tmp_path / "best_stg1.pth")
    assert best.last_epoch == 1
    assert seen.pop("schedule_step") == 10  # after two epochs of five
    assert best.model is not None
    assert equal(seen, best.model)
    assert run.state.step == 20
    assert run.state.best_epoch == 3
    assert Checkpoint.load(tmp_path / "best.pth").last_epoch == 3


def test_an_epoch_of_stage_two_that_is_not_better_goes_back(tmp_path: Path) -> None:
    run = trainer(tmp_path, epochs=6, scores=[0.1, 0.5, 0.2, 0.4, 0.3, 0.45])
    starts = restarts_of(run)
    run.fit()
    # stage 2 starts at 3; 0.4 < 0.5 goes back before 4; 0.3 is the first of its try and stays;
    # 0.45 > 0.3 is progress, and the last epoch anyway
    assert starts == [3, 4]
    assert run.state.best_value == 0.5
    assert Checkpoint.load(tmp_path / "best.pth").last_epoch == 1


def test_resume_in_stage_two_equals_the_whole(tmp_path: Path) -> None:
    scores = [0.1, 0.5, 0.2, 0.4, 0.3, 0.45]
    trainer(tmp_path / "whole", epochs=6, scores=scores).fit()
    for stop in (3, 4, 5):
        folder = tmp_path / f"parts{stop}"
        first = trainer(folder, epochs=6, scores=scores)
        with pytest.raises(PowerCut):
            stop_after(first, epochs=stop)
        rest = trainer(folder, epochs=6, scores=scores, first_epoch=stop)
        rest.resume(Checkpoint.load(folder / "last.pth"))
        rest.evaluator.calls = stop  # type: ignore[union-attr]
        rest.fit()
        assert equal(state_of(tmp_path / "whole"), state_of(folder))


def test_without_validation_data_the_latest_is_best(tmp_path: Path) -> None:
    run = trainer(tmp_path)
    run.evaluator = None
    run.fit()
    assert Checkpoint.load(tmp_path / "best.pth").last_epoch == 3
    assert run.state.best_value is None


def test_nothing_to_find_is_not_a_best_of_minus_one(tmp_path: Path) -> None:
    run = trainer(tmp_path, scores=[-1.0])
    run.fit()
    assert run.state.best_value is None
    assert Checkpoint.load(tmp_path / "best.pth").last_epoch == 3


def test_numbered_checkpoints(tmp_path: Path) -> None:
    run = trainer(tmp_path)
    run.keeper.every = 2
    run.fit()
    assert sorted(p.name for p in tmp_path.glob("epoch_*.pth")) == [
        "epoch_0002.pth",
        "epoch_0004.pth",
    ]


def test_a_loss_that_is_not_finite(tmp_path: Path) -> None:
    run = trainer(tmp_path, policy=Policy("stop"))

    def poison() -> None:
        with torch.no_grad():
            run.model.net[0].weight.fill_(float("nan"))  # type: ignore[union-attr, index]

    run.observers = [*run.observers, Act(6, poison)]
    with pytest.raises(TrainingDiverged, match=r"at step 7: loss_l1 = nan.*images 2-0, 2-1") as e:
        run.fit()
    assert e.value.exit_code == 7
    for value in Checkpoint.load(tmp_path / "last.pth").weights.values():
        assert torch.isfinite(value.float()).all()


def test_a_gradient_that_is_not_finite(tmp_path: Path) -> None:
    run = trainer(tmp_path, policy=Policy("stop"))

    class Sharp(nn.Module):
        def forward(self, outputs, targets, epoch=0):  # type: ignore[no-untyped-def]
            return {"loss": (outputs["pred"].sum() * 0).sqrt()}  # 0, slope infinite

    run.criterion = Sharp()
    with pytest.raises(TrainingDiverged, match="gradient is not finite at step 0"):
        run.fit()


def test_divergence_is_found_late_but_named_rightly(tmp_path: Path) -> None:
    run = trainer(tmp_path, policy=Policy("stop"))
    run.watch.lag = 1  # as on a GPU

    def poison() -> None:
        with torch.no_grad():
            run.model.net[0].weight.fill_(float("nan"))  # type: ignore[union-attr, index]

    run.observers = [*run.observers, Act(2, poison)]
    with pytest.raises(TrainingDiverged, match="at step 3"):
        run.fit()


def test_fp16_scales_the_loss_and_leaves_out_steps_that_overflow(tmp_path: Path) -> None:
    run = trainer(tmp_path, epochs=1, precision=Precision("fp16"))
    before, scales = [], []

    def look() -> None:
        before.append(copy.deepcopy(run.model.state_dict()["net.0.weight"]))
        scales.append(run.scaler.get_scale())

    def overflow() -> None:
        run.scaler.update(2.0**100)

    class Look(Observer):
        def step(self, report: StepReport) -> None:
            if report.phase == "train":
                look()

    run.observers = [*run.observers, Look(), Act(1, overflow)]
    run.fit()
    assert not torch.equal(before[0], before[1])
    assert torch.equal(before[1], before[2])  # infinite gradients: no step
    assert scales[2] == 2.0**99  # and a lower scale
    saved = Checkpoint.load(tmp_path / "last.pth")
    assert saved.scaler is not None
    again = trainer(tmp_path / "again", precision=Precision("fp16"))
    again.resume(saved)
    assert again.scaler.get_scale() == run.scaler.get_scale()


def test_a_full_disk_says_so_and_the_old_checkpoint_stays(tmp_path: Path) -> None:
    run = trainer(tmp_path)

    def full() -> None:
        def fail(*_: object, **__: object) -> None:
            raise OSError(28, "No space left on device")

        monkey.setattr(torch, "save", fail)

    with pytest.MonkeyPatch.context() as monkey:
        run.observers = [*run.observers, Act(7, full)]
        with pytest.raises(DetrkitError, match="no space left"):
            run.fit()
    assert Checkpoint.load(tmp_path / "last.pth").last_epoch == 0
    assert not list(tmp_path.glob(".*.tmp"))


def test_steps_follow_the_plan(tmp_path: Path) -> None:
    rates = []

    class Rates(Observer):
        def step(self, report: StepReport) -> None:
            if report.phase == "train":
                rates.append(report.lr)

    run = trainer(tmp_path, stop=4, observers=[Rates()])
    run.fit()
    plan = Plan.from_tree(tree(stop=4), 5)
    assert rates == pytest.approx([0.01 * plan.lr_factor(i) for i in range(20)])


def test_one_batch_can_be_learned(tmp_path: Path) -> None:
    run = trainer(tmp_path, epochs=40, stop=40, batches=1)
    run.model.net[3].p = 0.0  # type: ignore[union-attr, index]
    run.plan = Plan.from_tree({**tree(40, 40), "lr_warmup_scheduler": None}, 1)
    run.clip_max_norm = 0.0
    for group in run.optimizer.param_groups:
        group["initial_lr"] = 0.05

    class Same(Loader):
        def set_epoch(self, epoch: int, start_batch: int = 0) -> None:
            super().set_epoch(0, start_batch)

    run.loader = Same(1)
    run.fit()
    losses = [row["train/loss"] for row in log_of(tmp_path)]
    assert losses[-1] < 0.2 * losses[0]  # type: ignore[operator]


def test_resumes_the_authors_checkpoints(tmp_path: Path) -> None:
    trainer(tmp_path / "a", epochs=2, stop=2).fit()
    content = torch.load(tmp_path / "a" / "last.pth", weights_only=True)
    del content["detrkit"]
    torch.save(content, tmp_path / "theirs.pth")
    run = trainer(tmp_path / "b")
    run.resume(Checkpoint.load(tmp_path / "theirs.pth"))
    assert (run.state.epoch, run.state.step, run.state.schedule_step) == (2, 10, 10)
    assert run.ema is not None
    assert run.ema.updates == 10


def test_same_seed_same_weights() -> None:
    torch.manual_seed(1)
    a = Net().state_dict()
    torch.manual_seed(1)
    assert equal(a, Net().state_dict())


def flat_cosine(folder: Path, **more):  # type: ignore[no-untyped-def]
    run = trainer(folder, epochs=6, scores=[0.1, 0.5, 0.2, 0.4, 0.3, 0.45], **more)
    t = {
        **tree(6, 3),
        "lr_scheduler_kind": "flatcosine",
        "warmup_iter": 5,
        "flat_epoch": 2,
        "no_aug_epoch": 1,
        "lr_gamma": 0.5,
    }
    run.plan = Plan.from_tree(t, 5)
    return run


def test_a_restart_brings_back_the_rate_of_the_saved_weights_for_one_step(tmp_path: Path) -> None:
    rates: dict[int, float] = {}

    class Note(Observer):
        def step(self, report: StepReport) -> None:
            if report.phase == "train":
                rates[report.step] = report.lr / 0.01

    run = flat_cosine(tmp_path, observers=[Note()])
    run.fit()
    # restarts before epochs 3 and 4, from the end of epoch 1; the rate goes on from there
    for step in range(30):
        position = 10 if step in (15, 20) else step
        assert rates[step] == pytest.approx(run.plan.lr_factor(position)), step
    assert rates[15] > rates[16]


def test_resume_after_a_restart_equals_the_whole(tmp_path: Path) -> None:
    flat_cosine(tmp_path / "whole").fit()
    for stop in (3, 4, 5):
        folder = tmp_path / f"parts{stop}"
        first = flat_cosine(folder)
        with pytest.raises(PowerCut):
            stop_after(first, epochs=stop)
        rest = flat_cosine(folder, first_epoch=stop)
        rest.resume(Checkpoint.load(folder / "last.pth"))
        rest.evaluator.calls = stop
        rest.fit()
        assert equal(state_of(tmp_path / "whole"), state_of(folder))


def test_two_stages_of_the_last_epochs_restart_once(tmp_path: Path) -> None:
    run = flat_cosine(tmp_path)
    policy = {"name": "stop_epoch", "epoch": 4, "ops": []}
    t = tree(6, 3)
    t["train_dataloader"]["dataset"]["transforms"]["policy"] = policy
    run.plan = Plan.from_tree(t, 5)
    assert [stage.first for stage in run.plan.stages] == [0, 3, 4]
    run.evaluator.values = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6]
    starts = []
    run.restart = lambda: starts.append(run.state.epoch)
    run.fit()
    assert starts == [3]
