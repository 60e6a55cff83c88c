"""Loader processes and signals."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from detrkit.data import Compose, DetectionDataset, build_loader
from detrkit.data.coco import read_coco
from detrkit.data.images import read_image
from detrkit.data.workers import WorkerLost, start_worker
from tests.conftest import REPOSITORY
from tests.data.conftest import CocoMaker, box
from tests.data.test_dataset import images

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="signals say who sent them")

COUNT = 24

#: Loads an epoch and a part of the next, and counts the signals that come with the first batch.
PROGRAM = """
import signal, sys, time
from detrkit.data import BatchImageCollateFunction, Compose, DetectionDataset, build_loader
from detrkit.data.coco import read_coco

signals = []
for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, lambda number, _: signals.append(number))
data = DetectionDataset(read_coco(sys.argv[1]), Compose([{"type": "Resize", "size": [32, 32]}]))
loader = build_loader(data, batch_size=2, shuffle=True, num_workers=2)
count = 0
for epoch in range(2):
    loader.set_epoch(epoch)
    for batch in loader:
        count += len(batch)
        if count == 2:
            print("loading", flush=True)
            until = time.monotonic() + 60
            while len(signals) < 2 and time.monotonic() < until:
                time.sleep(0.01)
        if epoch == 1:
            print(count, len(signals))
            sys.exit(3)
"""


@pytest.fixture
def path(make_coco: CocoMaker) -> Path:
    return make_coco([box(i + 1, image=i) for i in range(COUNT)], images(COUNT))


def start(path: Path) -> subprocess.Popen[str]:
    """The program in a process group of its own, in the middle of its first epoch."""
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(path)],
        env={**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "loading\n", process.communicate()
    return process


def members(group: int) -> list[int]:
    """Processes of a group that have not ended."""
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                fields = (folder / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            if int(fields[2]) == group and fields[0] not in "ZX":
                found.append(int(folder.name))
    return found


def test_signals_to_the_group_reach_the_main_process_only(path: Path) -> None:
    """It finishes what it wants to; then it leaves in the middle, quietly and with its workers."""
    process = start(path)
    assert len(members(process.pid)) >= 3
    os.killpg(process.pid, signal.SIGTERM)
    os.killpg(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=200)
    assert (out, err, process.returncode) == (f"{COUNT + 2} 2\n", "", 3)
    assert members(process.pid) == []


@pytest.mark.slow
def test_workers_do_not_outlive_a_killed_main_process(path: Path) -> None:
    process = start(path)
    process.kill()
    process.communicate()
    until = time.monotonic() + 60
    while members(process.pid):
        assert time.monotonic() < until
        time.sleep(0.1)


def _serve(ready: multiprocessing.synchronize.Event) -> None:
    start_worker(0)
    ready.set()
    time.sleep(60)


@pytest.mark.parametrize("batches", [1, COUNT // 2])
def test_a_worker_that_is_killed(path: Path, batches: int) -> None:
    """In an epoch and between two; noticed where the next batch is waited for, not before."""
    data = DetectionDataset(read_coco(path), Compose([{"type": "Resize", "size": [32, 32]}]))
    loader = build_loader(data, batch_size=2, shuffle=True, num_workers=2)
    before = signal.getsignal(signal.SIGCHLD)
    for _ in zip(range(batches), loader, strict=False):
        pass
    (worker, *_) = loader._workers()
    assert worker.pid is not None
    os.kill(worker.pid, signal.SIGKILL)
    worker.join(10)
    assert signal.getsignal(signal.SIGCHLD) is before
    with pytest.raises(
        WorkerLost, match=f"{worker.pid}.* killed by SIGKILL: out of memory"
    ) as found:
        list(loader)
    assert "--workers" in (found.value.hint or "")


def test_the_parent_can_end_a_worker_and_others_cannot() -> None:
    context = multiprocessing.get_context("fork")
    ready = context.Event()
    process = context.Process(target=_serve, args=(ready,), daemon=True)
    process.start()
    assert ready.wait(30)
    for name in ("INT", "TERM"):
        subprocess.run(["kill", f"-{name}", str(process.pid)], check=True)
    process.join(0.5)
    assert process.is_alive()
    process.terminate()
    process.join(30)
    assert process.exitcode == 0


def test_a_jpeg_with_slight_damage_is_read_in_silence(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    from PIL import Image

    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    file = tmp_path / "x.jpg"
    Image.fromarray(noise).save(file, restart_marker_blocks=1)
    data = file.read_bytes()
    at = data.index(b"\xff\xd3")
    file.write_bytes(data[:at] + b"\x00" * 9 + data[at:])  # bytes that belong to nothing
    assert read_image(file).shape == (3, 64, 64)
    print("seen", file=sys.stderr)
    assert capfd.readouterr().err == "seen\n"
