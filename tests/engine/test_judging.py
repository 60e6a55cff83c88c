"""Which epoch is the best, and when patience runs out."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from detrkit.config.schema import RunConfig
from detrkit.engine.checkpoint import Checkpoint
from detrkit.engine.judging import Judge
from detrkit.engine.plan import Plan
from detrkit.engine.state import TrainState
from detrkit.errors import UsageError
from tests.engine.test_trainer import PowerCut, log_of, state_of, stop_after
from tests.engine.toy import Scores, equal, trainer, tree


def plan(epochs: int, stop: int) -> Plan:
    """With a last stage from epoch `stop` on."""
    return Plan.from_tree(tree(epochs, stop), 5)


@pytest.mark.parametrize(
    ("epoch", "best", "goes_on_at"),
    [
        (4, 2, 5),  # two epochs without a better one: not yet
        (4, 1, 10),  # three: on to the last stage
        (9, 6, 10),  # which comes anyway
        (10, 3, 11),  # there it counts anew
        (12, 3, 14),  # three of the last stage without a better one: the end
        (12, 10, 13),
        (13, 3, 14),
    ],
)
def test_patience(epoch: int, best: int, goes_on_at: int) -> None:
    assert Judge(patience=3).next_epoch(epoch, best, plan(14, 10)) == goes_on_at
    assert Judge().next_epoch(epoch, best, plan(14, 10)) == epoch + 1


def test_without_a_last_stage_patience_ends_the_run() -> None:
    assert Judge(patience=2).next_epoch(3, 1, plan(9, 9)) == 9
    assert Judge(patience=2).next_epoch(3, 2, plan(9, 9)) == 4


def test_names_of_numbers() -> None:
    for name in ("AP", "AP50", "APs", "AR100"):
        assert Judge.of(RunConfig(best_metric=name)).metric == name
    with pytest.raises(UsageError, match="AP_50: no such number, did you mean `AP50`"):
        Judge.of(RunConfig(best_metric="AP_50"))
    with pytest.raises(UsageError, match="at least 1, got 0"):
        Judge.of(RunConfig(patience=0))
    Judge().require_validation(False)
    with pytest.raises(UsageError, match="--patience needs validation data"):
        Judge(patience=2).require_validation(False)


def test_an_undefined_number_gives_way_to_ap_once(caplog: pytest.LogCaptureFixture) -> None:
    judge = Judge("APs")
    assert judge.value({"AP": 0.4, "APs": 0.1}) == 0.1
    assert judge.value({"AP": 0.4, "APs": -1.0}) == 0.4
    assert judge.metric == "AP"
    assert judge.value({"AP": 0.5, "APs": -1.0}) == 0.5
    assert [r.message for r in caplog.records] == [
        "APs (AP of small boxes, area < 32²) is undefined on the validation data: "
        "AP decides which epoch is the best"
    ]
    assert judge.value({"AP": -1.0, "APs": -1.0}) is None
    assert judge.value({}) is None


def test_the_best_epoch_is_that_of_the_chosen_number(tmp_path: Path) -> None:
    run = trainer(tmp_path, scores=[0.1, 0.4, 0.2, 0.3], stop=9)
    run.judge = Judge("AR1")
    measure = run.evaluator.run  # type: ignore[union-attr]

    def with_recall(model, progress=None):  # type: ignore[no-untyped-def]
        metrics = measure(model, progress)
        metrics.values["AR1"] = 1 - metrics.values["AP"]
        return metrics

    run.evaluator.run = with_recall  # type: ignore[union-attr]
    state = run.fit()
    assert state.best_epoch == 0
    assert state.best_value == pytest.approx(0.9)
    assert Checkpoint.load(tmp_path / "best.pth").metrics["AP"] == 0.1


SCORES = [0.1, 0.5, 0.2, 0.3, 0.4, 0.45]


def test_a_run_ends_when_nothing_gets_better(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", logger="detrkit")
    run = trainer(tmp_path, epochs=9, stop=9, scores=SCORES, judge=Judge(patience=2))
    state = run.fit()
    assert (state.epoch, state.best_epoch, state.skipped) == (4, 1, 0)
    assert state.ended_early == "no better AP since epoch 2"
    assert "ended early: no better AP since epoch 2" in caplog.messages
    kept = TrainState.from_checkpoint(Checkpoint.load(tmp_path / "last.pth"), 5)
    assert kept.ended_early == state.ended_early
    again = trainer(tmp_path, epochs=9, stop=9, first_epoch=4)
    again.resume(Checkpoint.load(tmp_path / "last.pth"))
    assert again.fit().epoch == 4
    assert again.loader.made == []  # type: ignore[attr-defined]


def test_impatience_in_the_first_stage_begins_the_last_one(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", logger="detrkit")
    scores = [0.3, 0.2, 0.1, 0.6, 0.2, 0.1]
    run = trainer(tmp_path, epochs=9, stop=6, scores=scores, judge=Judge(patience=2))
    entered = []
    enter = run.enter

    def watch(stage):  # type: ignore[no-untyped-def]
        entered.append((run.state.epoch, run.state.schedule_step))
        enter(stage)

    run.enter = watch  # type: ignore[method-assign]
    state = run.fit()
    epochs = [row["epoch"] for row in log_of(tmp_path)]
    assert epochs == [0, 1, 2, 6, 7, 8]
    assert entered == [(6, 30)]  # the schedule stands where the plan has the last stage
    assert (state.best_epoch, state.skipped, state.epoch) == (6, 3, 9)
    assert state.step == 6 * 5
    assert state.ended_early is None  # the plan's last epoch was trained
    assert (
        "no better AP since epoch 1: the last stage, planned for epoch 7, begins now"
        in caplog.messages
    )


@pytest.mark.parametrize("epochs_before", [1, 3, 5])
def test_resuming_anywhere_decides_alike(tmp_path: Path, epochs_before: int) -> None:
    scores = [0.3, 0.2, 0.1, 0.25, 0.2, 0.1]
    settings = {"epochs": 9, "stop": 5, "scores": scores}
    whole = trainer(tmp_path / "whole", **settings, judge=Judge(patience=2)).fit()
    assert whole.ended_early == "no better AP since epoch 1"
    assert (whole.epoch, whole.skipped) == (7, 2)
    first = trainer(tmp_path / "parts", **settings, judge=Judge(patience=2))
    after = {1: 1, 3: 5, 5: 7}[epochs_before]  # where the plan stands after so many epochs
    with pytest.raises(PowerCut):
        stop_after(first, epochs=after)
    rest = trainer(tmp_path / "parts", **settings, first_epoch=after, judge=Judge(patience=2))
    rest.resume(Checkpoint.load(tmp_path / "parts" / "last.pth"))
    assert isinstance(rest.evaluator, Scores)
    rest.evaluator.calls = epochs_before
    rest.fit()
    assert equal(state_of(tmp_path / "whole"), state_of(tmp_path / "parts"))
    assert log_of(tmp_path / "whole") == log_of(tmp_path / "parts")


def test_nothing_to_find_never_loses_patience(tmp_path: Path) -> None:
    run = trainer(tmp_path, epochs=5, stop=9, scores=[-1.0], judge=Judge(patience=1))
    state = run.fit()
    assert (state.epoch, state.ended_early) == (5, None)


def test_checkpoints_of_earlier_versions_keep_their_best(tmp_path: Path) -> None:
    trainer(tmp_path, epochs=2).fit()
    kept = Checkpoint.load(tmp_path / "last.pth")
    kept.position["best_ap"] = kept.position.pop("best_value")
    kept.position["try_ap"] = kept.position.pop("try_value")
    state = TrainState.from_checkpoint(kept, 5)
    assert (state.best_value, state.try_value) == (0.2, 0.2)
    assert json.loads((tmp_path / "log.jsonl").read_text().splitlines()[1])["best"] is True
