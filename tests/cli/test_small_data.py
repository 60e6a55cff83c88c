"""Few and uneven images on the command line: patience, frozen parts, rates by layer, sampling."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch

from detrkit.cli.app import main
from detrkit.engine.checkpoint import Checkpoint
from detrkit.engine.run_log import read_log
from tests.cli.conftest import Run
from tests.conftest import REPOSITORY
from tests.engine.tiny_data import write_coco, write_config

TRAIN = ("train", "tiny.yml", "--data", "data")
#: Nothing moves: every epoch is as good as the first.
STILL = ("--lr", "1e-30", "--freeze-bn")


def weights_of(folder: str) -> dict[str, torch.Tensor]:
    return Checkpoint.load(Path(folder) / "best.pth").weights


def epochs_of(folder: str) -> list[int]:
    return [row["epoch"] for row in read_log(Path(folder, "log.jsonl"))]


def test_patience_ends_a_run_and_everyone_says_so(place: Path, run: Run) -> None:
    command = (*TRAIN, "--epochs", "9", *STILL, "--patience", "2", "-o", "patient")
    code, out, err = run(*command, "--best-metric", "AP50", "--freeze", "backbone")
    assert code == 0
    assert "backbone: frozen with random weights" in err
    assert "frozen: backbone, all batch norms (" in err
    # epochs 1 to 3 of the first stage, then two of the last one, planned from epoch 9 on
    assert "no better AP50 since epoch 1: the last stage, planned for epoch 9, begins" in err
    epochs = epochs_of("patient")
    assert epochs == [0, 1, 2, 8]
    assert re.search(r"best epoch 1 of 9 by AP50: AP50 \d\.\d{3}  AP ", out)
    assert "for 4 epochs" in out


@pytest.mark.usefixtures("forked")
def test_a_run_that_ended_early_is_finished(place: Path, capfd: pytest.CaptureFixture[str]) -> None:
    command = [*TRAIN, "--epochs", "9", *STILL, "--patience", "1", "--json", "-o", "early"]
    command += ["-u", "train_dataloader.collate_fn.stop_epoch=null"]  # no last stage
    command += ["-u", "train_dataloader.dataset.transforms.policy=null"]
    assert main(command) == 0
    out, err = capfd.readouterr()
    result = json.loads(out)
    assert result["ended_early"] == "no better AP since epoch 1"
    assert (result["epochs"], result["trained_epochs"], result["best_epoch"]) == (9, 2, 1)
    assert "ended early: no better AP since epoch 1" in err
    assert main(["resume", "early"]) == 2
    _, err = capfd.readouterr()
    assert "early is finished: it ended early, no better AP since epoch 1" in err
    before = Path("early/last.pth").stat().st_mtime_ns
    assert main([*command, "--auto-resume"]) == 0
    out, err = capfd.readouterr()
    assert json.loads(out) == {**result, "links": {}}
    assert "early is finished: ended early, no better AP since epoch 1" in err
    assert Path("early/last.pth").stat().st_mtime_ns == before


@pytest.mark.parametrize(
    ("flags", "code", "message"),
    [
        (("--best-metric", "AP_50"), 2, "no such number, did you mean `AP50`?"),
        (("-u", "best_metric=mAP"), 2, "--best-metric mAP: no such number"),
        (("--patience", "0"), 2, "--patience must be at least 1"),
        (("--freeze", "backbon"), 3, "freeze: backbon  no part of the model has this name, did"),
        (("--freeze", "*"), 3, "nothing is left to train"),
        (("-u", "layer_decay=2.0"), 3, "layer_decay: must be above 0"),
        (("-u", "sampling_threshold=7.0", "sampling=repeat_factor"), 3, "sampling_threshold: must"),
    ],
)
def test_mistakes_leave_no_folder(
    place: Path, run: Run, flags: tuple[str, ...], code: int, message: str
) -> None:
    result = run(*TRAIN, "--epochs", "2", *flags, "-o", "mistake")
    assert result.code == code
    assert message in result.err.replace("\n", " ")
    assert not Path("mistake").exists()


def test_patience_needs_validation_data(
    tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_coco(tmp_path / "data", train=1, val=0)
    (tmp_path / "data" / "annotations" / "instances_val.json").unlink()
    write_config(tmp_path, REPOSITORY)
    result = run(*TRAIN, "--epochs", "2", "--patience", "3", "-o", "run")
    assert result.code == 2
    assert "--patience needs validation data" in result.err
    assert not Path("run").exists()


def test_a_frozen_backbone_keeps_the_weights_it_came_with(place: Path, run: Run) -> None:
    assert run(*TRAIN, "--epochs", "1", "-o", "first").code == 0
    code, _, err = run(
        "tune", "tiny.yml", "-w", "first/best.pth", "--data", "data", "--epochs", "1",
        "--freeze", "backbone,encoder.input_proj", "--layer-decay", "0.5", "-o", "frozen",
    )  # fmt: skip
    assert code == 0
    assert re.search(r"frozen: backbone, encoder.input_proj \(\d\.\d\d M of \d\.\d\d M", err)
    before, after = weights_of("first"), weights_of("frozen")
    kept = [n for n in before if n.startswith(("backbone.", "encoder.input_proj."))]
    assert len(kept) > 100
    assert all(torch.equal(before[name], after[name]) for name in kept)
    assert any(not torch.equal(before[n], after[n]) for n in before if n.startswith("decoder."))


def test_rates_by_layer_reach_the_log(place: Path, run: Run) -> None:
    code, _, err = run(*TRAIN, "--epochs", "1", "--layer-decay", "0.5", "-o", "layers")
    assert code == 0
    assert "layer decay 0.5: the backbone's rates are" in err
    row = json.loads(Path("layers/log.jsonl").read_text().splitlines()[0])
    rates = {key: value for key, value in row.items() if key.startswith("lr/backbone")}
    assert rates["lr/backbone_stage_2"] == pytest.approx(rates["lr/backbone_stage_3"] / 2)
    assert rates["lr/backbone_stem"] == pytest.approx(rates["lr/backbone_stage_1"] / 2)


@pytest.mark.parametrize("sampling", ["repeat_factor", "class_balanced"])
def test_sampling(place: Path, run: Run, sampling: str) -> None:
    code, out, err = run(*TRAIN, "--epochs", "2", "--sampling", sampling, "-o", sampling, "--json")
    assert code == 0
    assert f"sampling {sampling}: 6 images, " in err
    steps = [row["step"] for row in read_log(Path(sampling, "log.jsonl"))]
    assert steps[1] == 2 * steps[0]
    assert json.loads(out)["trained_epochs"] == 2


@pytest.mark.usefixtures("forked")
def test_two_processes_agree(place: Path, run: Run) -> None:
    code, _, err = run(
        *TRAIN, "--epochs", "9", *STILL, "--patience", "1", "--freeze", "backbone",
        "--sampling", "class_balanced", "--nproc", "2", "--device", "cpu", "-o", "two",
    )  # fmt: skip
    assert code == 0, err
    epochs = epochs_of("two")
    assert epochs == [0, 1, 8]


def test_tune_chooses_how_long(place: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("detrkit.engine.automatic.MOST", 2)
    assert run(*TRAIN, "--epochs", "1", "-o", "weights").code == 0
    text = Path("tiny.yml").read_text().replace("epochs: 4\nschedule: auto\n", "")
    Path("recipe.yml").write_text(text)
    tune = ("tune", "recipe.yml", "-w", "weights/best.pth", "--data", "data", "-o")
    code, _, err = run(*tune, "chosen")
    assert code == 0
    assert "2 epochs of 3 batches: 6 steps of fine-tuning; --epochs N to say otherwise" in err
    assert epochs_of("chosen") == [0, 1]
    code, _, err = run(*tune, "said", "-u", "epochs=1")
    assert code == 0
    assert "of fine-tuning" not in err
    assert epochs_of("said") == [0]
