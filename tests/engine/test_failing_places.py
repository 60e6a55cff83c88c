"""Full disks, folders that are gone or read-only, lost data and workers: what is said and kept."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from detrkit import files
from detrkit.cli.app import main
from detrkit.data.unreadable import FolderGone
from detrkit.data.workers import WorkerLost
from detrkit.engine.checkpoint import Checkpoint
from detrkit.engine.earlier_run import find_earlier_run
from detrkit.engine.observers import Observer, StepReport
from detrkit.engine.run_dir import RunDirectory
from detrkit.errors import DataError, DetrkitError, WeightsError
from detrkit.files import cannot_write, patiently, write_atomically
from tests.conftest import REPOSITORY
from tests.engine.test_earlier_run import ASKED, make_run
from tests.engine.tiny_data import write_smallest
from tests.engine.toy import Loader, equal, trainer


@pytest.fixture(autouse=True)
def no_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "WAITS", (0.01, 0.01))


def state_of(folder: Path) -> dict[str, Any]:
    last = Checkpoint.load(folder / "last.pth")
    return {"model": last.model, "ema": last.ema, "optimizer": last.optimizer}


def fails(number: int) -> Callable[..., Any]:
    def fail(*_: object, **__: object) -> Any:
        raise OSError(number, os.strerror(number))

    return fail


# Places ----------------------------------------------------------------------------------------


def test_a_full_disk_says_what_is_needed_and_what_there_is(tmp_path: Path) -> None:
    with pytest.raises(DetrkitError) as caught:
        write_atomically(tmp_path / "last.pth", fails(errno.ENOSPC), size=5 << 20)
    assert "last.pth: no space left (5 MiB are needed, " in caught.value.message
    assert caught.value.message.endswith("are free)")
    found = cannot_write(tmp_path / "x", OSError(errno.EDQUOT, "Disk quota exceeded"))
    assert "your quota is used up" in found.message


def test_a_folder_that_was_removed(tmp_path: Path) -> None:
    with pytest.raises(DetrkitError, match="gone any more") as caught:
        write_atomically(tmp_path / "gone" / "last.pth", lambda file: file.write(b""))
    assert "removed or renamed" in (caught.value.hint or "")


def test_a_share_that_comes_back(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    calls = 0

    def attempt() -> int:
        nonlocal calls
        calls += 1
        if calls < 3:
            raise OSError(errno.ESTALE, "Stale file handle")
        return calls

    assert patiently(attempt, tmp_path / "x.jpg") == 3
    assert caplog.text.count("Stale file handle; trying again") == 1


def test_what_waiting_does_not_mend_is_told_at_once(tmp_path: Path) -> None:
    calls = 0

    def attempt() -> None:
        nonlocal calls
        calls += 1
        (tmp_path / "absent.jpg").read_bytes()

    with pytest.raises(FileNotFoundError):
        patiently(attempt, tmp_path / "absent.jpg")
    assert calls == 1
    with pytest.raises(FileNotFoundError):
        patiently(lambda: (tmp_path / "no" / "x").read_bytes(), tmp_path / "no" / "x")


def test_leftovers_of_a_killed_process_go(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    run.batches.mkdir()
    for name in (".last.pth.a1b2.tmp", "batches/.x.jpg.c3.tmp", ".write-test-77"):
        (tmp_path / name).write_bytes(b"half")
    (tmp_path / "last.pth").write_bytes(b"whole")
    run.clean()
    assert [p.name for p in tmp_path.rglob("*") if p.is_file()] == ["last.pth"]


@pytest.mark.skipif(sys.platform == "win32", reason="forks")
def test_a_forked_process_does_not_keep_the_lock(tmp_path: Path) -> None:
    """As loader workers that outlive a killed run by some seconds."""
    program = (
        "import os, signal, time; from pathlib import Path\n"
        "from detrkit.engine.run_dir import RunDirectory\n"
        f"lock = RunDirectory(Path({str(tmp_path)!r})).locked(); lock.__enter__()\n"
        "child = os.fork()\n"
        "if not child:\n"
        "    os.write(1, b'%d\\n' % os.getpid()); time.sleep(60); os._exit(0)\n"
        "time.sleep(0.5)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program], cwd=REPOSITORY, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    child = int(process.stdout.readline())
    assert process.wait(60) == -signal.SIGKILL
    try:
        with RunDirectory(tmp_path).locked():
            pass
    finally:
        os.kill(child, signal.SIGKILL)
        process.stdout.close()


def test_a_run_killed_before_its_arguments_were_written(tmp_path: Path) -> None:
    for name in (".lock", ".args.json.x1.tmp"):
        (tmp_path / name).write_bytes(b"")
    found = find_earlier_run("tiny", tmp_path, dict(ASKED))
    assert found is not None
    assert found.checkpoint is None


# Checkpoints -----------------------------------------------------------------------------------


def numbered(folder: Path, epochs: int, **more: Any) -> None:
    Checkpoint(
        model={"w": torch.zeros(1)},
        optimizer={},
        last_epoch=epochs - 1,
        config={"epochs": 4},
        position={"epoch": epochs, "step": 10 * epochs},
    ).save(folder / more.get("name", f"epoch_{epochs:04d}.pth"))


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-100])


def test_a_damaged_checkpoint_gives_way_to_the_newest_before_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = make_run(tmp_path / "run", 3)
    cut(folder / "last.pth")
    with pytest.raises(WeightsError, match=r"last\.pth is damaged"):
        find_earlier_run("tiny", folder, dict(ASKED))
    numbered(folder, 1)
    numbered(folder, 3)
    cut(folder / "epoch_0003.pth")
    numbered(folder, 2, name="best_stg1.pth")
    found = find_earlier_run("tiny", folder, dict(ASKED))
    assert found is not None
    assert found.checkpoint is not None
    assert found.checkpoint.path == folder / "best_stg1.pth"
    assert "last.pth is damaged" in caplog.text
    assert "goes on from" in caplog.text
    for named in (folder, folder / "last.pth"):
        assert main(["resume", str(named)]) == 5
        err = capsys.readouterr().err
        assert "last.pth is damaged" in err
        assert f"detrkit resume {folder / 'best_stg1.pth'}" in err


def test_falling_back_ends_with_the_same_bits(tmp_path: Path) -> None:
    trainer(tmp_path / "whole", epochs=4).fit()
    run = trainer(tmp_path / "run", epochs=4)
    run.keeper.every = 1
    run.fit()
    (tmp_path / "run" / "epoch_0004.pth").unlink()
    cut(tmp_path / "run" / "last.pth")
    from detrkit.engine.earlier_run import newest_before

    found = newest_before(RunDirectory(tmp_path / "run"))
    assert found is not None
    assert found.path == tmp_path / "run" / "epoch_0003.pth"
    again = trainer(tmp_path / "run", epochs=4, first_epoch=3, scores=[0.4])
    again.resume(found)
    again.fit()
    assert equal(state_of(tmp_path / "whole"), state_of(tmp_path / "run"))


@pytest.mark.parametrize("file", ["best.pth", "last.pth", "best_stg1.pth"])
def test_a_disk_that_fills_up_keeps_the_last_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file: str
) -> None:
    trainer(tmp_path / "whole").fit()
    run = trainer(tmp_path / "run")
    save = Checkpoint.save

    def full(self: Checkpoint, path: Path) -> None:
        if path.name == file and self.last_epoch == 1:
            write_atomically(path, fails(errno.ENOSPC))
        save(self, path)

    monkeypatch.setattr(Checkpoint, "save", full)
    with pytest.raises(DetrkitError, match=f"{file}: no space left") as caught:
        run.fit()
    assert "detrkit resume" in (caught.value.hint or "")
    monkeypatch.undo()
    kept = Checkpoint.load(tmp_path / "run" / "last.pth")
    assert kept.last_epoch == 0
    again = trainer(tmp_path / "run", first_epoch=1, scores=[0.2, 0.3, 0.4])
    again.resume(kept)
    again.fit()
    assert equal(state_of(tmp_path / "whole"), state_of(tmp_path / "run"))


def test_numbered_copies_are_not_worth_a_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    run = trainer(tmp_path)
    run.keeper.every = 1
    save = Checkpoint.save

    def full(self: Checkpoint, path: Path) -> None:
        if path.name.startswith("epoch_0"):
            write_atomically(path, fails(errno.ENOSPC))
        save(self, path)

    monkeypatch.setattr(Checkpoint, "save", full)
    assert run.fit().epoch == 4
    assert "epoch_0004.pth: no space left" in caplog.text
    assert "goes on without this copy" in caplog.text


# Data ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("error", [DataError("x.jpg: gone"), ValueError("of a plug-in")])
def test_what_was_trained_is_saved_when_data_fail(
    tmp_path: Path, error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    class Failing(Loader):
        def __iter__(self) -> Any:
            for number, batch in enumerate(super().__iter__()):
                if (self.epoch, number) == (1, 3):
                    raise error
                yield batch

    trainer(tmp_path / "whole").fit()
    run = trainer(tmp_path / "run")
    run.loader = Failing()
    with pytest.raises(type(error)):
        run.fit()
    told = caplog.text if isinstance(error, ValueError) else str(getattr(error, "hint", ""))
    assert "the state is saved; continue with: detrkit resume" in told
    kept = Checkpoint.load(tmp_path / "run" / "last.pth")
    assert (kept.position["epoch"], kept.position["batch"]) == (1, 3)
    again = trainer(tmp_path / "run", first_epoch=1, scores=[0.2, 0.3, 0.4])
    again.resume(kept)
    again.fit()
    assert equal(state_of(tmp_path / "whole"), state_of(tmp_path / "run"))


def test_nothing_is_saved_when_the_first_batch_fails(tmp_path: Path) -> None:
    """Another configuration may be needed, and a checkpoint would hold on to this one."""

    class Failing(Loader):
        def __iter__(self) -> Any:
            raise DataError("x.jpg: gone")

    run = trainer(tmp_path)
    run.loader = Failing()
    with pytest.raises(DataError):
        run.fit()
    assert not (tmp_path / "last.pth").exists()


def test_a_failing_evaluation_keeps_the_epoch(tmp_path: Path) -> None:
    trainer(tmp_path / "whole").fit()
    run = trainer(tmp_path / "run")
    assert run.evaluator is not None
    run.evaluator.run = fails(errno.EIO)  # type: ignore[method-assign]
    with pytest.raises(OSError, match="rror"):
        run.fit()
    kept = Checkpoint.load(tmp_path / "run" / "last.pth")
    assert (kept.position["epoch"], kept.position["batch"]) == (0, 5)
    again = trainer(tmp_path / "run")
    again.resume(kept)
    again.fit()
    assert equal(state_of(tmp_path / "whole"), state_of(tmp_path / "run"))


class AfterStep(Observer):
    """Does something once, after a step of the run."""

    def __init__(self, step: int, act: Callable[[], object]) -> None:
        self.step_number, self.act = step, act

    def step(self, report: StepReport) -> None:
        if report.phase == "train" and report.step == self.step_number:
            self.act()


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    write_smallest(tmp_path, REPOSITORY)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def with_observer(monkeypatch: pytest.MonkeyPatch, observer: Observer) -> None:
    from detrkit.engine import training

    build = training.build_observers
    monkeypatch.setattr(training, "build_observers", lambda *a: [*build(*a), observer])


@pytest.mark.skipif(sys.platform != "linux", reason="looks for workers in /proc")
def test_a_killed_loader_worker(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import multiprocessing

    def kill_one() -> None:
        worker = multiprocessing.active_children()[0]
        os.kill(worker.pid or 0, signal.SIGKILL)

    with_observer(monkeypatch, AfterStep(1, kill_one))
    arguments = ["train", "tiny.yml", "--data", "data", "--epochs", "4", "-o", "run", "-j", "1"]
    assert main(arguments) == 1
    err = capsys.readouterr().err
    assert "a loader process (pid " in err
    assert "was killed by SIGKILL: out of memory?" in err
    assert "try fewer --workers" in err
    assert "the state is saved; continue with: detrkit resume run" in err
    assert "Traceback" not in err
    assert Checkpoint.load(place / "run" / "last.pth").position["step"] >= 2


def test_images_that_vanish(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """One: another takes its place. All, with their folder: the run ends, its state is saved."""
    images = place / "data" / "images"
    with_observer(monkeypatch, AfterStep(0, lambda: (images / "003.png").unlink(missing_ok=True)))
    arguments = ["train", "tiny.yml", "--data", "data", "--epochs", "2", "-u", "checkpoint_freq=1"]
    assert main([*arguments, "-o", "one"]) == 0
    assert "003.png: unreadable image, replaced by another" in capsys.readouterr().err

    with_observer(monkeypatch, AfterStep(3, lambda: images.rename(place / "away")))
    assert main([*arguments, "-o", "all"]) == 4
    err = capsys.readouterr().err
    assert "its folder cannot be reached" in err
    assert "still mounted?; the state is saved; continue with: detrkit resume all" in err
    (place / "away").rename(images)
    (images / "005.png").unlink()
    monkeypatch.undo()
    monkeypatch.chdir(place)
    assert main(["resume", "all"]) == 0
    assert "was begun with 5 training images, now there are 4" in capsys.readouterr().err

    (place / "data" / "annotations" / "instances_train.json").unlink()
    shutil.copy(place / "all" / "epoch_0001.pth", place / "all" / "last.pth")
    assert main(["resume", "all"]) == 4
    assert "Traceback" not in capsys.readouterr().err


def test_errors_of_workers_keep_their_hint() -> None:
    from detrkit.data.loader import _unwrapped

    error = FolderGone("Caught FolderGone in worker.\ndetrkit.data.unreadable.FolderGone: x: gone")
    found = _unwrapped(error)
    assert isinstance(found, FolderGone)
    assert found.message == "x: gone"
    assert "mounted" in (found.hint or "")


@pytest.mark.parametrize(
    ("code", "words"),
    [(-9, "SIGKILL: out of memory"), (-11, "killed by SIGSEGV"), (3, "with exit code 3")],
)
def test_how_a_worker_ended(code: int, words: str) -> None:
    class Process:
        pid, exitcode = 7, code

    found = WorkerLost.among([Process()])  # type: ignore[list-item]
    assert found is not None
    assert words in found.message


# Real disks ------------------------------------------------------------------------------------

#: Runs a program with a disk of its own, of a few MiB, that nobody else sees.
MOUNTED = 'mount -t tmpfs -o size={size} tmpfs "$1" && shift && exec "$@"'


def on_a_disk(folder: Path, size: str, program: str) -> subprocess.CompletedProcess[str]:
    folder.mkdir()
    return subprocess.run(
        [
            *("unshare", "-m", "sh", "-c", MOUNTED.format(size=size), "sh", str(folder)),
            *(sys.executable, "-c", program),
        ],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=120,
    )


@pytest.fixture
def can_mount() -> None:
    found = shutil.which("unshare") and subprocess.run(
        ["unshare", "-m", "true"], capture_output=True
    )
    if not found or found.returncode:
        pytest.skip("only root may mount a small disk")


@pytest.mark.usefixtures("can_mount")
def test_a_small_disk_and_a_read_only_one(tmp_path: Path) -> None:
    program = f"""
import subprocess, torch
from pathlib import Path
from detrkit.engine.checkpoint import Checkpoint
from detrkit.engine.keeper import Keeper
from detrkit.engine.observers import CSVLog, JSONLog
from detrkit.engine.run_dir import RunDirectory
from detrkit.errors import DetrkitError

folder = Path({str(tmp_path / "disk")!r})
keeper = Keeper(RunDirectory(folder))
keeper.save_last(Checkpoint(model={{"w": torch.zeros(10)}}))
try:
    keeper.save_last(Checkpoint(model={{"w": torch.zeros(1_000_000)}}))
except DetrkitError as error:
    print(error.message)
kept = Checkpoint.load(keeper.directory.last).weights["w"]
print(len(kept), [p.name for p in folder.iterdir()])
subprocess.run(["mount", "-o", "remount,ro", str(folder)], check=True)
for attempt in (lambda: keeper.save_last(Checkpoint()), lambda: RunDirectory.open(folder)):
    try:
        attempt()
    except DetrkitError as error:
        print(error.message)
"""
    done = on_a_disk(tmp_path / "disk", "2m", program)
    assert done.returncode == 0, done.stderr
    full, kept, unwritable, closed = done.stdout.splitlines()
    assert "last.pth: no space left (3.81 MiB are needed, " in full
    assert "MiB are free" in full
    assert kept == "10 ['last.pth']"
    assert "last.pth: no permission, or a read-only file system" in unwritable
    assert "disk: no permission, or a read-only file system" in closed
