"""Logs, progress and pictures."""

from __future__ import annotations

import csv
import io
import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from detrkit.engine import log_names as names
from detrkit.engine.observers import (
    BatchPictures,
    CSVLog,
    EpochReport,
    JSONLog,
    Observer,
    OriginLines,
    Progress,
    StepReport,
    until_the_end,
)
from detrkit.engine.run_log import read_log
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
        "best_value": 0.25,
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
    assert rows[0]["resources/wait_seconds"] == 12.0
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


def test_lines_every_so_many_steps_where_there_is_no_terminal() -> None:
    text = io.StringIO()
    progress = Progress(Console(file=text, width=100), print_freq=4)
    for number in range(10):
        progress.step(step(number))
    assert [line.split()[3] for line in text.getvalue().splitlines()] == ["4/10", "8/10"]
    silent = Progress(Console(file=text, width=100), plain_every=0.0, print_freq=0)
    silent.step(step(0))
    assert len(text.getvalue().splitlines()) == 2


def test_a_dumb_terminal_gets_plain_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "dumb")
    text = io.StringIO()
    progress = Progress(Console(file=text, width=100, force_terminal=True, color_system=None))
    progress.step(step(0))
    progress.epoch(epoch(0))
    assert "\x1b" not in text.getvalue()
    assert "\r" not in text.getvalue()


def origin_lines(print_freq: int, **more: Any) -> list[str]:
    text = io.StringIO()
    lines = OriginLines(Console(file=text, width=40), print_freq)
    for number in range(10):
        losses = {"loss_vfl": torch.tensor(float(number)), "loss_vfl_aux_0": torch.tensor(1.0)}
        lines.step(step(number, losses=losses, **more))
    for number in range(3):
        lines.step(step(number, phase="val", batches=3, losses={}))
    lines.epoch(epoch(0))
    lines.close()
    return text.getvalue().splitlines()


def test_origin_prints_as_the_authors_do() -> None:
    lines = origin_lines(5)
    train = [line for line in lines if line.startswith("Epoch: [0/3]  [")]
    assert [line.split("  ")[1] for line in train] == ["[ 0/10]", "[ 5/10]", "[ 9/10]"]
    # median of the last 20, here the lower middle of 0…9, and the mean
    assert "loss_vfl: 4.0000 (4.5000)" in train[-1]
    assert "loss: 5.0000 (5.5000)" in train[-1]
    assert "aux" not in train[-1]
    assert "lr: 0.000100" in train[-1]
    assert "eta: 0:00:00" in train[-1]
    assert train[-1].endswith("data: 0.5000")  # the mean wait of a step
    assert [line for line in lines if line.startswith("Test:  [")][-1].startswith("Test:  [2/3]")
    assert lines[-4:] == [
        "Epoch: [0/3] Total time: 0:01:00",
        "Averaged stats:  lr: 0.000100  loss: 1.5000  loss_vfl: 1.5000",
        "Test:  AP: 0.2500  AP50: 0.5000",
        "best_stat: {'epoch': 0, 'AP': 0.2500}",
    ]


def test_origin_without_lines_within_an_epoch() -> None:
    assert len(origin_lines(0)) == 4


def test_a_full_disk_costs_lines_only_as_long_as_it_is_full(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    log, table = JSONLog(tmp_path / "l"), CSVLog(tmp_path / "t")
    log.epoch(epoch(0))
    table.epoch(epoch(0))
    with monkeypatch.context() as context:
        context.setattr(os, "fsync", no_space)
        for number in (1, 2):
            log.epoch(epoch(number))
            table.epoch(epoch(number))
    assert len((tmp_path / "l").read_text().splitlines()) == 1
    assert caplog.text.count("no space left") == 2  # once for each file
    log.epoch(epoch(3))
    table.epoch(epoch(3))
    assert [row["epoch"] for row in read_log(tmp_path / "l")] == [0, 1, 2, 3]
    assert len((tmp_path / "t").read_text().splitlines()) == 5


def no_space(*_: object) -> None:
    raise OSError(28, "No space left on device")


def test_names_group_losses_by_where_they_come_from() -> None:
    terms = {
        "loss_vfl": "train/loss_vfl",
        "loss_vfl_aux_0": "train_aux/loss_vfl_0",
        "loss_giou_dn_2": "train_dn/loss_giou_2",
        "loss_giou_dn_pre": "train_dn/loss_giou_pre",
        "loss_bbox_enc_0": "train_enc/loss_bbox_0",
        "loss_bbox_pre": "train_pre/loss_bbox",
    }
    assert {term: names.loss_name(term) for term in terms} == terms
    row = epoch(0, losses=dict.fromkeys(terms, 1.0), lrs={"backbone": 1e-5}, ema_decay=0.9)
    assert set(terms.values()) <= set(row.to_dict())
    assert row.to_dict()["lr/backbone"] == 1e-5
    assert row.to_dict()["train/ema_decay"] == 0.9


@given(st.sampled_from(["loss_vfl", "loss_local"]), st.integers(0, 9))
def test_names_of_different_terms_differ(term: str, layer: int) -> None:
    terms = [term, f"{term}_pre", f"{term}_dn_pre"]
    terms += [f"{term}_{part}_{layer}" for part in ("aux", "dn", "enc")]
    assert len({names.loss_name(t) for t in terms}) == len(terms)


def test_the_end_reaches_every_observer() -> None:
    seen: list[object] = []

    class Last(Observer):
        def end(self, error: BaseException | None) -> None:
            seen.append(error)

    with until_the_end([Last(), Last()]):
        assert not seen
    wrong = ValueError("x")
    with pytest.raises(ValueError, match="x"), until_the_end([Last()]):
        raise wrong
    assert seen == [None, None, wrong]


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
