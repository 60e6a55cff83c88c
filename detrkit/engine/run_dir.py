"""The folder of a run: numbered, never overwritten, continued in place by `resume`.

runs/<config-name>-<n>/
    config.yml  args.json  environment.json     what was run, with what, where
    log.jsonl  results.csv  curves.png          one line per epoch, and drawn
    events.out…  wandb/  loggers.json           TensorBoard, W&B; what loggers need to continue
    batches/  detections.jpg                    augmented training batches; what was learnt
    best.pth  last.pth  best_stg1.pth           checkpoints
"""

from __future__ import annotations

import json
import os
import platform
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from detrkit.errors import UsageError
from detrkit.files import cannot_write, write_atomically

#: How many numbers are tried before giving up.
_MOST = 100_000


@dataclass(frozen=True)
class RunDirectory:
    """Paths of one run."""

    path: Path

    @classmethod
    def create(cls, name: str, output: str | Path | None = None) -> RunDirectory:
        """Makes a new folder.

        Args:
            name: stem of the configuration; without `output` the folder is `runs/<name>-<n>`.
            output: a folder of the user's; taken as it is when it does not exist or is empty,
                otherwise with `-2`, `-3`, … behind it.

        Raises:
            DetrkitError: it cannot be made.
        """
        stem = re.sub(r"[^\w.+-]+", "_", name).strip("._") or "run"
        base = Path(output).expanduser() if output else Path("runs") / stem
        try:
            base.parent.mkdir(parents=True, exist_ok=True)
            if output and base.is_dir() and not any(base.iterdir()):
                return cls(base)._checked()
            first = 1
            if output:
                candidate, first = base, 2
                try:
                    candidate.mkdir()
                    return cls(candidate)._checked()
                except FileExistsError:
                    pass
            for number in range(first, _MOST):
                candidate = base.with_name(f"{base.name}-{number}")
                try:
                    candidate.mkdir()  # fails when it exists: two runs cannot get the same one
                except FileExistsError:
                    continue
                return cls(candidate)._checked()
        except OSError as error:
            raise cannot_write(base, error) from error
        raise UsageError(f"{base}-1 to {base}-{_MOST} all exist", hint="choose another --output")

    @classmethod
    def open(cls, path: str | Path) -> RunDirectory:
        """An existing run, by its folder or by a checkpoint inside it.

        Raises:
            UsageError: there is no such run.
        """
        folder = Path(path).expanduser()
        if folder.is_file():
            folder = folder.parent
        if not folder.is_dir():
            raise UsageError(
                f"no run at {path}", hint="give the folder of a run, e.g. runs/quickstart-1"
            )
        return cls(folder)._checked()

    def _checked(self) -> RunDirectory:
        """Itself, once a file could be written into it: better now than after an epoch."""
        probe = self.path / f".write-test-{os.getpid()}"
        try:
            probe.write_bytes(b"")
            probe.unlink()
        except OSError as error:
            raise cannot_write(self.path, error) from error
        return self

    def __str__(self) -> str:
        return str(self.path)

    @property
    def last(self) -> Path:
        """Where `resume` continues."""
        return self.path / "last.pth"

    @property
    def best(self) -> Path:
        """The averaged weights with the best AP."""
        return self.path / "best.pth"

    @property
    def best_stage1(self) -> Path:
        """Full state at the best epoch with strong augmentation; stage 2 starts from it."""
        return self.path / "best_stg1.pth"

    @property
    def log(self) -> Path:
        """One JSON object per epoch."""
        return self.path / "log.jsonl"

    @property
    def results(self) -> Path:
        """One CSV row per epoch."""
        return self.path / "results.csv"

    @property
    def batches(self) -> Path:
        """Pictures of augmented batches."""
        return self.path / "batches"

    @property
    def curves(self) -> Path:
        """Losses, metrics and rates over the epochs."""
        return self.path / "curves.png"

    @property
    def detections(self) -> Path:
        """Validation images with what the best weights find."""
        return self.path / "detections.jpg"

    @property
    def loggers(self) -> Path:
        """Ids under which W&B and MLflow know the run."""
        return self.path / "loggers.json"

    @property
    def start_files(self) -> list[Path]:
        """What `write_start` writes."""
        return [self.path / n for n in ("config.yml", "args.json", "environment.json")]

    def numbered(self, epochs: int) -> Path:
        """`epoch_0012.pth`: after 12 finished epochs."""
        return self.path / f"epoch_{epochs:04d}.pth"

    def write_start(self, config: str, arguments: dict[str, Any]) -> None:
        """Writes `config.yml`, `args.json` and `environment.json`."""
        self._write("config.yml", config)
        self._write("args.json", _json(arguments))
        self._write("environment.json", _json(environment()))

    def _write(self, name: str, text: str) -> None:
        write_atomically(self.path / name, lambda file: file.write(text.encode()))


def environment() -> dict[str, Any]:
    """Versions and hardware, to understand a run later."""
    import numpy
    import torch
    import torchvision

    from detrkit import __version__

    cuda = torch.cuda.is_available()
    return {
        "detrkit": __version__,
        "python": sys.version.split()[0],
        "platform": platform.platform(),
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
        "numpy": numpy.__version__,
        "cuda": torch.version.cuda if cuda else None,
        "devices": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
        if cuda
        else [platform.processor() or platform.machine()],
        "cpu_count": os.cpu_count(),
        "threads": torch.get_num_threads(),
    }


def _json(data: dict[str, Any]) -> str:
    return json.dumps(data, indent=2, ensure_ascii=False, default=str) + "\n"
