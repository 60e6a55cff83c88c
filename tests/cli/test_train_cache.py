"""`--cache` and `--cache-size` of `train`, `tune` and `resume`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from detrkit.config import load_config
from detrkit.engine import picture_cache
from detrkit.engine.checkpoint import Checkpoint
from detrkit.engine.machine import Machine
from detrkit.engine.trainer import Trainer
from detrkit.engine.training import _moved_cache
from tests.cli.test_train import content, run
from tests.conftest import REPOSITORY
from tests.engine.tiny_data import write_coco, write_config
from tests.engine.toy import equal

TRAIN = ("train", "tiny.yml", "--data", "data", "--epochs", "2")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `data/` and `tiny.yml`, and in `plain/` a run without a cache."""
    folder = tmp_path_factory.mktemp("cache")
    write_coco(folder / "data", train=5, val=2)
    write_config(folder, REPOSITORY)
    assert run(folder, *TRAIN, "--output", "plain") == 0
    return folder


@pytest.fixture(autouse=True)
def cache_folder(place: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DETRKIT_CACHE", str(place / "cache"))
    return place / "cache"


@pytest.mark.parametrize("kind", ["ram", "disk"])
def test_a_cache_changes_nothing(
    place: Path, kind: str, cache_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(place, *TRAIN, "--cache", kind, "--output", kind, "-j", "1") == 0
    err = capsys.readouterr().err
    where = {"ram": "memory", "disk": str(cache_folder / "pictures")}[kind]
    err = err.replace("\n", "")
    assert f"5 training images lie decoded in {where}" in err
    assert f"2 validation images lie decoded in {where}" in err
    assert equal(content(place / "plain"), content(place / kind))
    assert len(list(cache_folder.rglob("*.pixels"))) == (2 if kind == "disk" else 0)


def test_resume_keeps_the_cache_and_the_size(
    place: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    shrunk = (*TRAIN, "--cache", "ram", "--cache-size", "40")
    assert run(place, *shrunk, "--output", "small") == 0
    assert "cache_imgsz 40 is below the model's input of 64" in capsys.readouterr().err

    finish = Trainer.finish_epoch

    def once(trainer: Trainer, *arguments: object) -> None:
        finish(trainer, *arguments)  # type: ignore[arg-type]
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "finish_epoch", once)
        assert run(place, *shrunk, "--output", "half") == 130
    assert run(place, "resume", "half", "--cache", "off") == 2
    assert "trains on images of at most 40 pixels" in capsys.readouterr().err
    assert run(place, "resume", "half", "--cache", "disk") == 0
    assert "5 training images lie decoded in /" in capsys.readouterr().err
    assert equal(content(place / "small"), content(place / "half"))
    assert not equal(content(place / "plain")["model"], content(place / "half")["model"])
    config = Checkpoint.load(place / "half" / "last.pth").config
    assert config is not None
    assert (config["ram_cache"], config["disk_cache"]) == (False, True)
    assert config["cache_imgsz"] == 40


def test_resume_may_add_a_cache_of_full_size(place: Path) -> None:
    """Also where the file has a `cache_imgsz`, which without a cache meant nothing."""
    cfg = load_config(place / "tiny.yml", update=["cache_imgsz=40"])
    assert _moved_cache(cfg, "ram") == {
        "ram_cache": True, "disk_cache": False, "cache_imgsz": None,
    }  # fmt: skip
    cfg = load_config(place / "tiny.yml", update=["disk_cache=/fast", "cache_imgsz=40"])
    assert _moved_cache(cfg, "disk") == {
        "ram_cache": False, "disk_cache": "/fast", "cache_imgsz": 40,
    }  # fmt: skip


def test_a_folder_for_the_cache(place: Path, cache_folder: Path) -> None:
    before = set(cache_folder.rglob("*"))
    arguments = ["-u", "disk_cache=fast", "--epochs", "1", "--output", "folder"]
    assert run(place, *TRAIN[:-2], *arguments) == 0
    assert len(list((place / "fast").rglob("*.pixels"))) == 2
    assert set(cache_folder.rglob("*")) == before
    config = Checkpoint.load(place / "folder" / "last.pth").config
    assert config is not None
    assert config["disk_cache"] == str(place / "fast")


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["--cache", "gpu"], 2, "choose ram, disk or off"),
        (["--cache-size", "320"], 2, "--cache-size without a cache"),
        (["--cache", "off", "--cache-size", "320"], 2, "--cache-size without a cache"),
        (["--cache", "ram", "--cache-size", "9"], 2, "--cache-size must be at least 32"),
        (["-u", "ram_cache=true", "-u", "cache_imgsz=9"], 3, "at least 32 pixels"),
        (["-u", "ram_cache=true", "-u", "disk_cache=true"], 3, "both on"),
        (["-u", "ram_cache=yes please"], 3, "ram_cache"),
        (["-u", "disk_cache=tiny.yml"], 4, "cannot keep pictures in"),
    ],
)
def test_mistakes(
    place: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], code: int, words: str
) -> None:
    assert run(place, *TRAIN, *arguments) == code
    err = capsys.readouterr().err
    assert words in err
    assert "Traceback" not in err
    assert not (place / "runs").exists()  # a failed start leaves no folder


def test_what_does_not_fit_is_refused_with_numbers(
    place: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    free = picture_cache.MEMORY_RESERVE[0] + 5 * 50 * 50 * 3
    monkeypatch.setattr(picture_cache, "look", lambda: Machine(cores=1, memory_available=free))
    assert run(place, *TRAIN, "--cache", "ram") == 4
    err = capsys.readouterr().err
    assert "5 decoded images need 60 KiB of 2 GiB free memory, 2 GiB of it kept" in err
    assert "--cache-size 32 would fit, or --cache disk" in err
    assert not (place / "runs").exists()


def test_validation_images_that_do_not_fit_are_left_out(
    place: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    rooms = iter([5 * 64 * 64 * 3, 2 * 64 * 64 * 3 - 1])
    monkeypatch.setattr(picture_cache, "memory_room", lambda: picture_cache.Room(next(rooms)))
    assert run(place, *TRAIN, "--cache", "ram", "--output", "left") == 0
    assert "validation images are not cached: 2 decoded images need" in capsys.readouterr().err
    assert equal(content(place / "plain"), content(place / "left"))


def test_settings_of_other_forks_load(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """They write `cache_imgsz` always, and mean it only with `ram_cache`."""
    arguments = ["-u", "ram_cache=false", "-u", "cache_imgsz=32", "--output", "fork", "--json"]
    assert run(place, *TRAIN, *arguments) == 0
    captured = capsys.readouterr()
    assert json.loads(captured.out)["directory"] == "fork"
    assert "decoded" not in captured.err
    assert equal(content(place / "plain"), content(place / "fork"))
