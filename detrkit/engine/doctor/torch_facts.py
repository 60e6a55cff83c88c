"""What torch says about itself and its devices, as plain values.

Importing this module does not import torch; `TorchFacts.gather` does.
"""

from __future__ import annotations

import importlib
import shutil
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Gpu:
    """A CUDA device; sizes in bytes."""

    name: str
    memory: int
    free: int
    capability: tuple[int, int]
    bf16: bool


@dataclass(frozen=True)
class TorchFacts:
    """What torch says about itself and its devices.

    Attributes:
        version: torch's.
        torchvision: version, or why it cannot be imported, beginning with "!".
        cuda_built: CUDA version it was built for; None: without CUDA.
        cudnn: version.
        gpus: usable devices.
        cuda_error: why there are none, if torch said so.
        driver: version of the NVIDIA driver; None: no driver.
        mps: whether Apple's GPU can be used.
        cpu_capability: instruction set that torch's kernels use, "AVX512".
        threads: of an operation on the CPU.
    """

    version: str
    torchvision: str = ""
    cuda_built: str | None = None
    cudnn: int | None = None
    gpus: Sequence[Gpu] = ()
    cuda_error: str = ""
    driver: str | None = None
    mps: bool = False
    cpu_capability: str = ""
    threads: int = 1

    @classmethod
    def gather(cls) -> TorchFacts:
        """Asks torch; the GPUs are started, which takes a moment."""
        import torch

        gpus: list[Gpu] = []
        error = ""
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            try:
                for number in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
                    about = torch.cuda.get_device_properties(number)
                    free, total = torch.cuda.mem_get_info(number)
                    capability = (int(about.major), int(about.minor))
                    gpus.append(Gpu(about.name, total, free, capability, capability >= (8, 0)))
            except (RuntimeError, AssertionError) as reason:
                error = str(reason)
        error = error or next((str(w.message) for w in said), "")
        return cls(
            version=str(torch.__version__),
            torchvision=_torchvision(),
            cuda_built=torch.version.cuda,
            cudnn=torch.backends.cudnn.version() if torch.version.cuda else None,
            gpus=tuple(gpus),
            cuda_error=next(iter(error.splitlines()), ""),
            driver=nvidia_driver(),
            mps=torch.backends.mps.is_available(),
            cpu_capability=torch.backends.cpu.get_cpu_capability(),
            threads=torch.get_num_threads(),
        )


def _torchvision() -> str:
    try:
        return str(importlib.import_module("torchvision").__version__)
    except Exception as error:  # a build for another torch fails in many ways
        reason = str(error) or type(error).__name__
        return "!" + reason.splitlines()[0]


def nvidia_driver(root: Path = Path("/")) -> str | None:
    """Version of the NVIDIA driver; "?" where only its tool is there; None without one."""
    try:
        text = (root / "proc/driver/nvidia/version").read_text(encoding="utf-8")
        words = text.splitlines()[0].split()
        return next((word for word in words if word[:1].isdigit() and "." in word), "?")
    except (OSError, IndexError, UnicodeDecodeError):
        return "?" if shutil.which("nvidia-smi") else None
