"""What a run shows and where it logs: the summary, plain lines, loggers asked for."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from detrkit.cli.app import main
from detrkit.engine.trainer import Trainer
from tests.cli.conftest import Run
from tests.conftest import REPOSITORY
from tests.engine.fake_trackers import FakeMLflow, FakeWandB, install
from tests.forked import detrkit

ONE = ("train", "tiny.yml", "--data", "data", "--epochs", "1", "-o")


@pytest.mark.usefixtures("drawn_curves")
def test_the_summary_names_the_best_epoch_and_every_file(place: Path, run: Run) -> None:
    code, out, err = run("train", "tiny.yml", "--data", "data", "--epochs", "2", "-o", "whole")
    assert code == 0
    lines = dict(line.split(maxsplit=1) for line in out.splitlines())
    assert re.match(r"epoch [12] of 2: AP \d\.\d{3}  AP50 \d\.\d{3}  AP75", lines["best"])
    assert re.match(r"\d+:\d\d for 2 epochs", lines["time"])
    for name in ("run", "weights", "last", "log", "table", "curves", "detections", "batches"):
        assert Path(lines[name]).exists()
    with Image.open(lines["curves"]) as curves:
        assert min(curves.size) > 500  # drawn
    assert lines["tensorboard"] == "tensorboard --logdir whole"
    assert lines["next"] == "detrkit infer -w whole/best.pth IMAGE"
    assert not re.search(r"[\x00-\x09\x0b-\x1f]", out + err)
    assert len(err.splitlines()) < 25


def test_json_has_the_same(place: Path, run: Run) -> None:
    code, out, _ = run(*ONE, "json", "--json", "-u", "loggers=[]")
    result = json.loads(out)
    assert code == 0
    assert result["files"]["curves"] == "json/curves.png"
    assert result["seconds"] > 0
    assert result["links"] == {}
    assert not list(Path("json").glob("events*"))


def test_origin_and_frequencies(place: Path, run: Run) -> None:
    update = ["-u", "verbose_type=origin", "print_freq=2", "plot_train_batch_freq=0"]
    code, _, err = run(*ONE, "origin", *update)
    assert code == 0
    steps = re.findall(r"^Epoch: \[0/1\]  \[(\d)/3\]  eta: .* loss: .* time: ", err, re.M)
    assert steps == ["2"]  # the first step has no time yet
    assert re.search(r"^Test:  AP: ", err, re.M)
    assert not Path("origin/batches").exists()


def test_batches_every_so_many_epochs(place: Path, run: Run) -> None:
    base = ("train", "tiny.yml", "--data", "data", "--epochs", "4", "-o")
    assert run(*base, "often", "-u", "plot_train_batch_freq=2").code == 0
    epochs = {path.name[:9] for path in Path("often/batches").iterdir()}
    assert epochs == {"epoch_000", "epoch_002", "epoch_003"}  # 3 begins a stage


def test_loggers_by_flag_and_by_the_authors_keys(
    place: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    wandb, mlflow = install(monkeypatch, FakeWandB()), install(monkeypatch, FakeMLflow())
    names = ["use_wandb=true", "project_name=D-FINE", "exp_name=baseline"]
    code, out, _ = run(*ONE, "both", "--logger", "mlflow", "-u", *names)
    assert code == 0
    (kept,) = wandb.runs.values()
    assert kept.options["project"] == "D-FINE"
    assert kept.options["name"] == "baseline"
    assert kept.options["config"]["epochs"] == 1
    assert kept.options["config"]["classes"] == ["red", "green"]
    assert kept.exit_code == 0
    assert any("val/AP50" in point for point in kept.logged)
    assert any("train_dn/loss_giou_0" in point for point in kept.logged)
    pictures = {name for point in kept.logged for name in point if "/" not in name}
    assert {"curves", "detections"} <= pictures
    assert kept.summary["best/epoch"] == 1
    assert mlflow.experiments == {"D-FINE": "1"}
    assert mlflow.runs["run0"].status == "FINISHED"
    assert "pictures/detections.jpg" in mlflow.runs["run0"].artifacts
    assert list(Path("both").glob("events*"))  # TensorBoard as well
    assert kept.url in out


def test_a_logger_that_is_not_installed(
    place: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    code, _, err = run(*ONE, "never", "--logger", "wandb")
    assert code == 6
    assert "pip install 'detrkit[loggers]'" in err
    assert not Path("never").exists()


@pytest.mark.parametrize("given", ["wandbb", "mlflow,wandbb"])
def test_a_logger_that_does_not_exist(place: Path, run: Run, given: str) -> None:
    code, _, err = run(*ONE, "never", "--logger", given)
    assert code == 2
    assert "did you mean `wandb`" in err


def test_resume_continues_the_loggers_run_or_goes_on_without(
    place: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    wandb = install(monkeypatch, FakeWandB())
    finish = Trainer.finish_epoch

    def interrupted(trainer: Trainer, *arguments: Any) -> None:
        if trainer.state.epoch == 2:
            raise KeyboardInterrupt
        finish(trainer, *arguments)

    with monkeypatch.context() as context:
        context.setattr(Trainer, "finish_epoch", interrupted)
        start = ("train", "tiny.yml", "--data", "data", "-o", "moved", "--logger", "wandb")
        assert run(*start).code == 130
    ((number, kept),) = wandb.runs.items()
    assert kept.exit_code == 130
    assert Path("moved/curves.png").exists()  # two epochs are done
    shutil.copytree("moved", "elsewhere")
    assert run("resume", "moved").code == 0
    assert list(wandb.runs) == [number]
    assert kept.exit_code == 0
    assert [point["epoch"] for point in kept.logged if "val/AP" in point] == [0, 1, 2, 3]
    monkeypatch.setitem(sys.modules, "wandb", None)
    code, _, err = run("resume", "elsewhere")
    assert code == 0
    assert "which is not installed; the run goes on without" in err


def in_terminal(folder: Path, command: list[str], **environment: str) -> tuple[int, bytes]:
    """Runs a command with all three streams in a terminal of 100 columns."""
    import pty

    ours, theirs = pty.openpty()
    cleared = ("NO_COLOR", "CI", "FORCE_COLOR", "TTY_COMPATIBLE")
    process = subprocess.Popen(
        command,
        cwd=folder,
        env={
            **{k: v for k, v in os.environ.items() if k not in cleared},
            "PYTHONPATH": str(REPOSITORY), "TERM": "xterm", "COLUMNS": "100", **environment,
        },
        stdin=theirs, stdout=theirs, stderr=theirs, close_fds=True,
    )  # fmt: skip
    os.close(theirs)
    seen = b""
    while True:
        try:
            part = os.read(ours, 65536)
        except OSError:  # Linux says so when the last writer has gone
            break
        if not part:
            break
        seen += part
    os.close(ours)
    return process.wait(), seen


_STYLED = "from detrkit.cli import console; console.say('warning', 'text', 'bold yellow')"


@pytest.mark.skipif(sys.platform == "win32", reason="pseudo-terminals of POSIX")
@pytest.mark.parametrize(
    ("environment", "plain"),
    [({}, False), ({"NO_COLOR": "1"}, True), ({"CI": "true"}, True), ({"TERM": "dumb"}, True)],
)
def test_who_gets_plain_text(tmp_path: Path, environment: dict[str, str], plain: bool) -> None:
    code, seen = in_terminal(tmp_path, [sys.executable, "-c", _STYLED], **environment)
    assert code == 0
    assert (b"\x1b" not in seen) == plain


@pytest.mark.skipif(sys.platform == "win32", reason="pseudo-terminals of POSIX")
def test_a_run_without_colours_writes_lines_only(folder: Path) -> None:
    code, seen = in_terminal(folder, [*detrkit(), *ONE, "terminal"], NO_COLOR="1")
    assert code == 0, seen.decode()
    text = seen.decode().replace("\r\n", "\n")
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f]", text)
    assert "1/1" in text
    assert len(text.splitlines()) < 40


@pytest.mark.skipif(sys.platform == "win32", reason="pseudo-terminals of POSIX")
def test_a_run_in_a_terminal_shows_a_bar(folder: Path) -> None:
    code, seen = in_terminal(folder, [*detrkit(), *ONE, "bar"])
    assert code == 0, seen.decode()
    assert b"\x1b[?25l" in seen  # the cursor hides while the bar moves
    assert seen.rfind(b"\x1b[?25h") > seen.rfind(b"\x1b[?25l")  # and comes back
    assert "epoch 1/1" in seen.decode()


def test_help_names_the_flag(capsys: pytest.CaptureFixture[str]) -> None:
    for command in ("train", "tune"):
        assert main([command, "--help"]) == 0
        out = capsys.readouterr().out
        assert "--logger" in out
        assert "detrkit[loggers]" in out.replace("\n", "")
