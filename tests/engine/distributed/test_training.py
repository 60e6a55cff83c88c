"""A real D-FINE trained in several processes: the same weights and numbers as in one."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from detrkit.engine import training
from detrkit.engine.checkpoint import Checkpoint
from detrkit.engine.derive import TrainFlags, load_with_flags
from detrkit.engine.distributed.group import rank
from detrkit.engine.trainer import Trainer
from detrkit.errors import ConfigError, Interrupted, OtherProcessFailed, TrainingDiverged
from detrkit.layers.norm import freeze_batch_norm
from tests.conftest import REPOSITORY
from tests.engine.distributed.processes import in_processes
from tests.engine.tiny_data import write_coco, write_config

TRAIN, BATCH = 26, 8

#: Nothing that differs between processes by design: no denoising noise, and an optimizer that
#: does not blow up the last digits of a gradient as Adam does in its first steps.
PLAIN = (
    "optimizer={type: SGD, lr: 0.01, momentum: 0.9, params: []}",
    "DFINETransformer.num_denoising=0",
    "lr_warmup_scheduler=null",
    "clip_max_norm=0.1",
    "epochs=1",
    "schedule=null",
    "sync_bn=true",
)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ddp")
    write_coco(folder / "data", train=TRAIN, val=5)
    write_config(folder, REPOSITORY)
    return folder


def train(
    place: Path,
    name: str,
    disturb: tuple[int, int, str] | None = None,
    frozen: bool = False,
    accumulate: int | None = None,
    batch: int = BATCH,
    more: tuple[str, ...] = (),
) -> dict[str, float]:
    """Trains in `place/name` and returns the metrics.

    Args:
        place: holds data and configuration.
        name: of the run.
        disturb: (rank, step, what): "stop" sends the process a signal, "nan" spoils its images.
        frozen: batch norms do not learn.
        accumulate, batch: of `TrainFlags`.
        more: settings.
    """
    flags = TrainFlags(data=str(place / "data"), batch=batch, accumulate=accumulate, device="cpu")
    cfg = load_with_flags(place / "tiny.yml", flags, update=(*PLAIN, *more))
    if disturb is not None:
        _disturb(*disturb)
    with _double(frozen):
        return dict(training.train(cfg, output=place / name).metrics)


def go_on(place: Path, name: str) -> None:
    """Resumes `place/name`."""
    with _double():
        training.resume(place / name)


@contextmanager
def _double(frozen: bool = False) -> Iterator[None]:
    """Models in float64: in float32 the order of sums alone changes these gradients by 1 %."""

    def start_in_double(*args: Any, **kwargs: Any) -> Any:
        model, report = start_model(*args, **kwargs)
        if frozen:
            freeze_batch_norm(model)
        model.double().register_forward_pre_hook(_to_double)
        return model, report

    start_model = training.start_model
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "start_model", start_in_double)
        yield


def _to_double(_: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    return (inputs[0].double(), *inputs[1:])


def _disturb(where: int, when: int, what: str) -> None:
    """For the rest of this process."""
    step = Trainer.train_step

    def disturbed(self: Trainer, batch: Any) -> Any:
        if rank() == where and self.state.step == when:
            if what == "stop":
                os.kill(os.getpid(), signal.SIGTERM)
            else:
                batch.images[:] = float("nan")
        return step(self, batch)

    Trainer.train_step = disturbed  # type: ignore[method-assign]


def weights(folder: Path) -> dict[str, Tensor]:
    """Weights, averaged weights and momenta at the end."""
    last = Checkpoint.load(folder / "last.pth")
    assert last.model is not None
    assert last.optimizer is not None
    assert last.ema is not None
    state = last.optimizer["state"]
    return {
        **{f"model {name}": value for name, value in last.model.items()},
        **{f"ema {name}": value for name, value in last.ema["module"].items()},
        **{f"momentum {i}": entry["momentum_buffer"] for i, entry in state.items()},
    }


def losses(folder: Path) -> list[dict[str, float]]:
    rows = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [{k: v for k, v in row.items() if k.startswith(("train/", "val/"))} for row in rows]


def assert_same_run(place: Path, name: str, other: str) -> None:
    """Two runs moved the weights alike, and say the same of it."""
    start, ours, theirs = (weights(place / run) for run in ("start", name, other))
    assert ours.keys() == theirs.keys()
    zero = torch.tensor(0.0)
    for kind in ("model", "ema", "momentum"):
        names = [n for n in ours if n.startswith(kind) and ours[n].is_floating_point()]
        moved = _distance([(ours[n], start.get(n, zero)) for n in names])
        apart = _distance([(ours[n], theirs[n]) for n in names])
        assert moved > 1e-3, kind
        assert apart < 1e-4 * moved, f"{kind}: {apart} of {moved}"
    for row, twin in zip(losses(place / name), losses(place / other), strict=True):
        assert row == pytest.approx(twin, rel=1e-4, abs=1e-5)
    position = [Checkpoint.load(place / run / "last.pth").position for run in (name, other)]
    for key in ("epoch", "batch", "step", "schedule_step", "best_epoch"):
        assert position[0][key] == position[1][key], key


def _distance(pairs: list[tuple[Tensor, Tensor]]) -> float:
    return sum(float((a - b).square().sum()) for a, b in pairs) ** 0.5


@pytest.fixture(scope="module")
def whole(place: Path) -> str:
    """The run of a single process, which everything is compared with; and where it began."""
    flags = TrainFlags(data=str(place / "data"), batch=BATCH, device="cpu")
    session = training.open_session(load_with_flags(place / "tiny.yml", flags, update=PLAIN))
    model, _ = training.start_model(session)
    state = model.state_dict()
    (place / "start").mkdir()
    Checkpoint(model=state, ema={"module": state}, optimizer={"state": {}}).save(
        place / "start" / "last.pth"
    )
    train(place, "whole")
    return "whole"


def test_two_processes_train_the_weights_of_one(place: Path, whole: str) -> None:
    first, second = in_processes(2, train, place, "two")
    assert first == second  # metrics of the main process
    assert_same_run(place, "two", whole)


@pytest.mark.slow
def test_four_processes_train_the_weights_of_one(place: Path, whole: str) -> None:
    in_processes(4, train, place, "four")
    assert_same_run(place, "four", whole)


def test_processes_that_split_their_share_train_the_same(place: Path, whole: str) -> None:
    """Two processes with two parts each, against one with the whole batch."""
    train(place, "frozen", frozen=True)
    in_processes(2, train, place, "split", None, True, 2)
    assert_same_run(place, "split", "frozen")


@pytest.mark.parametrize("where", [pytest.param(0, marks=pytest.mark.slow), 1])
def test_a_signal_to_one_process_stops_all_and_another_number_goes_on(
    place: Path, whole: str, where: int
) -> None:
    name = f"stopped-{where}"
    first, second = in_processes(2, train, place, name, (where, 0, "stop"))
    assert isinstance(first, Interrupted), first
    assert "the state is saved" in first.message
    assert isinstance(second, OtherProcessFailed), second
    assert second.exit_code == 130
    # the others learn of it one step later, and all stop there
    assert Checkpoint.load(place / name / "last.pth").position["step"] == 2
    go_on(place, name)  # in a single process
    assert_same_run(place, name, whole)


def test_a_loss_that_is_not_finite_in_one_process_ends_all(place: Path) -> None:
    more = ("on_non_finite=stop",)
    disturb = (1, 1, "nan")
    first, second = in_processes(2, train, place, "diverged", disturb, False, None, BATCH, more)
    assert isinstance(first, TrainingDiverged), first
    assert "the loss is not finite at step 1" in first.message
    assert isinstance(second, OtherProcessFailed), second
    assert second.exit_code == TrainingDiverged.exit_code
    folder = place / "diverged" / "diverged" / "step_1"
    report = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    innocent, guilty = report["processes"]
    assert innocent["pixels"] == []
    assert innocent["forward"]["kind"] == "SynchronizedBatchNorm2d"  # where it came from the other
    assert innocent["forward"]["largest_input"] < 10
    assert len(guilty["pixels"]) == BATCH // 2
    assert guilty["forward"]["module"] == "backbone.stem.stem1.conv"
    assert guilty["forward"]["largest_input"] is None
    for process, name in ((innocent, "batch-process0.png"), (guilty, "batch-process1.png")):
        assert process["pictures"] == [name]
        assert (folder / name).is_file()


def test_a_batch_that_processes_cannot_share(place: Path) -> None:
    results = in_processes(2, train, place, "odd", None, False, None, 7)
    assert {type(result) for result in results} == {ConfigError, OtherProcessFailed}
    assert any("use --batch 6 or 8" in result.hint for result in results if result.hint)
