"""Where a benchmark ran: machine, clocks, versions, and who else was computing. No torch."""

from __future__ import annotations

import importlib.metadata
import os
import shutil
import subprocess
import time
from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from detrkit.engine.machine import Machine, look
from detrkit.engine.run_dir import counting_environment
from detrkit.words import count, share

#: Programs whose versions decide about speed.
_PACKAGES = ("torch", "onnxruntime", "onnxruntime-gpu", "openvino", "tensorrt")

#: What nvidia-smi tells of each GPU.
_GPU_FIELDS = (
    "name", "driver_version", "clocks.sm", "clocks.max.sm", "clocks.mem", "power.limit",
    "temperature.gpu", "persistence_mode",
)  # fmt: skip

#: What other programs do to the numbers: a thread that is late keeps the others waiting.
_DOUBTFUL = "times are too long, and ratios hold for one thread only (--threads 1)"

#: Share of the cores that others may use before the times are called doubtful.
BUSY = 0.1


def setting(root: Path = Path("/")) -> dict[str, Any]:
    """Now. Where the system does not tell, a value is None or a list empty."""
    machine = look(root)
    return {
        **counting_environment(),
        "time": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "versions": _versions(),
        "cpu": machine.cpu,
        "cores": machine.cores,
        "memory": machine.memory,
        "governor": _governor(root),
        "mhz": _clocks(root),
        "load": machine.load,
        "gpus": _gpus(),
    }


def busy_before(machine: Machine) -> str | None:
    """Says so where the machine has other things to do."""
    if machine.load is None or machine.load <= BUSY * machine.cores:
        return None
    return (
        f"the machine is busy: a load of {machine.load:.1f} on {count(machine.cores, 'core')} "
        f"over the last minute; {_DOUBTFUL}"
    )


class Others:
    """Counts what other programs compute on this machine; Linux only.

    Args:
        root: where `proc` is.
    """

    def __init__(self, root: Path = Path("/")) -> None:
        self._file = root / "proc" / "stat"
        self._busy, self._started = self._seconds(), time.perf_counter()

    def share(self, own: Sequence[float]) -> float | None:
        """Their share of all cores since the beginning; None where the system does not tell.

        Args:
            own: seconds of CPU time that this program's processes took since then.
        """
        now, busy = time.perf_counter(), self._seconds()
        if busy is None or self._busy is None:
            return None
        cores = os.cpu_count() or 1
        others = busy - self._busy - sum(own)
        return max(others, 0.0) / max((now - self._started) * cores, 1e-9)

    def _seconds(self) -> float | None:
        """CPU time that all programs ever took."""
        try:
            fields = self._file.read_text(encoding="ascii").split("\n", 1)[0].split()[1:]
            user, nice, system, _, _, irq, soft, steal = (int(f) for f in fields[:8])
        except (OSError, ValueError):
            return None
        ticks = user + nice + system + irq + soft + steal
        return ticks / os.sysconf("SC_CLK_TCK")


def busy_meanwhile(others: float | None) -> str | None:
    """Says so where others computed while the candidates were measured."""
    if others is None or others <= BUSY:
        return None
    return (
        f"other programs took {share(others, 1)} of the machine's cores while this was measured; "
        f"{_DOUBTFUL}"
    )


def _versions() -> dict[str, str]:
    found = {}
    for name in _PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def _governor(root: Path) -> str | None:
    """How the clock of the first core is chosen: "performance", "powersave", …"""
    return _read(root / "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")


def _clocks(root: Path) -> list[float]:
    """MHz of each core."""
    lines = (_read(root / "proc/cpuinfo") or "").splitlines()
    return [float(line.split(":")[1]) for line in lines if line.startswith("cpu MHz")]


def _gpus() -> list[dict[str, str]]:
    """What nvidia-smi says; [] without it."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return []
    query = f"--query-gpu={','.join(_GPU_FIELDS)}"
    try:
        done = subprocess.run(
            [program, query, "--format=csv,noheader"],
            capture_output=True, text=True, timeout=20, check=True,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return []
    rows = [line.split(", ") for line in done.stdout.splitlines() if line.strip()]
    return [dict(zip(_GPU_FIELDS, row, strict=False)) for row in rows]


def _read(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError):
        return None
