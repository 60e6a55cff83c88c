"""Which run `--auto-resume` continues, and that nobody else writes to its folder."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from detrkit.engine.checkpoint import Checkpoint
from detrkit.engine.earlier_run import find_earlier_run
from detrkit.engine.run_dir import RunDirectory
from detrkit.errors import UsageError, WeightsError
from tests.conftest import REPOSITORY

ASKED = {"config": "tiny.yml", "epochs": 4, "device": "cuda", "workers": 4}


def make_run(folder: Path, epoch: int | None, **arguments: object) -> Path:
    """A folder with the arguments and, unless None, a checkpoint after `epoch` of 4 epochs."""
    folder.mkdir(parents=True)
    (folder / "args.json").write_text(json.dumps({**ASKED, **arguments}))
    if epoch is not None:
        Checkpoint(
            model={"w": torch.zeros(1)}, config={"epochs": 4}, position={"epoch": epoch}
        ).save(folder / "last.pth")
    return folder


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path / "runs"


def found(output: str | None = None) -> tuple[str, int | None, bool] | None:
    """Folder, epoch, and whether it is finished."""
    run = find_earlier_run("tiny", output, dict(ASKED))
    if run is None:
        return None
    epoch = run.checkpoint.position["epoch"] if run.checkpoint else None
    return run.directory.path.name, epoch, run.is_finished


def test_there_is_none(runs: Path) -> None:
    assert found() is None
    assert found("nothing") is None


def test_the_latest_unfinished_run_of_the_same_command(runs: Path) -> None:
    make_run(runs / "tiny-1", 2)
    make_run(runs / "tiny-2", 1, device="cpu", workers=0)  # says where, not what
    make_run(runs / "tiny-3", 3, epochs=50)
    make_run(runs / "tiny-10", 4)  # finished
    make_run(runs / "tiny-big-1", 1)
    make_run(runs / "tiny-11", 1, update=["a=b"])
    assert found() == ("tiny-2", 1, False)


def test_one_that_ended_before_its_first_checkpoint_begins_again_in_its_folder(
    runs: Path,
) -> None:
    make_run(runs / "tiny-1", None)
    assert found() == ("tiny-1", None, False)


def test_a_named_folder_is_continued_whatever_it_was_begun_with(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = make_run(tmp_path / "mine", 2, epochs=50)
    assert found(str(folder)) == ("mine", 2, False)
    assert "the command has changed since: epochs 50 -> 4" in caplog.text
    make_run(tmp_path / "done", 4)
    assert found(str(tmp_path / "done")) == ("done", 4, True)
    (tmp_path / "empty").mkdir()
    assert found(str(tmp_path / "empty")) == ("empty", None, False)


def test_a_folder_of_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "letter.txt").write_text("Dear")
    with pytest.raises(UsageError, match="is not the folder of a run"):
        found(str(tmp_path))


def test_a_damaged_checkpoint_is_told(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "mine", 2)
    (folder / "last.pth").write_bytes(b"half")
    with pytest.raises(WeightsError, match="damaged"):
        found(str(folder))


def test_a_run_in_progress_is_left_alone(runs: Path) -> None:
    """Also one of another process; its lock ends with it."""
    folder = make_run(runs / "tiny-1", 2)
    program = (
        "import sys; from detrkit.engine.run_dir import RunDirectory; from pathlib import Path\n"
        f"lock = RunDirectory(Path({str(folder)!r})).locked(); lock.__enter__()\n"
        "print('locked', flush=True); sys.stdin.read()"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program],
        cwd=REPOSITORY,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "locked\n"
    assert found() is None
    with (
        pytest.raises(UsageError, match="another process is training in"),
        RunDirectory(folder).locked(),
    ):
        pass
    process.kill()
    process.communicate()
    assert found() == ("tiny-1", 2, False)
    with RunDirectory(folder).locked():
        pass
