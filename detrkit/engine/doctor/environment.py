"""The machine and what is installed on it.

Each check is a function of plain facts, so that any machine can be put before it. A torch that is
missing or broken is a finding, not a crash: nothing here imports it but `TorchFacts.gather`.
"""

from __future__ import annotations

import locale
import os
import platform
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from detrkit.engine.doctor.packages import (
    FEATURES,
    Feature,
    check_feature,
    check_font,
    check_opencv,
    version_of,
)
from detrkit.engine.doctor.report import Check, Section, guarded, note, ok, problem, warning
from detrkit.engine.doctor.torch_facts import TorchFacts
from detrkit.engine.machine import Machine, existing, free_space, look
from detrkit.words import amount, count

#: Less free memory for batches than this is the default of containers, and soon used up.
LITTLE_SHARED_MEMORY = 1 << 30

#: Loader workers keep a few files open for every batch on its way.
FEW_OPEN_FILES = 1024

#: Share of the cores that others may use before measured times say little.
BUSY = 0.5

#: A run of a small model writes some hundred megabytes of checkpoints.
LITTLE_DISK = 1 << 30


@dataclass
class Environment:
    """What the checks look at; the defaults are this machine.

    Attributes:
        machine: cores, memory, …
        torch: facts, or a function that gathers them.
        variables: environment variables.
        run_folder: where runs will go.
        cache_folder: where downloads and drawn data go.
        version_of: module -> version; raises ImportError with the reason.
        missing_characters: of a text, in every installed font together.
    """

    machine: Machine = field(default_factory=look)
    torch: Callable[[], TorchFacts] = TorchFacts.gather
    variables: Mapping[str, str] = field(default_factory=lambda: os.environ)
    run_folder: Path = Path("runs")
    cache_folder: Path | None = None
    version_of: Callable[[Feature], str] = version_of
    missing_characters: Callable[[str], str] | None = None


def examine_environment(environment: Environment | None = None) -> Section:
    """Every check of the machine and the installation."""
    env = environment or Environment()
    machine = env.machine
    checks = guarded("python", check_python)
    checks += guarded("text", lambda: check_text(sys.stdout.encoding, _preferred_encoding()))
    try:
        facts = env.torch()
    except Exception as error:  # a broken build raises about anything
        checks += [check_torch_import(error)]
    else:
        checks += guarded("torch", lambda: check_torch(facts))
        checks += guarded("torchvision", lambda: check_torchvision(facts))
        checks += guarded("gpu", lambda: check_gpus(facts))
        checks += guarded("cpu", lambda: check_cpu(machine, facts))
        checks += guarded("threads", lambda: check_threads(machine, facts, env.variables))
    checks += guarded("load", lambda: check_load(machine))
    checks += guarded("memory", lambda: check_memory(machine))
    checks += guarded("shared-memory", lambda: check_shared_memory(machine))
    checks += guarded("open-files", lambda: check_open_files(machine))
    checks += guarded("disk.runs", lambda: check_folder("disk.runs", "runs", env.run_folder))
    checks += guarded("disk.cache", lambda: check_cache(env.cache_folder))
    checks += guarded("disk.temporary", check_temporary)
    checks += guarded("opencv", lambda: check_opencv(env.version_of))
    for feature in FEATURES:
        checks += guarded(feature.name, partial(check_feature, feature, env.version_of))
    checks += guarded("font", lambda: check_font(env.missing_characters))
    return Section("environment", checks)


# -- Python and text --------------------------------------------------------------------------


def check_python() -> Check:
    """Versions of everything that is not torch."""
    from detrkit import __version__

    python = platform.python_version()
    system = platform.platform(aliased=True, terse=True)
    return ok(
        "python",
        f"detrkit {__version__}, Python {python}, {system}",
        values={
            "detrkit": __version__,
            "python": python,
            "system": system,
            "executable": sys.executable,
        },
    )


def check_text(output: str | None, preferred: str) -> Check:
    """Whether text goes in and out as UTF-8. Files are read as UTF-8 either way."""
    values = {"output": output, "preferred": preferred}
    if all(_is_utf8(name) for name in (output or "utf-8", preferred)):
        return ok("text", "UTF-8", values=values)
    return note(
        "text",
        f"the terminal takes {output or 'nothing'}, files without an encoding are read as "
        f"{preferred}: class names may be shown as ?",
        "set LANG=C.UTF-8 (Linux, macOS) or PYTHONUTF8=1",
        values=values,
    )


def _preferred_encoding() -> str:
    return "utf-8" if sys.flags.utf8_mode else locale.getpreferredencoding(False)


def _is_utf8(name: str) -> bool:
    return name.lower().replace("-", "").replace("_", "") in ("utf8", "cp65001")


# -- torch and what it runs on -----------------------------------------------------------------


def check_torch_import(error: Exception) -> Check:
    """Torch cannot be imported."""
    reason = next(iter(str(error).splitlines()), "") or type(error).__name__
    return problem("torch", f"torch cannot be imported: {reason}", "pip install torch torchvision")


def check_torch(facts: TorchFacts) -> Check:
    """Its version, and whether it fits the driver that is here."""
    built = f"CUDA {facts.cuda_built}" if facts.cuda_built else "no CUDA"
    text = (
        f"torch {facts.version}, built with {built}"
        if facts.cuda_built
        else (f"torch {facts.version}, a build without CUDA")
    )
    values = {"version": facts.version, "cuda": facts.cuda_built, "driver": facts.driver}
    if facts.driver and not facts.cuda_built:
        return warning(
            "torch",
            f"{text}, though there is an NVIDIA driver: the GPU stays idle",
            "install the build for CUDA: https://pytorch.org/get-started/locally",
            values=values,
        )
    return ok("torch", text, values=values)


def check_torchvision(facts: TorchFacts) -> Check:
    """Builds of torchvision fit one version of torch."""
    if not facts.torchvision.startswith("!"):
        return ok(
            "torchvision", f"torchvision {facts.torchvision}", values={"version": facts.torchvision}
        )
    return problem(
        "torchvision",
        f"torchvision cannot be imported beside torch {facts.version}: {facts.torchvision[1:]}",
        "pip install --upgrade torch torchvision  (together: builds fit one another)",
    )


def check_gpus(facts: TorchFacts) -> Iterator[Check]:
    """Each device that trains; why there is none."""
    for number, gpu in enumerate(facts.gpus):
        bf16 = "bf16" if gpu.bf16 else "no bf16: --amp means fp16"
        values = {
            "name": gpu.name, "memory": gpu.memory, "free": gpu.free, "bf16": gpu.bf16,
            "capability": list(gpu.capability), "cudnn": facts.cudnn, "driver": facts.driver,
        }  # fmt: skip
        text = (
            f"cuda:{number} {gpu.name}, {amount(gpu.memory)} ({amount(gpu.free)} free), compute "
            f"capability {gpu.capability[0]}.{gpu.capability[1]}, {bf16}; "
            f"cuDNN {facts.cudnn or '?'}, driver {facts.driver or '?'}"
        )
        if gpu.free < 0.5 * gpu.memory:
            yield warning(
                f"gpu.{number}",
                text,
                "other programs hold its memory: `nvidia-smi` lists them",
                values=values,
            )
        else:
            yield ok(f"gpu.{number}", text, values=values)
    if facts.gpus:
        return
    if facts.mps:
        yield ok("gpu", "Apple's GPU (mps)", values={"mps": True})
    elif facts.cuda_built and (facts.driver or facts.cuda_error):
        yield warning(
            "gpu",
            "no GPU can be used" + (f": {facts.cuda_error}" if facts.cuda_error else ""),
            "does `nvidia-smi` work, and is its CUDA version at least "
            f"{facts.cuda_built}? In a container: --gpus all",
            values={"driver": facts.driver},
        )
    else:
        yield note("gpu", "no GPU: training runs on the CPU", values={"driver": facts.driver})


def check_cpu(machine: Machine, facts: TorchFacts) -> Check:
    """Cores and instruction sets."""
    flags = machine.cpu_flags
    bf16 = "AMX-BF16" if "amx_bf16" in flags else "AVX512-BF16" if "avx512_bf16" in flags else ""
    kernels = facts.cpu_capability
    words = [machine.cpu, count(machine.cores, "core")]
    if machine.cores < machine.installed_cores:
        words[1] += f" of {machine.installed_cores} may be used"
    words += [w for w in (f"{kernels} kernels" if kernels else "", bf16) if w]
    return ok(
        "cpu",
        ", ".join(word for word in words if word),
        values={
            "name": machine.cpu,
            "cores": machine.cores,
            "installed": machine.installed_cores,
            "kernels": kernels,
            "bf16": bf16 or None,
        },
    )


def check_threads(machine: Machine, facts: TorchFacts, variables: Mapping[str, str]) -> Check:
    """Threads against cores: more of them wait for each other, fewer leave cores idle."""
    given = variables.get("OMP_NUM_THREADS")
    values = {"threads": facts.threads, "cores": machine.cores, "OMP_NUM_THREADS": given}
    said = f"OMP_NUM_THREADS={given}" if given else "OMP_NUM_THREADS is not set"
    text = f"{count(facts.threads, 'thread')} for {count(machine.cores, 'core')} ({said})"
    if facts.threads > machine.cores:
        return warning(
            "threads",
            f"{text}: they wait for each other",
            f"export OMP_NUM_THREADS={machine.cores}",
            values=values,
        )
    if given and facts.threads < machine.cores and not facts.gpus:
        return note(
            "threads",
            f"{text}: training on the CPU leaves cores idle",
            "unset OMP_NUM_THREADS",
            values=values,
        )
    return ok("threads", text, values=values)


# -- the machine --------------------------------------------------------------------------------


def check_load(machine: Machine) -> Check:
    """Whether other programs want the cores."""
    if machine.load is None:
        return ok("load", "the system does not tell how busy it is")
    text = f"{machine.load:.1f} of {count(machine.cores, 'core')} busy in the last minute"
    values = {"load": machine.load, "cores": machine.cores}
    if is_busy(machine):
        hint = "stop other programs; times that are measured now are too long"
        return warning("load", text, hint, values=values)
    return ok("load", text, values=values)


def is_busy(machine: Machine) -> bool:
    """Whether measured times say little."""
    return machine.load is not None and machine.load > BUSY * machine.installed_cores


def check_memory(machine: Machine) -> Check:
    """RAM, and the control group's share of it."""
    if machine.memory is None:
        return note("memory", "the system does not tell how much memory it has")
    available = machine.memory_available
    text = f"{amount(machine.memory)} of RAM"
    if machine.memory_limit is not None:
        text += f", this control group may use {amount(machine.memory_limit)}"
    if available is not None:
        text += f", {amount(available)} free"
    values = {
        "total": machine.memory, "limit": machine.memory_limit, "available": available,
    }  # fmt: skip
    if available is not None and available < 2 << 30:
        return warning(
            "memory", text, "close other programs; a small model needs 2 GiB", values=values
        )
    return ok("memory", text, values=values)


def check_shared_memory(machine: Machine) -> Check:
    """/dev/shm, through which loader workers send their batches."""
    if machine.shared_memory is None or machine.shared_memory_free is None:
        return ok("shared-memory", "no /dev/shm on this system; none is needed")
    size, free = machine.shared_memory, machine.shared_memory_free
    text = f"/dev/shm {amount(size)}, {amount(free)} free"
    values = {"total": size, "free": free}
    if free < LITTLE_SHARED_MEMORY:
        return warning(
            "shared-memory",
            f"{text}: loader workers send batches through it and die when it is full",
            "start the container with --shm-size=8g or --ipc=host; or train with --workers 0",
            values=values,
        )
    return ok("shared-memory", text, values=values)


def check_open_files(machine: Machine) -> Check:
    """The limit on open files."""
    limit = machine.open_files
    if limit is None or limit >= FEW_OPEN_FILES:
        return ok(
            "open-files", f"{limit or 'any number of'} files may be open", values={"limit": limit}
        )
    return note(
        "open-files",
        f"at most {limit} files may be open",
        "with many workers: ulimit -n 4096",
        values={"limit": limit},
    )


def check_folder(code: str, what: str, folder: Path) -> Check:
    """Whether `folder` (or where it would be made) can be written, and its disk's free space."""
    place = existing(folder)
    free = free_space(place)
    values = {"folder": str(folder), "free": free}
    try:
        with tempfile.TemporaryFile(dir=place):
            pass
    except OSError as error:
        return problem(
            code,
            f"{what}: {place} cannot be written ({error.strerror or error})",
            "choose another place: " + _ELSEWHERE[code],
            values=values,
        )
    text = f"{what}: {amount(free)} free at {place}"
    if free < LITTLE_DISK:
        return warning(
            code,
            text,
            "free some space, or choose another place: " + _ELSEWHERE[code],
            values=values,
        )
    return ok(code, text, values=values)


_ELSEWHERE = {
    "disk.runs": "--output DIR",
    "disk.cache": "DETRKIT_CACHE=DIR",
    "disk.temporary": "TMPDIR=DIR",
}


def check_cache(folder: Path | None = None) -> Check:
    """Where downloads and the drawn data set go."""
    from detrkit.data.cache import cache_dir

    return check_folder("disk.cache", "cache", folder or cache_dir())


def check_temporary() -> Check:
    """The folder for temporary files, which loader workers and atomic writing need."""
    try:
        folder = tempfile.gettempdir()
    except OSError as error:
        return problem(
            "disk.temporary",
            f"no folder for temporary files ({error.strerror or error})",
            "set TMPDIR to a folder that can be written",
        )
    return check_folder("disk.temporary", "temporary files", Path(folder))
