"""What the machine offers to this process: cores, memory, shared memory, disk, open files.

A container or a batch system often gives less than the machine has. Where the system says so
(CPU affinity, control groups), the smaller number counts. What a system does not tell is None.
"""

from __future__ import annotations

import contextlib
import ctypes
import math
import os
import platform
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

#: Numbers above this in a control group mean "no limit".
_NO_LIMIT = 1 << 60


@dataclass(frozen=True)
class Machine:
    """Sizes in bytes.

    Attributes:
        cores: cores that this process may use, at least 1.
        installed_cores: of the machine.
        cpu: the processor's name.
        cpu_flags: instruction sets by the system's names, such as `avx512_bf16`; empty where it
            does not tell.
        memory: installed.
        memory_limit: of the control group; None: no limit.
        memory_available: free for new programs, caches counted as free, inside the limit.
        shared_memory, shared_memory_free: of /dev/shm, through which loader workers send batches.
        open_files: most files this process may have open.
        load: programs that wanted to compute, on average over the last minute.
    """

    cores: int = 1
    installed_cores: int = 1
    cpu: str = ""
    cpu_flags: frozenset[str] = frozenset()
    memory: int | None = None
    memory_limit: int | None = None
    memory_available: int | None = None
    shared_memory: int | None = None
    shared_memory_free: int | None = None
    open_files: int | None = None
    load: float | None = None


def look(root: Path = Path("/")) -> Machine:
    """What there is now.

    Args:
        root: where `proc` and `sys` are.
    """
    groups = _control_groups(root)
    installed = os.cpu_count() or 1
    memory, available = _memory(root)
    limit, left = _memory_limit(groups)
    shared = _shared_memory(root)
    name, flags = _cpu(root)
    return Machine(
        cores=max(min(_affinity(installed), _core_quota(groups) or installed), 1),
        installed_cores=installed,
        cpu=name,
        cpu_flags=flags,
        memory=memory,
        memory_limit=limit if memory is None or (limit or 0) < memory else None,
        memory_available=min((n for n in (available, left) if n is not None), default=None),
        shared_memory=shared[0] if shared else None,
        shared_memory_free=shared[1] if shared else None,
        open_files=_open_files(),
        load=os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
    )


def free_space(path: Path) -> int:
    """Bytes that can be written at `path`, or at its nearest folder that exists.

    Raises:
        OSError: the disk does not answer.
    """
    return shutil.disk_usage(existing(path)).free


def existing(path: Path) -> Path:
    """`path`, or the nearest folder above it that exists."""
    path = path.expanduser().absolute()
    return next((place for place in (path, *path.parents) if place.exists()), path)


class PeakMemory:
    """The most memory that this process held since `reset`, as the system counts it.

    Where a peak cannot be forgotten (macOS, Windows), it is the highest since the program began:
    measure what needs little first.
    """

    def __init__(self, root: Path = Path("/")) -> None:
        self._process = root / "proc" / "self"
        self.reset()

    def reset(self) -> None:
        """Forgets the peak, where the system can."""
        if sys.platform == "linux":
            with contextlib.suppress(OSError):
                (self._process / "clear_refs").write_text("5", encoding="ascii")

    def read(self) -> int | None:
        """Bytes; None where the system does not tell."""
        if sys.platform == "win32":
            return _windows_peak()
        if sys.platform == "linux":
            return _kilobytes(_read(self._process / "status"), "VmHWM:")
        import resource

        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def resident_memory(root: Path = Path("/")) -> int:
    """Bytes that this process holds now; 0 where the system does not tell."""
    return _kilobytes(_read(root / "proc" / "self" / "status"), "VmRSS:") or 0


def _affinity(installed: int) -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return installed


def _control_groups(root: Path) -> dict[str, list[Path]]:
    """Controller -> folders of this process's group and those above it, innermost first.

    Version 2 has one tree for all controllers; they stand under "".
    """
    found: dict[str, list[Path]] = {}
    for line in _read(root / "proc" / "self" / "cgroup").splitlines():
        _, _, rest = line.partition(":")
        names, _, path = rest.partition(":")
        parts = [part for part in path.split("/") if part not in ("", "..")]
        mounts = [root / "sys/fs/cgroup" / name for name in names.split(",")]
        if not names:
            mounts.append(root / "sys/fs/cgroup" / "unified")
        for mount in mounts:
            folders = [mount.joinpath(*parts[:n]) for n in range(len(parts), -1, -1)]
            for name in names.split(","):
                found.setdefault(name, []).extend(folders)
    return found


def _core_quota(groups: dict[str, list[Path]]) -> int | None:
    """Whole cores of the tightest limit on computing time, rounded up."""
    shares = []
    for folder in groups.get("", []):
        quota, _, period = _read(folder / "cpu.max").partition(" ")
        shares += _ratio(quota, period)
    for folder in groups.get("cpu", []):
        quota, period = (_read(folder / f"cpu.cfs_{n}_us") for n in ("quota", "period"))
        shares += _ratio(quota, period)
    return max(math.ceil(min(shares)), 1) if shares else None


def _ratio(quota: str, period: str) -> list[float]:
    """[] without a limit, which is -1 or "max"."""
    if not (quota.strip().isdigit() and period.strip().isdigit()) or not int(period):
        return []
    return [int(quota) / int(period)]


def _memory_limit(groups: dict[str, list[Path]]) -> tuple[int | None, int | None]:
    """The tightest limit of a control group, and what is left inside the tightest one."""
    files = [(f, "memory.max", "memory.current") for f in groups.get("", [])]
    files += [
        (f, "memory.limit_in_bytes", "memory.usage_in_bytes") for f in groups.get("memory", [])
    ]
    limits, left = [], []
    for folder, most, used in files:
        limit = _read(folder / most).strip()
        if not limit.isdigit() or int(limit) >= _NO_LIMIT:
            continue
        limits.append(int(limit))
        now = _read(folder / used).strip()
        if now.isdigit():
            cached = _kilobytes(_read(folder / "memory.stat"), "inactive_file", unit=1) or 0
            left.append(max(int(limit) - int(now) + cached, 0))
    return min(limits, default=None), min(left, default=None)


def _memory(root: Path) -> tuple[int | None, int | None]:
    """Installed and available."""
    text = _read(root / "proc" / "meminfo")
    if text:
        return _kilobytes(text, "MemTotal:"), _kilobytes(text, "MemAvailable:")
    if sys.platform == "win32":
        return _windows_memory()
    with contextlib.suppress(OSError, ValueError, AttributeError):
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"), None
    return None, None


def _shared_memory(root: Path) -> tuple[int, int] | None:
    """Size and free bytes of /dev/shm, where torch's workers put batches on Linux."""
    folder = root / "dev" / "shm"
    if not folder.is_dir():
        return None
    with contextlib.suppress(OSError):
        usage = shutil.disk_usage(folder)
        return usage.total, usage.free
    return None


def _cpu(root: Path) -> tuple[str, frozenset[str]]:
    fields: dict[str, str] = {}
    for line in _read(root / "proc" / "cpuinfo").splitlines():
        key, _, value = line.partition(":")
        fields.setdefault(key.strip(), value.strip())
    name = fields.get("model name") or platform.processor() or platform.machine()
    flags = fields.get("flags") or fields.get("Features") or ""
    return name, frozenset(flags.split())


def _open_files() -> int | None:
    try:
        import resource
    except ImportError:  # Windows
        return None
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return None if soft == resource.RLIM_INFINITY else soft


def _read(path: Path) -> str:
    """The text of a small file of the system; empty where it cannot be read."""
    with contextlib.suppress(OSError, UnicodeDecodeError):
        return path.read_text(encoding="utf-8")
    return ""


def _kilobytes(text: str, key: str, unit: int = 1024) -> int | None:
    """The number after `key` in lines of `key number`, in bytes."""
    for words in _words(text):
        if words[0] == key and len(words) > 1 and words[1].isdigit():
            return int(words[1]) * unit
    return None


def _words(text: str) -> Iterator[list[str]]:
    yield from (line.split() for line in text.splitlines() if line.strip())


class _MemoryStatus(ctypes.Structure):
    """Windows' MEMORYSTATUSEX."""

    _fields_ = [
        ("length", ctypes.c_ulong),
        ("load", ctypes.c_ulong),
        *((name, ctypes.c_ulonglong) for name in ("total", "available", "pages", "free_pages")),
        *((name, ctypes.c_ulonglong) for name in ("virtual", "free_virtual", "extended")),
    ]


class _ProcessMemory(ctypes.Structure):
    """Windows' PROCESS_MEMORY_COUNTERS."""

    _fields_ = [
        ("size", ctypes.c_ulong),
        ("faults", ctypes.c_ulong),
        ("peak", ctypes.c_size_t),
        *((f"other_{n}", ctypes.c_size_t) for n in range(7)),
    ]


def _windows_memory() -> tuple[int | None, int | None]:
    status = _MemoryStatus(length=ctypes.sizeof(_MemoryStatus))
    kernel = getattr(ctypes, "windll").kernel32  # noqa: B009  # exists on Windows only
    if not kernel.GlobalMemoryStatusEx(ctypes.byref(status)):
        return None, None
    return status.total, status.available


def _windows_peak() -> int | None:
    counters = _ProcessMemory(size=ctypes.sizeof(_ProcessMemory))
    kernel = getattr(ctypes, "windll").kernel32  # noqa: B009
    kernel.GetCurrentProcess.restype = ctypes.c_void_p
    process = ctypes.c_void_p(kernel.GetCurrentProcess())
    ok = kernel.K32GetProcessMemoryInfo(process, ctypes.byref(counters), counters.size)
    return counters.peak if ok else None
