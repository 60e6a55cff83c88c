"""The folder of a run: numbered, never overwritten, continued in place by `resume`.

runs/<config-name>-<n>/
    config.yml  args.json  environment.json     what was run, with what, where
    log.jsonl  results.csv  curves.png          one line per epoch, and drawn
    events.out…  wandb/  loggers.json           TensorBoard, W&B; what loggers need to continue
    batches/  detections.jpg                    augmented training batches; what was learnt
    profile/                                    with `profile`: where the time of a step goes
    best.pth  last.pth  best_stg1.pth           checkpoints
    epoch_start.pth                             the last good state, while that is not last.pth
    diverged/step_N/                            what was not finite, where that went on too long
    best_predictions.json                       what the best epoch found, as COCO results
    report.html  metrics.json                   what that says about it, as of `detrkit eval -o`
    best_oa.pth                                 the fewest false detections at nearly the best AP
    oa_candidates/                              weights that may still become it, during a run
"""

from __future__ import annotations

import contextlib
import glob
import json
import os
import platform
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from detrkit.errors import UsageError
from detrkit.files import cannot_write, remove_leftovers, write_bytes

#: How many numbers are tried before giving up.
_MOST = 100_000
#: File that is made and removed at once to see whether a folder can be written.
_PROBE = ".write-test-"

#: Descriptors of the lock files that this process holds.
_held: set[int] = set()


def _forget_locks() -> None:
    """A forked process (a loader's worker) must not keep the lock of one that was killed."""
    for descriptor in _held:
        os.close(descriptor)
    _held.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_locks)


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
        base = Path(output).expanduser() if output else Path("runs") / _stem(name)
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

    @classmethod
    def find(cls, name: str, output: str | Path | None = None) -> list[RunDirectory]:
        """Runs that `create` with the same arguments made earlier, the latest first."""
        if output:
            folder = Path(output).expanduser()
            return [cls(folder)] if folder.is_dir() else []
        stem = _stem(name)
        numbered = [
            (int(folder.name.rpartition("-")[2]), folder)
            for folder in Path("runs").glob(f"{glob.escape(stem)}-*")
            if re.fullmatch(r"\d+", folder.name[len(stem) + 1 :]) and folder.is_dir()
        ]
        return [cls(folder) for _, folder in sorted(numbered, reverse=True)]

    def _checked(self) -> RunDirectory:
        """Itself, once a file could be written into it: better now than after an epoch."""
        probe = self.path / f"{_PROBE}{os.getpid()}"
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
    def best_oa(self) -> Path:
        """The averaged weights with the fewest false detections at nearly the best AP."""
        return self.path / "best_oa.pth"

    @property
    def oa_candidates(self) -> Path:
        """Weights that wait for their false detections to be counted, or may become `best_oa`."""
        return self.path / "oa_candidates"

    @property
    def best_stage1(self) -> Path:
        """Full state at the best epoch with strong augmentation; stage 2 starts from it."""
        return self.path / "best_stg1.pth"

    @property
    def epoch_start(self) -> Path:
        """Full state at the last good start of an epoch, while `last.pth` is another or none."""
        return self.path / "epoch_start.pth"

    def diverged(self, step: int) -> Path:
        """What is known of a step that was not finite."""
        return self.path / "diverged" / f"step_{step}"

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
    def profile(self) -> Path:
        """Where the time of a step goes."""
        return self.path / "profile"

    @property
    def curves(self) -> Path:
        """Losses, metrics and rates over the epochs."""
        return self.path / "curves.png"

    @property
    def detections(self) -> Path:
        """Validation images with what the best weights find."""
        return self.path / "detections.jpg"

    @property
    def best_predictions(self) -> Path:
        """What the averaged weights of the best epoch find in the validation data, COCO results."""
        return self.path / "best_predictions.json"

    @property
    def report(self) -> Path:
        """The evaluation of the best epoch, as a page."""
        return self.path / "report.html"

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

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """While entered, no other process can train in this folder. Ends with the process.

        Raises:
            UsageError: another one does.
        """
        try:
            descriptor = os.open(self.path / ".lock", os.O_RDWR | os.O_CREAT, 0o644)
        except OSError:  # a folder without lock files is still one to train in
            yield
            return
        _held.add(descriptor)
        try:
            try:
                _lock(descriptor)
            except BlockingIOError:
                raise UsageError(
                    f"another process is training in {self}",
                    hint="wait for it or end it; a new run gets a folder of its own",
                ) from None
            except OSError:
                pass  # a file system without locks
            yield
        finally:
            if descriptor in _held:
                _held.remove(descriptor)
                os.close(descriptor)

    @property
    def is_bare(self) -> bool:
        """Whether it holds nothing but what a run leaves that was killed as it began."""
        return all(entry.name.startswith(".") for entry in self.path.iterdir())

    def clean(self) -> None:
        """Removes what a killed process left half written; call it while holding the lock."""
        for folder in (self.path, self.batches):
            remove_leftovers(folder)
        for probe in self.path.glob(f"{_PROBE}*"):
            with contextlib.suppress(OSError):
                probe.unlink()

    def arguments(self) -> dict[str, Any]:
        """What `args.json` says; empty when there is none."""
        try:
            found = json.loads((self.path / "args.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return found if isinstance(found, dict) else {}

    def write_start(self, config: str, arguments: dict[str, Any]) -> None:
        """Writes `args.json`, `config.yml` and `environment.json`.

        The arguments come first: by them `--auto-resume` knows the folder of a run that was
        killed as it began.
        """
        self._write("args.json", _json(arguments))
        self._write("config.yml", config)
        self._write("environment.json", _json(environment()))

    def _write(self, name: str, text: str) -> None:
        write_bytes(self.path / name, text.encode())


def _stem(name: str) -> str:
    return re.sub(r"[^\w.+-]+", "_", name).strip("._") or "run"


def counting_environment() -> dict[str, Any]:
    """Versions of what counts and writes, to understand numbers later; imports no torch."""
    import numpy

    from detrkit import __version__

    return {
        "detrkit": __version__,
        "python": sys.version.split()[0],
        "platform": platform.platform(),
        "numpy": numpy.__version__,
    }


def environment() -> dict[str, Any]:
    """Versions and hardware, to understand a run later."""
    import torch
    import torchvision

    from detrkit.engine.distributed.group import world_size

    cuda = torch.cuda.is_available()
    return {
        **counting_environment(),
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
        "cuda": torch.version.cuda if cuda else None,
        "devices": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
        if cuda
        else [platform.processor() or platform.machine()],
        "cpu_count": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "processes": world_size(),
    }


def _lock(descriptor: int) -> None:
    """Raises `BlockingIOError` where another process holds it."""
    if sys.platform == "win32":
        import msvcrt

        try:
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        except PermissionError as error:
            raise BlockingIOError from error
    else:
        import fcntl

        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _json(data: dict[str, Any]) -> str:
    return json.dumps(data, indent=2, ensure_ascii=False, default=str) + "\n"
