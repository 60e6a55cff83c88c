"""A run that is killed anywhere and resumed ends with the bits of one that never stopped."""

from __future__ import annotations

import csv
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from detrkit.engine.checkpoint import Checkpoint
from tests.conftest import REPOSITORY
from tests.engine.tiny_data import write_smallest
from tests.engine.toy import equal

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="forks and kills")

TRAIN = ("train", "tiny.yml", "--data", "data")

#: What can be hit, and how often each happens at least in a whole run.
EVENTS = {"create": 20, "save": 14, "sync": 40, "rename": 20, "renamed": 20}

Kill = float | tuple[str, int]


@dataclass
class Server:
    """Commands in forked processes, see `tests.engine.kill_server`."""

    folder: Path
    log: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        write_smallest(self.folder, REPOSITORY)
        self.process = subprocess.Popen(
            [
                *(sys.executable, "-W", "ignore", "-m", "tests.engine.kill_server"),
                str(self.folder),
            ],
            env={**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._answer() == "ready"

    def run(self, *arguments: str, kill: Kill | None = None) -> int:
        """Runs a command.

        Args:
            kill: seconds after which its group is killed, or the event at which it does so.

        Returns:
            The exit code; -9 when it was killed.
        """
        output = self.folder / "out.txt"
        output.write_text("")
        request: dict[str, Any] = {
            "arguments": arguments,
            "output": str(output),
        }
        if isinstance(kill, tuple):
            request["kill"] = kill
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        child = int(self._answer())
        if isinstance(kill, float):
            time.sleep(kill)
            with suppress(ProcessLookupError):  # it has ended, or is no group of its own yet
                os.killpg(child, signal.SIGKILL)
        code = int(self._answer())
        self.log = output.read_text().splitlines()
        return code

    def _answer(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def train(self, name: str, workers: int, kill: Kill | None = None) -> int:
        """Begins the run `name`, or goes on with it."""
        more = ("--output", name, "--auto-resume", "--workers", str(workers))
        return self.run(*TRAIN, *more, kill=kill)

    def resume(self, name: str, kill: Kill | None = None) -> int:
        """`detrkit resume`; where nothing was saved yet, it must say so."""
        if (self.folder / name / "last.pth").exists():
            return self.run("resume", name, kill=kill)
        assert self.run("resume", name) == 2
        begun = (self.folder / name).exists()
        assert ("nothing was saved yet" if begun else "no run at") in self.log[0]
        return self.train(name, 0, kill)

    def close(self) -> None:
        """Ends the server."""
        self.process.communicate("null\n")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """With the run `whole`, which nothing disturbed."""
    made = Server(tmp_path_factory.mktemp("kills"))
    assert made.run(*TRAIN, "--output", "whole") == 0, made.log
    yield made
    made.close()


@pytest.fixture(scope="module")
def whole(server: Server) -> dict[str, Any]:
    return content(server.folder / "whole")


def content(folder: Path) -> dict[str, Any]:
    """All that a run leaves, without times."""
    last, best = Checkpoint.load(folder / "last.pth"), Checkpoint.load(folder / "best.pth")
    rows = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    with (folder / "results.csv").open(encoding="utf-8", newline="") as file:
        table = list(csv.DictReader(file))
    return {
        "model": last.model,
        "ema": last.ema,
        "optimizer": last.optimizer,
        "position": {k: v for k, v in last.position.items() if "seconds" not in k},
        "best": best.weights,
        "metrics": best.metrics,
        "stage 1": Checkpoint.load(folder / "best_stg1.pth").model,
        "log": [_timeless(row) for row in rows],
        "table": [_timeless(row) for row in table],
        "files": sorted(
            str(path.relative_to(folder))
            for path in folder.rglob("*")
            if not path.name.startswith("events.out")
        ),
    }


def _timeless(row: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in row.items() if not name.startswith("resources/")}


def check(server: Server, name: str, whole: dict[str, Any], kills: object) -> None:
    """The finished run `name` equals the whole one."""
    found = content(server.folder / name)
    differing = [key for key in whole if not equal(whole[key], found[key])]
    files = set(found["files"]) ^ set(whole["files"])
    assert not differing, (differing, kills, files)


def finish(server: Server, name: str, workers: int, kills: list[Kill]) -> int:
    """Begins a run and resumes it, once for each of `kills`, then to the end.

    Returns:
        How many of the kills hit.
    """
    hit = 0
    for number, kill in enumerate([*kills, None]):
        code = server.resume(name, kill) if number else server.train(name, workers, kill)
        if code == 0 or (code == 2 and "is finished" in server.log[0]):
            break  # the last kill may have hit behind the end
        assert (code, kill is None) == (-signal.SIGKILL, False), (kills, server.log)
        hit += 1
    return hit


def test_a_few_kills(server: Server, whole: dict[str, Any]) -> None:
    """As the run begins, in its first checkpoint, and later while and after one is written."""
    kills: list[Kill] = [("rename", 1), ("save", 1), ("save", 6), ("renamed", 10)]
    assert finish(server, "few", 2, kills) == len(kills)
    check(server, "few", whole, kills)


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("workers", [0, 2])
def test_kills_at_random_points(server: Server, whole: dict[str, Any], workers: int) -> None:
    """25 kills for each number of workers: half at any time, half while something is written."""
    begun = time.monotonic()
    assert server.train(f"undisturbed-{workers}", workers) == 0
    seconds = time.monotonic() - begun
    check(server, f"undisturbed-{workers}", whole, ())
    rng, hit, number = random.Random(workers), 0, 0
    while hit < 25:
        kills: list[Kill] = []
        for _ in range(5):
            event = rng.choice(list(EVENTS))
            at = (event, rng.randint(1, EVENTS[event]))
            kills.append(rng.choice([at, rng.uniform(0.1, seconds)]))
        number += 1
        name = f"random-{workers}-{number}"
        hit += finish(server, name, workers, kills)
        check(server, name, whole, kills)
