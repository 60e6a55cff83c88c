"""`schedule: auto`: the last stage begins with the best weights only after a decline."""

from __future__ import annotations

from pathlib import Path

import pytest

from detrkit.config import load_config
from detrkit.config.schema import RunConfig
from detrkit.engine.checkpoint import Checkpoint
from detrkit.engine.derive import derive_schedule
from detrkit.engine.divergence import Policy
from detrkit.engine.judging import Judge
from detrkit.engine.plan import Plan
from detrkit.engine.state import TrainState
from tests.engine.spoiled import spoiled
from tests.engine.test_trainer import PowerCut, state_of, stop_after
from tests.engine.toy import equal, restarts_of, trainer

#: 72 validation images: 0.0236.
JUDGE = Judge.of(RunConfig(), 72)


@pytest.mark.parametrize(
    ("values", "is_decline"),
    [
        ([0.29, 0.33, 0.37, 0.404, 0.364, 0.400], False),  # BCCD in bf16: the best was a lucky one
        ([0.40, 0.35, 0.36, 0.37], True),
        ([0.40, 0.35, 0.377, 0.36], False),  # one of three came near
        ([0.40, 0.35, 0.36], False),  # the best is among the last three
        ([0.40, 0.376, 0.376, 0.376], True),
        ([0.40, 0.3765, 0.3765, 0.3765], False),
        ([0.1, 0.2, 0.3, 0.4, 0.5], False),
        ([], False),
    ],
)
def test_a_decline_lasts(values: list[float], is_decline: bool) -> None:
    state = TrainState()
    for value in values:
        state.judge(value)
    assert state.has_declined(JUDGE.chance) == is_decline


def test_chance_grows_smaller_with_the_data() -> None:
    assert JUDGE.chance == pytest.approx(0.0236, abs=1e-4)
    assert Judge.of(RunConfig(), 5000).chance == pytest.approx(0.0028, abs=1e-4)
    assert Judge.of(RunConfig()).chance == pytest.approx(0.2)


@pytest.mark.parametrize(
    ("scores", "epochs"), [([0.1, 0.5, 0.2, 0.3, 0.3], [5]), ([0.1, 0.2, 0.3, 0.5, 0.3], [])]
)
def test_the_run_goes_back_once_or_never(
    tmp_path: Path, scores: list[float], epochs: list[int]
) -> None:
    scores = [*scores, 0.2, 0.2, 0.2]  # stage 2 is no better
    run = trainer(tmp_path, epochs=8, stop=5, scores=scores, restarts="decline", judge=JUDGE)
    starts = restarts_of(run)
    assert run.fit().epoch == 8
    assert starts == epochs


def test_a_run_that_was_stopped_decides_as_the_whole(tmp_path: Path) -> None:
    scores = [0.1, 0.5, 0.2, 0.3, 0.3, 0.2, 0.4, 0.3]
    settings = {"epochs": 8, "stop": 5, "scores": scores, "restarts": "decline", "judge": JUDGE}
    trainer(tmp_path / "whole", **settings).fit()  # type: ignore[arg-type]
    for stop in (3, 5, 6):
        folder = tmp_path / f"parts{stop}"
        with pytest.raises(PowerCut):
            stop_after(trainer(folder, **settings), epochs=stop)  # type: ignore[arg-type]
        rest = trainer(folder, **settings, first_epoch=stop)  # type: ignore[arg-type]
        rest.resume(Checkpoint.load(folder / "last.pth"))
        rest.evaluator.calls = stop  # type: ignore[union-attr]
        rest.fit()
        assert equal(state_of(tmp_path / "whole"), state_of(folder))


@pytest.mark.parametrize(("value", "epoch"), [(0.2, 2), (0.49, 5)])
def test_what_a_diverged_last_stage_goes_back_to(tmp_path: Path, value: float, epoch: int) -> None:
    """To the best epoch (position 2) where it began with that, else to the epoch before it."""
    run = spoiled(
        tmp_path, (5, 2), (5, 3), epochs=8, stop=5, scores=[0.1, 0.5, value, value, value, 0.3],
        restarts="decline", judge=JUDGE, policy=Policy(max_skips=2),
    )  # fmt: skip
    restored = []
    restore = run._restore
    run._restore = lambda kept: (restored.append(kept.position["epoch"]), restore(kept))  # type: ignore
    run.fit()
    assert restored[-1] == epoch


def test_who_gets_the_rule() -> None:
    def rule(name: str, *update: str) -> object:
        cfg = load_config(name, update=update)
        return derive_schedule(cfg, 27).run.restart_from_best

    auto = ("epochs=24", "schedule=auto")
    assert rule("deimv2_atto_custom", *auto) == "decline"
    assert rule("dfine_n_custom", *auto) == "decline"
    assert rule("deimv2_atto_custom") is True  # the authors' own
    assert rule("deimv2_atto_custom", *auto, "restart_from_best=true") is True
    assert rule("deimv2_atto_custom", *auto, "restart_from_best=false") is False
    assert rule("rtdetrv2_r18vd_120e_coco", *auto) is False


def test_the_plan_says_it() -> None:
    cfg = derive_schedule(
        load_config("deimv2_atto_custom", update=["epochs=24", "schedule=auto"]), 27
    )
    plan = Plan.from_tree(cfg.tree, 27)
    assert plan.restarts_after_decline
    assert "epoch 21 goes back to the best weights so far only after a decline" in plan.describe()
    authors = Plan.from_tree(load_config("deimv2_atto_custom").tree, 27)
    assert not authors.restarts_after_decline
    assert "decline" not in authors.describe()
