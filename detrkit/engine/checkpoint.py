"""Checkpoints: the authors' layout plus what detrkit needs to go on without a configuration.

    last_epoch      number of the last finished epoch, -1 before the first
    model           weights
    ema             {"module": averaged weights, "updates": count}
    optimizer, lr_scheduler, lr_warmup_scheduler, scaler
    distiller       of a distillation: adapters and the like, apart from the student
    date            ISO 8601
    detrkit         configuration, ImageSpec, ClassMap, metrics, position in the run, version

`best.pth` and stripped files hold only `model` (the averaged weights), `last_epoch`, `date` and
`detrkit`. Files are written atomically and read with `weights_only=True`, so that opening one
never runs code.
"""

from __future__ import annotations

import pickle
import re
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from detrkit.errors import WeightsError
from detrkit.files import write_atomically
from detrkit.structures import ClassMap, ImageSpec

#: Rises when a reader of the `detrkit` entry needs to know.
FORMAT = 1

#: Present in training checkpoints of the authors' repositories, and `distiller` in some of ours.
_TRAINING_KEYS = (
    "model", "ema", "optimizer", "lr_scheduler", "lr_warmup_scheduler", "scaler", "distiller",
)  # fmt: skip


@dataclass
class Checkpoint:
    """A checkpoint in memory.

    Attributes:
        model: weights by the authors' names, or None in a file that has only `ema`.
        ema: {"module": weights, "updates": int}, or None.
        optimizer, lr_scheduler, lr_warmup_scheduler, scaler: their state dicts, or None.
        distiller: of a distillation in progress, or None.
        last_epoch: the last finished epoch, -1 before the first.
        config: the resolved configuration, or None in a file that detrkit did not write.
        config_name: stem of the configuration file.
        class_map, image_spec: likewise.
        images: of the training data, or None where the file does not say.
        metrics: of the epoch, {"AP": …}.
        position: where the run stands: epoch, batch, step, … (`TrainState.to_dict`).
        date: ISO 8601.
        version: detrkit's.
        path: where it was read from.
    """

    model: dict[str, Tensor] | None = None
    ema: dict[str, Any] | None = None
    optimizer: dict[str, Any] | None = None
    lr_scheduler: dict[str, Any] | None = None
    lr_warmup_scheduler: dict[str, Any] | None = None
    scaler: dict[str, Any] | None = None
    distiller: dict[str, Any] | None = None
    last_epoch: int = -1
    config: dict[str, Any] | None = None
    config_name: str = ""
    class_map: ClassMap | None = None
    image_spec: ImageSpec | None = None
    images: int | None = None
    metrics: dict[str, Any] = field(default_factory=dict)
    position: dict[str, Any] = field(default_factory=dict)
    date: str = ""
    version: str = ""
    path: Path | None = None

    @property
    def weights(self) -> dict[str, Tensor]:
        """The weights to use: the averaged ones where there are any."""
        weights = self.ema["module"] if self.ema else self.model
        if weights is None:
            raise WeightsError(f"{self.path} holds no weights")
        return weights

    @property
    def can_resume(self) -> bool:
        """Whether it holds the optimizer's state and the position."""
        return self.optimizer is not None and self.model is not None

    def stripped(self) -> Checkpoint:
        """Only what inference needs: the averaged weights and the metadata."""
        return Checkpoint(
            model=self.weights,
            last_epoch=self.last_epoch,
            config=self.config,
            config_name=self.config_name,
            class_map=self.class_map,
            image_spec=self.image_spec,
            images=self.images,
            metrics=self.metrics,
        )

    def to_dict(self) -> dict[str, Any]:
        """The content of the file."""
        content: dict[str, Any] = {
            "date": self.date or datetime.now(timezone.utc).isoformat(timespec="seconds"),
            "last_epoch": self.last_epoch,
        }
        for key in _TRAINING_KEYS:
            value = getattr(self, key)
            if value is not None:
                content[key] = value
        content["detrkit"] = self.metadata()
        return content

    def metadata(self) -> dict[str, Any]:
        """What detrkit needs besides weights, as plain data: the file's `detrkit` entry."""
        from detrkit import __version__

        return {
            "format": FORMAT,
            "version": self.version or __version__,
            "config": self.config,
            "config_name": self.config_name,
            "class_map": self.class_map.to_dict() if self.class_map else None,
            "image_spec": self.image_spec.to_dict() if self.image_spec else None,
            "images": self.images,
            "metrics": self.metrics,
            "position": self.position,
        }

    def save(self, path: Path) -> None:
        """Writes the file atomically.

        Raises:
            DetrkitError: it cannot be written; an older file of that name is unchanged.
        """
        content = _contiguous(self.to_dict())
        write_atomically(path, lambda file: torch.save(content, file), size=_size_of(content))

    @classmethod
    def from_dict(cls, content: Any, path: Path | None = None) -> Checkpoint:
        """From the content of a file: ours, the authors', or a bare state dict.

        Raises:
            WeightsError: it is none of these.
        """
        name = path or "the file"
        if not isinstance(content, dict):
            raise WeightsError(f"{name} is not a checkpoint: it holds a {type(content).__name__}")
        if content and all(isinstance(v, Tensor) for v in content.values()):
            return cls(model=_clean(content), path=path)
        meta = content.get("detrkit") or {}
        if meta.get("format", FORMAT) > FORMAT:
            raise WeightsError(
                f"{name} was written by a newer detrkit ({meta.get('version')})",
                hint="pip install --upgrade detrkit",
            )
        model, ema = content.get("model"), content.get("ema")
        if isinstance(ema, dict) and "module" not in ema:
            ema = {"module": ema, "updates": 0} if ema else None
        if model is None and not ema:
            nested = content.get("state_dict")
            if not isinstance(nested, dict):
                raise WeightsError(
                    f"{name} is not a detector checkpoint: it has neither `model` nor `ema`",
                    hint=f"its keys are {', '.join(map(str, list(content)[:8]))}",
                )
            model = nested
        return cls(
            model=_clean(model) if model is not None else None,
            ema={**ema, "module": _clean(ema["module"])} if ema else None,
            optimizer=content.get("optimizer"),
            lr_scheduler=content.get("lr_scheduler"),
            lr_warmup_scheduler=content.get("lr_warmup_scheduler"),
            scaler=content.get("scaler"),
            distiller=content.get("distiller"),
            last_epoch=int(content.get("last_epoch", -1)),
            config=meta.get("config"),
            config_name=meta.get("config_name") or "",
            class_map=ClassMap.from_dict(meta["class_map"]) if meta.get("class_map") else None,
            image_spec=ImageSpec.from_dict(meta["image_spec"]) if meta.get("image_spec") else None,
            images=meta.get("images"),
            metrics=meta.get("metrics") or {},
            position=meta.get("position") or {},
            date=str(content.get("date", "")),
            version=str(meta.get("version", "")),
            path=path,
        )

    @classmethod
    def load(cls, path: str | Path, *, trusted: bool = False) -> Checkpoint:
        """Reads a file. Tensors stay on the CPU.

        Args:
            path: the file.
            trusted: runs the code inside, if there is any. What comes back holds tensors and
                plain values either way: write it again (`detrkit weights strip`) to be rid of it.

        Raises:
            WeightsError: missing, damaged, of another kind, or with code inside.
        """
        file = Path(path)
        if file.is_dir():
            raise WeightsError(
                f"{file} is a folder, not a weight file", hint=f"did you mean {file / 'best.pth'}?"
            )
        if not file.is_file():
            raise WeightsError(f"weight file not found: {file}", hint=_neighbours(file))
        try:
            with torch.serialization.safe_globals(_numpy_types()):
                content = torch.load(file, map_location="cpu", weights_only=not trusted)
        except (ModuleNotFoundError, AttributeError) as error:
            raise WeightsError(
                f"{file} holds objects of a program that is not here: {error}",
                hint="run this where that program can be imported (for the authors' files: in "
                "their repository)",
            ) from error
        except pickle.UnpicklingError as error:
            if "GLOBAL" in str(error) or "Unsupported" in str(error):
                raise WeightsError(
                    f"{file} holds Python objects other than tensors and plain values, "
                    f"which detrkit does not run{_named_object(error)}",
                    hint="if you trust where it is from, take the weights out once: "
                    f"detrkit weights strip {file} --trust -o clean.pth",
                ) from error
            raise WeightsError(f"{file} is damaged or not a torch file") from error
        except (RuntimeError, EOFError, OSError, ValueError, LookupError, TypeError) as error:
            reason = next(iter(str(error).splitlines()), type(error).__name__)
            raise WeightsError(
                f"{file} is damaged or not a torch file: {reason}",
                hint="download or copy it again; an interrupted copy is shorter than the original",
            ) from error
        return cls.from_dict(content, file)


def _size_of(content: Any) -> int:
    """Bytes of all tensors in nested plain data: a little less than the file will have."""
    if isinstance(content, Tensor):
        return content.nbytes
    if isinstance(content, dict):
        return sum(map(_size_of, content.values()))
    return sum(map(_size_of, content)) if isinstance(content, (list, tuple)) else 0


def _numpy_types() -> list[Any]:
    """Numbers and arrays of NumPy, which some training scripts leave in their checkpoints."""
    number, array = np.float64(0), np.zeros(1)
    rebuild: list[Any] = [value.__reduce__()[0] for value in (number, array)]
    kinds = {type(np.dtype(name)) for name in ("f4", "f8", "i4", "i8", "u1", "?")}
    old = [(f, f"numpy.core.multiarray.{f.__name__}") for f in rebuild]
    return [*rebuild, *old, np.dtype, np.ndarray, *kinds]


def _named_object(error: Exception) -> str:
    """Which object torch refused, in brackets."""
    found = re.search(r"GLOBAL ([\w.]+)", str(error))
    return f" ({found[1]})" if found else ""


def _clean(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Without the `module.` that DistributedDataParallel puts before every name."""
    if state and all(name.startswith("module.") for name in state):
        return {name.removeprefix("module."): value for name, value in state.items()}
    return dict(state)


def _neighbours(file: Path) -> str | None:
    folder = file.parent
    if not folder.is_dir():
        return f"there is no folder {folder}" if str(folder) else None
    near = sorted(p.name for p in folder.glob("*.pth"))[:5]
    return f"{folder} holds {', '.join(near)}" if near else None


def _contiguous(tree: Any) -> Any:
    """Tensors as they are read everywhere, whatever layout they have in training."""
    if isinstance(tree, Tensor):
        return tree.contiguous()
    if isinstance(tree, dict):
        return {key: _contiguous(value) for key, value in tree.items()}
    return tree
