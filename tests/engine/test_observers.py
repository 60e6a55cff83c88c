"""Logs, progress and TensorBoard."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

from detrkit.engine.observers import (
    BatchPictures,
    CSVLog,
    EpochReport,
    JSONLog,
    Progress,
    StepReport,
    TensorBoard,
)
from detrkit.structures import Batch, ClassMap, ImageSpec, Target


def epoch(number: int, **more: Any) -> EpochReport:
    values: dict[str, Any] = {
        "epoch": number,
        "epochs": 3,
        "stage": "train",
        "losses": {"loss": 1.5, "loss_vfl": 1.5},
        "lr": 1e-4,
        "metrics": {"AP": 0.25, "AP50": 0.5},
        "is_best": True,
        "best_ap": 0.25,
        "best_epoch": number,
        "train_seconds": 60.0,
        "eval_seconds": 1.0,
        "images_per_second": 10.0,
        "memory_gib": None,
        "step": 10 * (number + 1),
        "wait_seconds": 12.0,
    }
    return EpochReport(**{**values, **more})


def step(number: int, **more: Any) -> StepReport:
    return StepReport(
        **{
            "phase": "train",
            "epoch": 0,
            "epochs": 3,
            "batch": number,
            "batches": 10,
            "step": number,
            "losses": {"loss_vfl": torch.tensor(2.0), "loss_vfl_aux_0": torch.tensor(1.0)},
            "lr": 1e-4,
            "grad_norm": torch.tensor(0.5),
            "seconds": 2.0,
            "wait_seconds": 0.5,
            **more,
        }
    )


def test_logs_forget_epochs_that_will_be_done_again(tmp_path: Path) -> None:
    for number in range(3):
        log, table = JSONLog(tmp_path / "l", number), CSVLog(tmp_path / "t", number)
        log.epoch(epoch(number))
        table.epoch(epoch(number))
    with (tmp_path / "l").open("a") as file:
        file.write('{"epoch": 3, "sta')  # the power went
    log, table = JSONLog(tmp_path / "l", 1), CSVLog(tmp_path / "t", 1)
    log.epoch(epoch(1, stage="again"))
    table.epoch(epoch(1, stage="again"))
    rows = [json.loads(line) for line in (tmp_path / "l").read_text().splitlines()]
    assert [(r["epoch"], r["stage"]) for r in rows] == [(0, "train"), (1, "again")]
    assert rows[0]["val/AP"] == 0.25
    assert rows[0]["wait_seconds"] == 12.0
    with (tmp_path / "t").open() as file:
        assert [(r["epoch"], r["stage"]) for r in csv.DictReader(file)] == [
            ("0", "train"),
            ("1", "again"),
        ]


def test_the_table_takes_new_columns(tmp_path: Path) -> None:
    table = CSVLog(tmp_path / "t")
    table.epoch(epoch(0, metrics={}))
    table.epoch(epoch(1))
    with (tmp_path / "t").open() as file:
        assert [r["val/AP"] for r in csv.DictReader(file)] == ["", "0.25"]


def test_plain_lines_where_there_is_no_terminal() -> None:
    text = io.StringIO()
    progress = Progress(Console(file=text, width=100), plain_every=0.0)
    progress.step(step(0))
    progress.epoch(epoch(0))
    progress.epoch(epoch(1, metrics={}, is_best=False, losses={}))
    progress.close()
    lines = text.getvalue().splitlines()
    assert lines[0] == "epoch 1/3  batch 1/10  loss 3.000  waits for data 25%"
    assert lines[2].split() == ["1/3", "1.500", "0.250", "0.500", "1:01", "2:02", "20%", "best"]
    assert lines[3].split() == ["2/3", "nan", "-", "-", "1:01", "1:01", "20%"]
    assert "\x1b" not in text.getvalue()


def test_a_live_bar_in_a_terminal() -> None:
    text = io.StringIO()
    progress = Progress(Console(file=text, width=100, force_terminal=True), every=0.0)
    for number in range(3):
        progress.step(step(number))
    progress.step(step(0, phase="val"))
    progress.epoch(epoch(0))
    progress.step(step(1, epoch=1))
    progress.close()
    assert "loss 3.000" in text.getvalue()
    assert "waits for data 25%" in text.getvalue()
    assert "evaluate" in text.getvalue()


def test_tensorboard_can_be_read_back(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    board = TensorBoard(tmp_path)
    board.step(step(0))
    board.step(step(3))  # not every step
    board.step(step(10))
    board.epoch(epoch(0))
    board.close()
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    assert [e.step for e in events.Scalars("train/loss")] == [0, 10]
    assert events.Scalars("val/AP")[0].value == 0.25
    assert events.Scalars("train/data_wait")[0].value == pytest.approx(0.2)
    assert "train/loss_vfl" in events.Tags()["scalars"]
    assert "train/loss_vfl_aux_0" not in events.Tags()["scalars"]


def test_batch_pictures_of_the_chosen_epochs(tmp_path: Path) -> None:
    target = Target(torch.tensor([[0.5, 0.5, 0.4, 0.4]]), torch.tensor([0]), image_id="猫")
    batch = Batch(torch.rand(2, 3, 32, 48), [target, Target(torch.zeros(0, 4), torch.zeros(0))])
    pictures = BatchPictures(
        tmp_path / "batches", ClassMap(("cat",), (1,)), ImageSpec((32, 48)), frozenset({0, 5}), 1
    )
    for number in (0, 1, 5):
        for batch_number in (0, 1):
            pictures.step(step(batch_number, epoch=number, data=batch))
    names = sorted(p.name for p in (tmp_path / "batches").iterdir())
    assert names == ["epoch_000_batch_0.jpg", "epoch_005_batch_0.jpg"]


def test_a_picture_that_fails_does_not_stop_the_run(tmp_path: Path) -> None:
    (tmp_path / "batches").write_text("in the way")
    batch = Batch(torch.rand(1, 3, 8, 8), [Target(torch.zeros(0, 4), torch.zeros(0))])
    pictures = BatchPictures(tmp_path / "batches", ClassMap((), ()), ImageSpec((8, 8)))
    pictures.step(step(0, data=batch))
    pictures.step(step(1, data=batch))
