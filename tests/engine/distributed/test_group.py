"""Processes meet, exchange values, agree, and speak with one voice."""

from __future__ import annotations

import logging
import os
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch

from detrkit.engine.distributed import meeting
from detrkit.engine.distributed.agreement import Agreement
from detrkit.engine.distributed.group import (
    barrier,
    copy_from_main,
    device_of,
    gathered,
    is_main,
    mean,
    own_device,
    rank,
    shared,
    together,
    world_size,
)
from detrkit.engine.distributed.launch import LOST, WATCHED
from detrkit.engine.distributed.meeting import agreed, meet, told
from detrkit.engine.distributed.place import Place, find_place
from detrkit.errors import DataError, Interrupted, OtherProcessFailed, UsageError
from tests.engine.distributed.processes import in_processes


def exchange() -> dict[str, Any]:
    """Everything that travels between processes."""
    own = torch.tensor([float(rank())] * 2)
    tensors = [own.clone(), torch.tensor(rank() == 0), torch.full((2, 3), rank())]
    copy_from_main(tensors)
    agreement = Agreement()
    wishes = [(rank() == 1, True), (False, True), (False, False), (False, False)]
    found: dict[str, Any] = {
        "place": (rank(), world_size(), is_main()),
        "shared": shared(lambda: {"from": rank()}),
        "gathered": gathered(rank() * 10),
        "mean": mean(own.clone()).tolist(),
        "copied": [tensor.tolist() for tensor in tensors],
        "told": [told(name, lambda name=name: f"{name} {rank()}") for name in ("a", "b")],
        "wishes": [agreement(*wish) for wish in wishes],
        "nested": str(own_device("cpu")),
    }
    agreement.settle()
    barrier()
    return found


@pytest.mark.parametrize("count", [2, 4])
def test_exchange(count: int) -> None:
    for number, found in enumerate(in_processes(count, exchange)):
        assert found["place"] == (number, count, number == 0)
        assert found["shared"] == {"from": 0}
        assert found["gathered"] == (None if number else [10 * n for n in range(count)])
        assert found["mean"] == [(count - 1) / 2] * 2
        assert found["copied"] == [[0.0, 0.0], True, [[0] * 3] * 2]
        assert found["told"] == ["a 0", "b 0"]
        # one call late; what is on its way is not sent again
        assert found["wishes"] == [(False, False), (True, True), (False, False), (False, False)]


def test_a_single_process_does_nothing() -> None:
    assert (rank(), world_size(), is_main()) == (0, 1, True)
    assert shared(lambda: 3) == 3
    assert gathered(3) == [3]
    assert mean(torch.tensor(3.0)) == 3
    assert told("a", lambda: "b") == "b"
    assert Agreement()(True, False) == (True, False)
    copy_from_main([torch.ones(1)])
    barrier()
    with together("cpu") as device, meet() as place:
        assert (str(device), place) == ("cpu", Place())
        assert not torch.distributed.is_initialized()


# One voice -------------------------------------------------------------------------------------


def fail(kind: str) -> None:
    """Fails as `kind` says and returns what the command line would get."""
    barrier()
    if kind == "one" and rank() == 1:
        raise DataError("image 7 is bad")
    if kind == "all":
        raise DataError("no such folder")
    if kind == "agreed":
        time.sleep(0.2 * (rank() == 0))  # the others are first
        raise agreed(Interrupted("stopped"))
    if kind in ("dead", "dead and watched") and rank() == 1:
        os._exit(9)
    if kind == "dead and watched":
        os.environ[WATCHED] = "1"
    barrier()
    mean(torch.zeros(1))


def test_one_process_tells_its_error() -> None:
    first, second, third = in_processes(3, fail, "one")
    assert isinstance(second, DataError)
    for other in (first, third):
        assert isinstance(other, OtherProcessFailed)
        assert other.exit_code == DataError.exit_code


def test_one_of_all_tells_the_error_of_all() -> None:
    kinds = [type(error) for error in in_processes(3, fail, "all")]
    assert sorted(kind.__name__ for kind in kinds) == [
        "DataError", "OtherProcessFailed", "OtherProcessFailed",
    ]  # fmt: skip


def test_the_main_process_tells_what_all_agreed_on() -> None:
    first, second = in_processes(2, fail, "agreed")
    assert isinstance(first, Interrupted)
    assert isinstance(second, OtherProcessFailed)
    assert second.exit_code == 130


def test_a_death_is_noticed() -> None:
    first, second = in_processes(2, fail, "dead")
    assert second == 9
    assert "lost the connection to another process" in str(first)


def test_a_launcher_knows_more_about_a_death() -> None:
    first, _ = in_processes(2, fail, "dead and watched")
    assert isinstance(first, OtherProcessFailed)
    assert first.exit_code == LOST


def log_lines() -> list[str]:
    """What reaches the log of a process."""
    lines: list[str] = []

    class Keep(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.append(record.getMessage())

    log = logging.getLogger("detrkit")
    log.addHandler(Keep())
    log.setLevel(logging.INFO)
    log.info("information")
    log.warning("%s: unreadable", "a.jpg", extra={"every_process": True})
    log.warning("of all")
    log.error("error")
    return lines


def test_others_log_only_what_is_theirs() -> None:
    first, second = in_processes(2, log_lines)
    assert first == ["information", "a.jpg: unreadable", "of all", "error"]
    assert second == ["process 1: a.jpg: unreadable", "error"]


def attempt(path: str, delay: float) -> list[str]:
    """Meets in a store that outlives attempts, and leaves something there."""
    place = find_place()
    time.sleep(delay * (place.rank == 0))  # the others look first
    store = torch.distributed.FileStore(path, place.world_size + 99)
    own = meeting._of_this_attempt(store, place)
    stale = [key for key in ("a", "b") if own.check([key])]
    barrier()
    own.set("ab"[place.rank], "left")
    barrier()
    return [*stale, own.get("a").decode()]


def test_an_attempt_does_not_read_what_an_earlier_one_left(tmp_path: Path) -> None:
    path = str(tmp_path / "store")
    torch.distributed.FileStore(path, 1).set("detrkit/ask/1", "of a process that died early")
    for delay in (0.0, 0.3, 0.0):
        assert in_processes(2, attempt, path, delay) == [["left"]] * 2


def test_one_that_never_asks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(meeting, "TIMEOUT", timedelta(seconds=0.1))
    with pytest.raises(RuntimeError, match="without a word: 1, 2"):
        meeting._of_this_attempt(torch.distributed.HashStore(), Place(0, 3, 0, 3, "env://"))


# Devices ---------------------------------------------------------------------------------------


def test_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch, "empty", lambda *_, **__: None)  # choose_device tries it
    second = Place(1, 2, 1, 2, "env://")
    assert str(device_of(second, None, None)) == "cuda:1"
    assert str(device_of(second, "cuda", None)) == "cuda:1"
    assert str(device_of(second, None, [5, 3])) == "cuda:3"
    assert str(device_of(second, "cpu", None)) == "cpu"
    assert str(device_of(Place(), "cuda:1", None)) == "cuda:1"
    assert str(device_of(Place(), None, [1])) == "cuda:1"
    with pytest.raises(UsageError, match="is one device, for 2 processes"):
        device_of(second, "cuda:1", None)
    with pytest.raises(UsageError, match="3 processes on this machine, but 2 GPUs"):
        device_of(Place(2, 3, 2, 3, "env://"), None, None)
    with pytest.raises(UsageError, match="--devices names 1"):
        device_of(second, None, [0])
    with pytest.raises(UsageError, match="cannot share mps"):
        device_of(second, "mps", None)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setenv("SLURM_PROCID", "1")
    assert str(device_of(second, None, None)) == "cuda:0"  # Slurm shows each task its own


def test_others_that_do_not_come(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(meeting, "TIMEOUT", timedelta(seconds=1))
    for name, value in {"RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("MASTER_PORT", "1")
    with pytest.raises(UsageError, match="process 1 of 2 cannot meet the others"), meet():
        pass


def test_joining_within_a_group_of_the_users_own() -> None:
    torch.distributed.init_process_group(
        "gloo", store=torch.distributed.HashStore(), rank=0, world_size=1
    )
    try:
        with together("cpu") as device:
            assert str(device) == "cpu"
        assert torch.distributed.is_initialized()  # not ours to destroy
    finally:
        torch.distributed.destroy_process_group()
