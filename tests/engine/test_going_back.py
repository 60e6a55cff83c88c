"""A run whose steps are not finite for too long: it goes back and on, also when it is stopped."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from detrkit.engine.amp import Precision
from detrkit.engine.checkpoint import Checkpoint
from detrkit.engine.divergence import Policy
from detrkit.engine.trainer import Trainer
from detrkit.errors import Interrupted, TrainingDiverged
from tests.engine.spoiled import Contents, Sharp, content, spoiled
from tests.engine.test_trainer import Act, log_of, state_of
from tests.engine.toy import equal, trainer

NAN, INF = float("nan"), float("inf")


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
