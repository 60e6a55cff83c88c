"""What a machine offers, read from made-up /proc and /sys trees."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from detrkit.engine import machine
from detrkit.engine.machine import existing, free_space, look

GIB = 1 << 30

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="Linux tells all of this")


def tree(root: Path, **files: str) -> Path:
    """Writes files; `__` in a name is a slash."""
    for name, text in files.items():
        path = root / name.replace("__", "/").replace("_dot_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return root


MEMINFO = "MemTotal: 16777216 kB\nMemFree: 1 kB\nMemAvailable: 8388608 kB\n"


@pytest.fixture(autouse=True)
def eight_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))


def test_a_plain_machine(tmp_path: Path) -> None:
    cpu = "processor : 0\nmodel name : Quick 9000\nflags : avx2 avx512_bf16\nprocessor : 1\n"
    found = look(tree(tmp_path, proc__meminfo=MEMINFO, proc__cpuinfo=cpu))
    assert (found.memory, found.memory_available) == (16 * GIB, 8 * GIB)
    assert found.memory_limit is None
    assert (found.cores, found.installed_cores) == (8, 8)
    assert found.cpu == "Quick 9000"
    assert "avx512_bf16" in found.cpu_flags
    assert found.shared_memory is None


def test_affinity_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 5, 6})
    assert look(tree(tmp_path, proc__meminfo=MEMINFO)).cores == 3


def test_control_groups_of_version_2(tmp_path: Path) -> None:
    """The tightest of the group and those above it; caches that can go are free."""
    root = tree(tmp_path, proc__meminfo=MEMINFO, proc__self__cgroup="0::/jobs/mine\n")
    group = root / "sys/fs/cgroup/jobs/mine"
    tree(group, cpu_dot_max="150000 100000", memory_dot_max="max")
    tree(
        group.parent,
        cpu_dot_max="max 100000",
        memory_dot_max=str(4 * GIB),
        memory_dot_current=str(3 * GIB),
        memory_dot_stat=f"anon 5\ninactive_file {GIB}\n",
    )
    found = look(root)
    assert found.cores == 2
    assert found.memory_limit == 4 * GIB
    assert found.memory_available == 2 * GIB


def test_control_groups_of_version_1(tmp_path: Path) -> None:
    """Inside a container the path of the group is not there, only the top is."""
    groups = "5:cpu,cpuacct:/docker/ab\n4:memory:/docker/ab\n0::/\n"
    root = tree(tmp_path, proc__meminfo=MEMINFO, proc__self__cgroup=groups)
    tree(root / "sys/fs/cgroup/cpu", cpu_dot_cfs_quota_us="400000", cpu_dot_cfs_period_us="100000")
    tree(
        root / "sys/fs/cgroup/memory",
        memory_dot_limit_in_bytes=str(2 * GIB),
        memory_dot_usage_in_bytes=str(GIB),
    )
    found = look(root)
    assert found.cores == 4
    assert found.memory_limit == 2 * GIB
    assert found.memory_available == GIB


@pytest.mark.parametrize("limit", ["max", "9223372036854771712", "", "nonsense"])
def test_no_limit(tmp_path: Path, limit: str) -> None:
    root = tree(tmp_path, proc__meminfo=MEMINFO, proc__self__cgroup="0::/\n")
    tree(root / "sys/fs/cgroup", memory_dot_max=limit, cpu_dot_max="max 100000")
    found = look(root)
    assert found.memory_limit is None
    assert found.memory_available == 8 * GIB
    assert found.cores == 8


def test_a_limit_above_the_memory_is_none(tmp_path: Path) -> None:
    root = tree(tmp_path, proc__meminfo=MEMINFO, proc__self__cgroup="0::/\n")
    tree(root / "sys/fs/cgroup", memory_dot_max=str(64 * GIB))
    assert look(root).memory_limit is None


def test_nothing_can_be_read(tmp_path: Path) -> None:
    found = look(tmp_path)
    assert found.cores == 8
    assert found.memory_available is None


def test_shared_memory_is_a_disk(tmp_path: Path) -> None:
    (tmp_path / "dev" / "shm").mkdir(parents=True)
    found = look(tmp_path)
    assert found.shared_memory is not None
    assert 0 < (found.shared_memory_free or 0) <= found.shared_memory


def test_the_peak_rises_and_is_forgotten() -> None:
    """In a process of its own: in this one other tests' memory comes back at any time."""
    program = """
from detrkit.engine.machine import PeakMemory
peak = PeakMemory()
before = peak.read()
block = bytearray(64 << 20)
block[::4096] = b"x" * len(block[::4096])
during = peak.read()
del block
peak.reset()
print(before, during, peak.read())
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)
    before, during, after = map(int, done.stdout.split())
    assert during >= before + (60 << 20)
    assert after < during


def test_this_machine() -> None:
    found = look()
    assert found.cores >= 1
    assert found.memory
    assert machine.resident_memory() > 1 << 20


def test_free_space_of_a_folder_to_be(tmp_path: Path) -> None:
    assert existing(tmp_path / "a" / "b") == tmp_path
    assert free_space(tmp_path / "a" / "b") > 0
