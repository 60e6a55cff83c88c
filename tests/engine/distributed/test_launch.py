"""Starting processes, watching them, starting them again. The programs here import no torch."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from detrkit.engine.distributed.launch import LOST, Launcher
from tests.conftest import REPOSITORY

START = """
import json, os, signal, sys, time
from pathlib import Path
rank, here = int(os.environ["RANK"]), Path(sys.argv[1])
attempt = len(list(here.glob(f"started-{rank}-*")))
(here / f"started-{rank}-{attempt}").touch()
def other_is_ready():
    while len(list(here.glob("started-1-*"))) <= attempt: time.sleep(0.01)
"""
#: Stops as a training does: at the next step, with exit code 130.
STOPPABLE = (
    START
    + """
from detrkit.engine.distributed.lifeline import hold_lifeline
def stop(*_):
    (here / f"saved-{rank}").touch()
    os._exit(130)
signal.signal(signal.SIGTERM, stop)
hold_lifeline()
(here / f"ready-{rank}").touch()
time.sleep(60)
"""
)


def launcher(folder: Path, program: str, processes: int = 2, **options: object) -> Launcher:
    command = [sys.executable, "-S", "-c", START + program, str(folder)]
    return Launcher(command, processes, backoff=0.01, **options)  # type: ignore[arg-type]


def started(folder: Path) -> list[str]:
    return sorted(p.name.removeprefix("started-") for p in folder.glob("started-*"))


def test_torch_is_not_needed() -> None:
    program = (
        "import sys; import detrkit.engine.distributed.launch, detrkit.engine.distributed.lifeline"
        "; import detrkit.cli.processes; print('torch' in sys.modules)"
    )
    result = subprocess.run(
        [sys.executable, "-c", program], cwd=REPOSITORY, capture_output=True, text=True, check=True
    )
    assert result.stdout == "False\n"


def test_every_process_learns_its_place(tmp_path: Path) -> None:
    program = """
keys = ["RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "DETRKIT_MEETING_FILE"]
(here / f"{rank}.json").write_text(json.dumps([os.environ[key] for key in keys]))
"""
    assert launcher(tmp_path, program, 3).run() == 0
    places = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(3)]
    assert [place[:4] for place in places] == [[str(r), "3", str(r), "3"] for r in range(3)]
    assert len({place[4] for place in places}) == 1


@pytest.mark.parametrize("code", [2, 3, 4, 5, 6, 7, 130])
def test_what_another_attempt_cannot_mend_is_final(tmp_path: Path, code: int) -> None:
    assert launcher(tmp_path, f"sys.exit({code})", restarts=3).run() == code
    assert started(tmp_path) == ["0-0", "1-0"]


def test_the_first_failure_decides_and_the_others_are_ended(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    program = "time.sleep(60) if rank == 0 else (time.sleep(0.1), os._exit(9))"
    started_at = time.monotonic()
    assert launcher(tmp_path, program, patience=0.2).run() == 9
    assert time.monotonic() - started_at < 30
    assert "process 1 of 2 ended with exit code 9" in caplog.text


def test_who_only_lost_the_others_is_no_cause(tmp_path: Path) -> None:
    program = f"sys.exit({LOST} if rank == 0 else (time.sleep(0.3), 9)[1])"
    assert launcher(tmp_path, program).run() == 9


def test_all_lost(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert launcher(tmp_path, f"sys.exit({LOST})").run() == 1
    assert "lost each other" in caplog.text


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
def test_a_killed_process(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    program = "os.kill(os.getpid(), signal.SIGKILL) if rank == 1 else time.sleep(60)"
    assert launcher(tmp_path, program, patience=0.1).run() == 137
    assert "process 1 of 2 was killed by SIGKILL: out of memory?" in caplog.text


def test_all_start_again_after_a_crash(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    program = "other_is_ready(); sys.exit(1 if attempt < 2 and rank == 1 else 0)"
    assert launcher(tmp_path, program, restarts=3).run() == 0
    assert started(tmp_path) == ["0-0", "0-1", "0-2", "1-0", "1-1", "1-2"]
    assert caplog.text.count("starting again in") == 2


def test_it_gives_up(tmp_path: Path) -> None:
    assert launcher(tmp_path, "sys.exit(1)", 1, restarts=2).run() == 1
    assert started(tmp_path) == ["0-0", "0-1", "0-2"]


def test_a_checkpoint_makes_the_attempts_count_anew(tmp_path: Path) -> None:
    program = """
if attempt in (1, 3):
    Path(os.environ["DETRKIT_PROGRESS_FILE"]).touch()
sys.exit(1)
"""
    assert launcher(tmp_path, program, 1, restarts=2).run() == 1
    # 1 and 3 saved something: after them two more attempts each
    assert started(tmp_path) == [f"0-{n}" for n in range(6)]


# Signals ---------------------------------------------------------------------------------------


def outer(
    folder: Path, program: str, processes: int = 2, first: Sequence[str] = ()
) -> subprocess.Popen[str]:
    """A launcher in a process of its own."""
    code = (
        "import sys; from detrkit.engine.distributed.launch import Launcher\n"
        f"command = [sys.executable, '-c', {program!r}, {str(folder)!r}]\n"
        f"sys.exit(Launcher(command, {processes}, restarts=3).run())"
    )
    return subprocess.Popen(
        [*first, sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_for(folder: Path, pattern: str, count: int) -> None:
    until = time.monotonic() + 60
    while len(list(folder.glob(pattern))) < count:
        assert time.monotonic() < until, pattern
        time.sleep(0.02)


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_lets_all_processes_save(tmp_path: Path, number: signal.Signals) -> None:
    process = outer(tmp_path, STOPPABLE)
    wait_for(tmp_path, "ready-*", 2)
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert len(list(tmp_path.glob("saved-*"))) == 2
    assert started(tmp_path) == ["0-0", "1-0"]


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
def test_nohup_is_respected(tmp_path: Path) -> None:
    program = START + "(here / f'ready-{rank}').touch(); time.sleep(1)"
    process = outer(tmp_path, program, first=["nohup"])
    wait_for(tmp_path, "ready-*", 2)
    process.send_signal(signal.SIGHUP)
    process.communicate(timeout=60)
    assert process.returncode == 0


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
def test_the_second_signal_ends_what_does_not_stop(tmp_path: Path) -> None:
    program = START + "(here / f'ready-{rank}').touch(); time.sleep(60)"
    process = outer(tmp_path, program)
    wait_for(tmp_path, "ready-*", 2)
    process.send_signal(signal.SIGINT)
    time.sleep(0.3)
    assert process.poll() is None
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (130, "interrupted\n")


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
def test_processes_save_and_end_when_their_launcher_is_killed(tmp_path: Path) -> None:
    process = outer(tmp_path, STOPPABLE)
    wait_for(tmp_path, "ready-*", 2)
    process.kill()
    process.communicate()
    wait_for(tmp_path, "saved-*", 2)


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
def test_one_that_is_told_to_stop_stops_the_others(tmp_path: Path) -> None:
    program = STOPPABLE.replace("time.sleep(60)", "stop() if rank == 1 else time.sleep(60)")
    process = outer(tmp_path, program)
    process.communicate(timeout=60)
    assert process.returncode == 130
    assert len(list(tmp_path.glob("saved-*"))) == 2


def test_a_warning_names_the_attempt(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    launcher(tmp_path, "sys.exit(1)", 1, restarts=1).run()
    assert "starting again in 0.01 s from the last checkpoint (1 of 1)" in caplog.text
