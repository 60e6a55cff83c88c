"""`detrkit train`, `resume` and `tune` on a data set of a few tiny pictures."""

from __future__ import annotations

import csv
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest
import torch

from detrkit.cli.app import main
from detrkit.engine.checkpoint import Checkpoint
from detrkit.engine.session import Session
from tests.conftest import REPOSITORY
from tests.engine.tiny_data import write_coco, write_config
from tests.engine.toy import equal
from tests.forked import detrkit

EPOCHS = 4


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `data/` and `tiny.yml`, and in `whole/` an uninterrupted run of 4 epochs."""
    folder = tmp_path_factory.mktemp("train")
    write_coco(folder / "data", train=6, val=3)
    write_config(folder, REPOSITORY)
    code = run(folder, "train", "tiny.yml", "--data", "data", "--output", "whole")
    assert code == 0
    return folder


def run(folder: Path, *arguments: str) -> int:
    """The command line, in this process."""
    before = Path.cwd()
    os.chdir(folder)
    try:
        return main([str(a) for a in arguments])
    finally:
        os.chdir(before)


def start(
    folder: Path, *arguments: str, program: Sequence[str] = (sys.executable, "-m", "detrkit")
) -> subprocess.Popen[str]:
    """The command line in a process of its own."""
    return subprocess.Popen(
        [*program, *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_for(condition: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    """Until something has happened in a running process."""
    until = time.monotonic() + 120
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < until
        time.sleep(0.01)


def content(folder: Path) -> dict[str, Any]:
    """What `last.pth` and the log say, without times and places."""
    checkpoint = Checkpoint.load(folder / "last.pth")
    rows = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return {
        "model": checkpoint.model,
        "ema": checkpoint.ema,
        "optimizer": checkpoint.optimizer,
        "position": {k: v for k, v in checkpoint.position.items() if "seconds" not in k},
        "log": [{k: v for k, v in row.items() if not k.startswith("resources/")} for row in rows],
        "best": Checkpoint.load(folder / "best.pth").weights,
    }


def test_a_run_leaves_what_it_promises(place: Path) -> None:
    names = {p.name for p in (place / "whole").iterdir()}
    assert {
        "config.yml", "args.json", "environment.json", "log.jsonl", "results.csv", "batches",
        "best.pth", "last.pth", "best_stg1.pth", "detections.jpg", "curves.png",
        "best_predictions.json", "report.html", "metrics.json",
    } <= names  # fmt: skip
    assert any(name.startswith("events.out") for name in names)
    assert len((place / "whole" / "log.jsonl").read_text().splitlines()) == EPOCHS
    with (place / "whole" / "results.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["epoch"] for row in rows] == ["0", "1", "2", "3"]
    assert float(rows[0]["val/AP"]) >= 0
    assert {p.name for p in (place / "whole" / "batches").iterdir()} == {
        f"epoch_00{e}_batch_{b}.jpg" for e in (0, 3) for b in (0, 1)
    }


def test_the_best_checkpoint_needs_nothing_else(place: Path) -> None:
    from detrkit.engine.weights import open_detector

    loaded = open_detector(place / "whole" / "best.pth")
    assert loaded.class_map.names == ("red", "green")
    assert loaded.class_map.category_ids == (3, 7)
    assert loaded.image_spec.size == (64, 64)
    assert loaded.checkpoint.metrics["AP"] >= 0
    with torch.no_grad():
        outputs = loaded.model(torch.zeros(1, 3, 64, 64))
    assert outputs["pred_logits"].shape == (1, 20, 2)
    stored = Checkpoint.load(place / "whole" / "best.pth")
    assert stored.config is not None
    assert stored.config["num_classes"] == 2
    assert stored.config["seed"] == 7


def test_a_run_ends_its_loader_processes(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They hold the pipes of whoever trains from Python, who may wait for the end of one."""
    workers: list[BaseProcess] = []
    shut = Session.close

    def watched(session: Session) -> None:
        workers.extend(set(multiprocessing.active_children()) - before)
        shut(session)

    before = set(multiprocessing.active_children())
    monkeypatch.setattr(Session, "close", watched)
    train = ("train", "tiny.yml", "--data", "data", "--epochs", "1", "--output", "workers")
    assert run(place, *train, "-j", "1") == 0
    assert len(workers) == 2
    assert not any(worker.is_alive() for worker in workers)


@pytest.fixture(scope="module")
def killed(place: Path) -> Path:
    """A run that kill -9 hit in the middle of its second or third epoch."""
    train = ("train", "tiny.yml", "--data", "data", "--output", "killed", "-j", "1")
    process = start(place, *train, program=detrkit())
    last, pictures = place / "killed" / "last.pth", place / "killed" / "log.jsonl"
    wait_for(lambda: last.is_file() and len(pictures.read_text().splitlines()) >= 1, process)
    time.sleep(0.5)  # anywhere in an epoch
    process.kill()
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    return place / "killed"


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
def test_kill_9_then_resume_equals_the_uninterrupted_run(place: Path, killed: Path) -> None:
    done = Checkpoint.load(killed / "last.pth").position["epoch"]
    assert 1 <= done < EPOCHS
    assert run(place, "resume", "killed") == 0
    assert equal(content(place / "whole"), content(killed))


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
def test_ctrl_c_exits_130_and_resume_equals_the_uninterrupted_run(place: Path) -> None:
    process = start(place, "train", "tiny.yml", "--data", "data", "--output", "stopped")
    # the first picture is drawn in the first epoch
    wait_for(lambda: any((place / "stopped" / "batches").glob("*.jpg")), process)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 130, err
    assert "error: interrupted in epoch" in err
    assert "detrkit resume stopped" in err
    assert "Traceback" not in err
    assert out == ""
    assert run(place, "resume", "stopped/last.pth") == 0
    assert equal(content(place / "whole"), content(place / "stopped"))


def test_a_finished_run_says_so(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(place, "resume", "whole") == 2
    err = capsys.readouterr().err
    assert "is finished: 4 epochs are done" in err
    assert "detrkit tune" in err


def test_best_cannot_be_resumed(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(place, "resume", "whole/best.pth") == 5
    assert "weights only" in capsys.readouterr().err
    assert run(place, "resume", "nothing-here") == 2


def test_tune_copies_heads_by_class_name_and_never_overwrites(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (place / "whole" / "best.pth").read_bytes()
    arguments = ["tune", "tiny.yml", "-w", "whole/best.pth", "--data", "data", "--epochs", "1"]
    assert run(place, *arguments, "-b", "3", "--size", "96", "--output", "whole", "--json") == 0
    captured = capsys.readouterr()
    result = json.loads(captured.out)
    assert result["kind"] == "train"
    assert result["directory"] == "whole-2"
    assert result["loaded"]["matched_classes"] == {"red": "red", "green": "green"}
    assert "loaded" in captured.err
    assert (place / "whole" / "best.pth").read_bytes() == before
    tuned = Checkpoint.load(place / "whole-2" / "best.pth")
    assert tuned.image_spec is not None
    assert tuned.image_spec.size == (96, 96)
    assert tuned.config is not None
    assert tuned.config["train_dataloader"]["total_batch_size"] == 3
    # tiny.yml says batch 2 and the N recipe's 0.0008
    assert tuned.config["optimizer"]["lr"] == pytest.approx(0.0008 * (3 / 2) ** 0.5, rel=1e-3)
    assert tuned.config["train_dataloader"]["collate_fn"]["stop_epoch"] == 1


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["--data", "data", "--lr", "1e30"], 7, "the loss is not finite at step"),
        (["--data", "nowhere"], 4, "nowhere"),
        (["--data", "data", "--size", "100"], 2, "multiples of 32"),
        (["--data", "data", "--size", "big"], 2, "expected a number or HxW"),
        (["--data", "data", "--epochs", "0"], 2, "--epochs must be at least 1"),
        (["--data", "data", "--amp", "fp8"], 2, "choose bf16, fp16 or off"),
        (["--data", "data", "--tune", "absent.pth"], 5, "weight file not found"),
        (["--data", "data", "--device", "tpu9"], 2, "no device"),
        (["--data", "data", "-u", "epocs=3"], 3, "did you mean `epochs`"),
        (["--data", "data", "--output", "tiny.yml/run"], 1, "cannot write"),
        (["--test-only"], 2, "another command"),
    ],
)
def test_mistakes(
    place: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], code: int, words: str
) -> None:
    folders = {p for p in place.glob("runs/*")}
    assert run(place, "train", "tiny.yml", *arguments) == code
    err = capsys.readouterr().err
    assert words in err
    assert "Traceback" not in err
    if code != 7:
        assert {p for p in place.glob("runs/*")} == folders  # a failed start leaves no folder


def test_a_full_disk(
    place: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    code = run(place, "train", "tiny.yml", "--data", "data", "--epochs", "1", "-o", "full")
    assert code == 1
    err = capsys.readouterr().err
    assert "no space left" in err
    assert "free some space" in err


def test_training_images_without_validation(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    only = place / "only_train"
    write_coco(only, train=6, val=1)
    (only / "annotations" / "instances_val.json").unlink()
    arguments = ["train", "tiny.yml", "--data", "only_train", "--epochs", "1", "-o", "held"]
    assert run(place, *arguments) == 0
    assert "held out" in capsys.readouterr().err


@pytest.mark.parametrize("flag", [["-h"], ["--help"]])
def test_help(flag: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    for command in ("train", "resume", "tune"):
        assert main([command, *flag]) == 0
        assert "--data" in capsys.readouterr().out


def test_hostile_images_do_not_stop_a_run(
    place: Path, shared_data: Callable[[str], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    files = sorted(p for p in (shared_data("hostile_images") / "files").iterdir() if p.is_file())
    content = {
        "images": [
            {"id": i, "file_name": p.name, "width": 64, "height": 64} for i, p in enumerate(files)
        ],
        "annotations": [
            {"id": i + 1, "image_id": i, "category_id": 1, "bbox": [2, 2, 20, 20], "area": 400}
            for i in range(len(files))
        ],
        "categories": [{"id": 1, "name": "thing"}],
    }
    folder = place / "hostile"
    folder.mkdir()
    for split in ("train", "val"):
        (folder / f"{split}.json").write_text(json.dumps(content))
    update = ["data=null"]
    for split in ("train", "val"):
        update += [
            f"{split}_dataloader.dataset.img_folder={json.dumps(str(files[0].parent))}",
            f"{split}_dataloader.dataset.ann_file={json.dumps(str(folder / f'{split}.json'))}",
        ]
    arguments = ["train", "tiny.yml", "--epochs", "1", "-b", "8", "-o", "hostile_run", "-u"]
    assert run(place, *arguments, *update) == 0
    err = capsys.readouterr().err
    assert "corrupt_header.jpg" in err
    assert "Traceback" not in err
    assert len((place / "hostile_run" / "log.jsonl").read_text().splitlines()) == 1
