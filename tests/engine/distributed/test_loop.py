"""The loop and the evaluation in several processes, on networks that take no time."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch

from detrkit.data.dataset import DetectionDataset
from detrkit.data.index import DatasetIndex
from detrkit.data.loader import build_loader
from detrkit.data.transforms import Compose
from detrkit.engine.checkpoint import Checkpoint
from detrkit.engine.distributed.group import is_main, rank, world_size
from detrkit.engine.distributed.replicas import replicated, unwrapped
from detrkit.engine.divergence import Policy
from detrkit.engine.evaluator import Evaluator
from detrkit.engine.interrupt import Stop
from detrkit.engine.safeguard import Safeguard
from detrkit.engine.trainer import Trainer
from detrkit.errors import DetrkitError, OtherProcessFailed
from detrkit.models.postprocess import PostProcessor
from detrkit.structures import Batch
from tests.engine import toy
from tests.engine.bright import CLASSES, SPEC, BrightBox
from tests.engine.distributed.processes import in_processes
from tests.engine.test_evaluator import write_coco
from tests.engine.test_halving import Narrow
from tests.engine.toy import equal

# The loop --------------------------------------------------------------------------------------


def toy_trainer(folder: Path, first_epoch: int = 0) -> Trainer:
    """Every process sees all images, and drops out others."""
    scores = [0.1, 0.5, 0.2, 0.4, 0.3, 0.45]
    run = toy.trainer(folder, epochs=6, scores=scores, first_epoch=first_epoch, rank=rank())
    run.model = replicated(
        run.model, toy.Loss(), device=run.device, size=(8, 8), autocast=nullcontext
    )
    run.keeper.writes = is_main()
    run.observers = run.observers if is_main() else []
    return run


def outcome(run: Trainer) -> dict[str, Any]:
    state = run.state
    return {
        "model": unwrapped(run.model).state_dict(),
        "optimizer": run.optimizer.state_dict(),
        "position": (state.epoch, state.step, state.schedule_step, state.best_value),
    }


def fit(folder: Path, seconds: float = 1800.0) -> dict[str, Any]:
    """Trains through a stage that goes back to the best weights; what the process ends with."""
    run = toy_trainer(folder)
    run.keeper.seconds = seconds
    run.fit()
    return outcome(run)


def stop_and_go_on(folder: Path) -> dict[str, Any]:
    """Stopped in the fourth epoch; then all of them go on."""
    run = toy_trainer(folder)
    step = run.train_step

    def watched(batch: Any) -> Any:
        if rank() == 1 and run.state.step == 16:
            run.guard.requested = True
        return step(batch)

    run.train_step = watched  # type: ignore[method-assign]
    with pytest.raises(Exception, match="interrupted in epoch 4, batch 3/5"):
        run.fit()
    kept = Checkpoint.load(folder / "last.pth")
    rest = toy_trainer(folder, kept.position["epoch"])
    rest.resume(kept)
    assert rest.evaluator is not None
    rest.evaluator.calls = kept.position["epoch"]  # type: ignore[attr-defined]
    rest.fit()
    return outcome(rest)


@pytest.mark.parametrize("count", [2, 4])
def test_processes_stay_equal_through_all_stages(tmp_path: Path, count: int) -> None:
    whole = in_processes(count, fit, tmp_path / "whole")
    often = in_processes(count, fit, tmp_path / "often", 0.0)
    parts = in_processes(count, stop_and_go_on, tmp_path / "parts")
    for results in (whole, often, parts):
        for result in results:
            assert isinstance(result, dict), result
            for key in ("optimizer", "position"):
                assert equal(result[key], whole[0][key])
            for name, value in result["model"].items():
                # statistics of batch norm are each process's own; those of the main one count
                if "running" not in name or result is results[0]:
                    assert torch.equal(value, whole[0]["model"][name]), name
    saved = [Checkpoint.load(tmp_path / run / "last.pth") for run in ("whole", "often", "parts")]
    for checkpoint in saved[1:]:
        assert equal(checkpoint.model, saved[0].model)
        assert equal(checkpoint.ema, saved[0].ema)
    logs = [toy_log(tmp_path / run) for run in ("whole", "often", "parts")]
    for log in logs[1:]:
        for row, twin in zip(log, logs[0], strict=True):
            assert row == pytest.approx(twin, rel=1e-5)


class Spoiled(toy.Loader):
    """Batches (epoch, number) of which one process gets pixels that are not finite."""

    def __init__(self, where: int, bad: set[tuple[int, int]]) -> None:
        super().__init__()
        self.bad = bad if rank() == where else set()

    def __iter__(self) -> Iterator[Batch]:
        for batch in super().__iter__():
            if self.made[-1] in self.bad:
                batch.images[0] = float("nan")
            yield batch


def fit_spoiled(folder: Path, bad: set[tuple[int, int]], on_device: bool) -> dict[str, Any]:
    """The second process gets bad batches; what all end with."""
    run = toy_trainer(folder)
    run.loader = Spoiled(1, bad)
    run.watch.policy = Policy(max_skips=2)
    if on_device:
        run.safeguard = Safeguard(run.optimizer, on_device=True)
        run.watch.lag = 1
    run.fit()
    state = run.state
    return {**outcome(run), "skips": (state.roll_backs, state.lr_scale, state.skips_in_a_row)}


@pytest.mark.parametrize("on_device", [False, True])
def test_processes_drop_the_same_steps_and_go_back_together(
    tmp_path: Path, on_device: bool
) -> None:
    bad = {(0, 2), (1, 4), (2, 1), (2, 2), (5, 4)}
    results = in_processes(2, fit_spoiled, tmp_path, bad, on_device)
    for result in results:
        assert isinstance(result, dict), result
        assert result["skips"] == (1, 0.5, 1)
        for key in ("optimizer", "position"):
            assert equal(result[key], results[0][key])
        for name, value in result["model"].items():
            assert value.isfinite().all(), name
            assert "running" in name or torch.equal(value, results[0]["model"][name]), name
    saved = Checkpoint.load(tmp_path / "last.pth")
    assert all(value.isfinite().all() for value in saved.weights.values())
    rows = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [row["train/skipped_steps"] for row in rows] == [1, 1, 2, 0, 0, 1]
    assert all(math.isfinite(row["train/loss"]) for row in rows)
    report = json.loads((tmp_path / "diverged" / "step_12" / "report.json").read_text())
    assert [process["pixels"] for process in report["processes"]] == [[], ["2-0"]]


def short_of_memory(folder: Path) -> None:
    """The second process cannot hold two images."""
    run = toy_trainer(folder)
    if rank() == 1:
        Narrow(run, torch.OutOfMemoryError("CUDA out of memory."), most=1, first=3)
    run.fit()


def test_a_process_that_is_short_of_memory_says_what_to_do(tmp_path: Path) -> None:
    first, second = in_processes(2, short_of_memory, tmp_path)
    assert isinstance(first, OtherProcessFailed), first
    assert isinstance(second, DetrkitError), second
    assert "process 1 is out of memory with 2 images of 8x8" in second.message
    assert "--accumulate 2" in (second.hint or "")


def toy_log(folder: Path) -> list[dict[str, float]]:
    rows = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [{k: v for k, v in row.items() if k.startswith("train/")} for row in rows]


# The evaluation --------------------------------------------------------------------------------


def evaluate(index: DatasetIndex, batch: int, stop: bool = False) -> Any:
    """Numbers of all images, or what a wish to stop in the second process gives."""
    transforms = Compose(
        [{"type": "Resize", "size": list(SPEC.size)}, {"type": "ConvertPILImage", "scale": True}]
    )
    loader = build_loader(
        DetectionDataset(index, transforms, training=False),
        batch_size=batch,
        shuffle=False,
        rank=rank(),
        world_size=world_size(),
    )
    evaluator = Evaluator(loader, index, SPEC, PostProcessor(num_classes=3), class_map=CLASSES)

    def progress(done: int, total: int) -> None:
        if stop and rank() == 1:
            raise Stop

    try:
        return evaluator.run(BrightBox(), progress).to_dict()
    except Stop:
        return "stopped"


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("count", [2, 4])
def test_the_numbers_do_not_depend_on_the_processes(tmp_path: Path, count: int, batch: int) -> None:
    """Bit for bit, also with uneven shares and with processes that have no image."""
    index = write_coco(tmp_path, [7, 3, 12, 5])
    whole = evaluate(index, batch)
    assert 0.5 < whole["metrics"]["AP"] < 1
    assert in_processes(count, evaluate, index, batch) == [whole] * count


def test_a_wish_to_stop_ends_the_evaluation_of_all(tmp_path: Path) -> None:
    index = write_coco(tmp_path, [7, 3, 12, 5])
    assert in_processes(2, evaluate, index, 1, True) == ["stopped"] * 2
