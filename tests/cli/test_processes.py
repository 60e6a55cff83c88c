"""The command line in several processes: its own launcher, torchrun, Slurm; deaths and Ctrl-C."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import pytest

from detrkit.engine.checkpoint import Checkpoint
from tests.cli.test_train import content, run, start, wait_for
from tests.conftest import REPOSITORY
from tests.engine.bright import small_detector
from tests.engine.test_evaluator import write_coco as write_bright_coco
from tests.engine.tiny_data import write_coco, write_config
from tests.engine.toy import equal
from tests.forked import detrkit, forking_launcher

posix = pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")

#: A transform that ends its process, or fails, once, in the second batch of an epoch.
PLUGIN = """
import os
from pathlib import Path
from detrkit.errors import DataError
from detrkit.registry import MODULES

@MODULES.register(family="transform")
class Mishap:
    def __init__(self, rank: int = 1, epoch: int = 1, kind: str = "none", mark: str = "mark"):
        self.rank, self.epoch, self.kind, self.mark = rank, epoch, kind, Path(mark)

    def __call__(self, sample, rng):
        here = int(os.environ.get("RANK", 0)) == self.rank
        if here and (sample.key.epoch, sample.key.step) == (self.epoch, 1):
            if self.kind == "error":
                raise DataError(f"image {sample.image_id} is odd")
            if self.kind == "death" and not self.mark.exists():
                self.mark.touch()
                os._exit(9)
        return sample
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with data, and in `whole/` an uninterrupted run of two processes.

    They are forked; slow tests below start such in new interpreters and compare with this one.
    """
    folder = tmp_path_factory.mktemp("processes")
    write_coco(folder / "data", train=6, val=3)
    write_config(folder, REPOSITORY)
    (folder / "mishap.py").write_text(PLUGIN)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("detrkit.engine.distributed.launch.Launcher", forking_launcher)
        assert run(folder, *train("whole"), "--nproc", "2") == 0
    return folder


def train(output: str, kind: str = "none", rank: int = 1, epoch: int = 1) -> list[str]:
    """A command line; each batch of two images is shared by two processes."""
    mishap = f"{{type: Mishap, rank: {rank}, epoch: {epoch}, kind: {kind}, mark: {output}.mark}}"
    others = "{type: Resize, size: [64, 64]}, {type: ConvertPILImage}, {type: ConvertBoxes}"
    ops = f"[{mishap}, {others}]"
    return [
        "train", "tiny.yml", "--data", "data", "--output", output, "--epochs", "2",
        "--plugin", "mishap.py", "--device", "cpu",
        "-u", f"train_dataloader.dataset.transforms.ops={ops}", "-u", "sync_bn=false",
    ]  # fmt: skip


def assert_same(place: Path, name: str, whole: str = "whole") -> None:
    assert equal(content(place / whole), content(place / name))


def errors(text: str) -> list[str]:
    assert "Traceback" not in text, text
    return [line for line in text.splitlines() if line.startswith("error:")]


# Our launcher ----------------------------------------------------------------------------------


def test_one_folder(place: Path) -> None:
    """What the processes write is that of one."""
    assert len((place / "whole" / "log.jsonl").read_text().splitlines()) == 2
    assert not (place / "whole-2").exists()
    last = Checkpoint.load(place / "whole" / "last.pth")
    assert last.position["step"] == 6
    assert not any(name.startswith("module.") for name in last.model or {})
    assert {"report.html", "metrics.json"} <= {p.name for p in (place / "whole").iterdir()}


@pytest.mark.slow
def test_a_mistake_of_all_is_told_once(place: Path, capfd: pytest.CaptureFixture[str]) -> None:
    arguments = ["train", "tiny.yml", "--data", "nowhere", "--nproc", "2", "--json"]
    assert run(place, *arguments) == 4
    out, err = capfd.readouterr()
    assert out == ""
    assert len(errors(err)) == 1


@pytest.mark.usefixtures("forked")
def test_a_process_that_dies_is_replaced(place: Path, capfd: pytest.CaptureFixture[str]) -> None:
    arguments = [*train("death", "death"), "--nproc", "2", "--auto-resume", "--json"]
    assert run(place, *arguments) == 0
    out, err = capfd.readouterr()
    assert json.loads(out)["directory"] == "death"
    assert errors(err) == ["error: process 1 of 2 ended with exit code 9"]
    assert "starting again in 1 s from the last checkpoint" in err
    assert "resuming death at epoch 2" in err
    assert_same(place, "death")


@pytest.mark.slow
def test_a_finished_run_is_left_alone(place: Path, capfd: pytest.CaptureFixture[str]) -> None:
    before = (place / "whole" / "last.pth").read_bytes()
    assert run(place, *train("whole"), "--nproc", "2", "--auto-resume") == 0
    out, err = capfd.readouterr()
    assert "whole is finished" in err
    assert "whole/best.pth" in out
    assert (place / "whole" / "last.pth").read_bytes() == before


@pytest.mark.usefixtures("forked")
def test_an_error_in_one_process_is_told_once(
    place: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    arguments = [*train("error", "error", epoch=0), "--nproc", "2", "--auto-resume"]
    assert run(place, *arguments) == 4
    _, err = capfd.readouterr()
    (message,) = errors(err)
    assert "is odd" in message
    assert "starting again" not in err


@posix
@pytest.mark.slow
def test_ctrl_c_saves_once_and_resume_equals_the_uninterrupted_run(place: Path) -> None:
    process = start(place, *train("stopped"), "--nproc", "2")
    wait_for(lambda: any((place / "stopped" / "batches").glob("*.jpg")), process)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 130, err
    assert out == ""
    (message,) = errors(err)
    assert "interrupted in epoch" in message
    assert "the state is saved" in message
    assert run(place, "resume", "stopped", "--plugin", "mishap.py", "--nproc", "2") == 0
    assert_same(place, "stopped")


@posix
@pytest.mark.slow
def test_a_single_process_that_dies_is_replaced(
    place: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert run(place, *train("alone")) == 0
    assert run(place, *train("alone-again", "death", rank=0), "--auto-resume") == 0
    assert "error: the process ended with exit code 9" in capfd.readouterr().err
    assert_same(place, "alone-again", "alone")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--nproc", "0"], "--nproc must be at least 1"),
        (["--devices", "0,0"], "names a GPU twice"),
        (["--devices", "cpu"], "expected the numbers of GPUs"),
        (["--devices", "0,1", "--nproc", "3"], "but --devices names 2"),
        (["--devices", "0", "--device", "cpu"], "give one of them"),
        (["--accumulate", "0"], "--accumulate must be at least 1"),
        (["--max-restarts", "-1"], "--max-restarts"),
    ],
)
def test_mistakes(
    place: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], words: str
) -> None:
    assert run(place, "train", "tiny.yml", "--data", "data", *arguments) == 2
    assert words in capsys.readouterr().err


def test_more_parts_than_images(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(place, "train", "tiny.yml", "--data", "data", "--accumulate", "3") == 3
    assert "3 parts of 2 images" in capsys.readouterr().err


# Others' launchers -----------------------------------------------------------------------------


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Starter(Protocol):
    def __call__(self, place: Path, command: list[str], **env: str) -> subprocess.Popen[str]: ...


@pytest.fixture
def in_folder() -> Iterator[Starter]:
    """Starts a command in a folder; what still runs at the end is told to stop."""
    started: list[subprocess.Popen[str]] = []

    def start_one(place: Path, command: list[str], **env: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            command,
            cwd=place,
            env={
                **os.environ,
                "PYTHONPATH": str(REPOSITORY),
                "GLOO_SOCKET_IFNAME": "lo" if sys.platform == "linux" else "lo0",
                **env,
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        return process

    yield start_one
    for process in started:
        process.terminate()  # an agent ends its processes
    for process in started:
        process.communicate(timeout=60)


@posix
@pytest.mark.slow
def test_torchrun_on_two_machines_with_a_death(place: Path, in_folder: Starter) -> None:
    """Two agents on this machine, as on two; elastic restarts both, `--auto-resume` goes on."""
    agent = [
        sys.executable, "-m", "torch.distributed.run", "--nnodes=2", "--nproc-per-node=1",
        "--rdzv-backend=c10d", f"--rdzv-endpoint=127.0.0.1:{free_port()}", "--rdzv-id=test",
        "--max-restarts=1", "-m", "detrkit", *train("machines", "death"), "--auto-resume",
    ]  # fmt: skip
    agents = [in_folder(place, agent) for _ in range(2)]
    outputs = [process.communicate(timeout=250) for process in agents]
    assert [process.returncode for process in agents] == [0, 0], outputs
    assert (place / "machines.mark").exists()
    assert sum("weights     machines/best.pth" in out for out, _ in outputs) == 1
    assert_same(place, "machines")


@posix
@pytest.mark.slow
def test_ctrl_c_to_torchrun(place: Path, in_folder: Starter) -> None:
    """Its agent hands the signal on to all and waits for half a minute."""
    agent = [
        sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2",
        "-m", "detrkit", *train("agent"), "--epochs", "50",
    ]  # fmt: skip
    process = in_folder(place, agent)
    wait_for(lambda: any((place / "agent" / "batches").glob("*.jpg")), process)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=120)
    assert process.returncode != 0
    assert err.count("error: interrupted in epoch") == 1, err
    assert "the state is saved" in err
    assert Checkpoint.load(place / "agent" / "last.pth").position["batch"] > 0
    assert run(place, "resume", "agent", "--plugin", "mishap.py", "--nproc", "3") == 3


def test_nproc_within_torchrun(
    place: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"RANK": 1, "WORLD_SIZE": 4, "LOCAL_RANK": 1, "LOCAL_WORLD_SIZE": 2}.items():
        monkeypatch.setenv(name, str(value))
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    monkeypatch.setenv("MASTER_PORT", "1")
    assert run(place, *train("never"), "--nproc", "4") == 2
    assert "--nproc 4, but 2 of 4 processes were started" in capsys.readouterr().err


# Evaluation ------------------------------------------------------------------------------------


@pytest.fixture
def measured(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> list[str]:
    """A command that measures, and in `alone.json` and `predictions.json` what one process says.

    Four images in batches of one: three processes do not get equally many.
    """
    weights = str(small_detector(tmp_path / "best.pth"))
    write_bright_coco(tmp_path, [7, 3, 12, 5])
    command = [
        "eval", "-w", weights, "--data", "instances_val.json", "--batch", "1", "--json",
        "--device", "cpu", "--predictions-out",
    ]  # fmt: skip
    assert run(tmp_path, *command, "predictions.json") == 0
    (tmp_path / "alone.json").write_text(capfd.readouterr().out)
    return command


def assert_same_numbers(folder: Path, answer: str) -> None:
    numbers = [json.loads(text) for text in (answer, (folder / "alone.json").read_text())]
    for number in numbers:
        del number["images_per_second"], number["speed"], number["predictions"]
    assert numbers[0] == numbers[1]
    predictions = [(folder / f"{name}.json").read_text() for name in ("ours", "predictions")]
    assert predictions[0] == predictions[1]


@posix
def test_tasks_of_srun(tmp_path: Path, measured: list[str], in_folder: Starter) -> None:
    job = {
        "SLURM_JOB_ID": "4711", "SLURM_STEP_ID": "0", "SLURM_NTASKS": "2",
        "SLURM_STEP_NUM_TASKS": "2", "SLURM_STEP_NODELIST": "localhost",
        "SLURM_STEP_TASKS_PER_NODE": "2", "SLURM_NODEID": "0", "MASTER_PORT": str(free_port()),
    }  # fmt: skip
    command = [*detrkit(), *measured, "ours.json"]
    tasks = [
        in_folder(tmp_path, command, **job, SLURM_PROCID=str(n), SLURM_LOCALID=str(n))
        for n in range(2)
    ]
    outputs = [process.communicate(timeout=250) for process in tasks]
    assert [process.returncode for process in tasks] == [0, 0], outputs
    assert outputs[1][0] == ""
    assert_same_numbers(tmp_path, outputs[0][0])


@pytest.mark.slow
def test_our_launcher_measures_the_same(
    tmp_path: Path, measured: list[str], capfd: pytest.CaptureFixture[str]
) -> None:
    assert run(tmp_path, *measured, "ours.json", "--nproc", "3") == 0
    assert_same_numbers(tmp_path, capfd.readouterr().out)
