"""What is in a weight file: `detrkit weights inspect`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from detrkit.engine.checkpoint import Checkpoint
from detrkit.engine.download import locate
from detrkit.engine.known_classes import known_class_map, known_name
from detrkit.engine.load_report import LoadReport
from detrkit.engine.recognise import candidates
from detrkit.engine.state_names import class_count
from detrkit.engine.weights import load_weights, read_checkpoint


@dataclass(frozen=True)
class Part:
    """Tensors and numbers in one part of the model, e.g. the backbone."""

    name: str
    tensors: int
    numbers: int


@dataclass(frozen=True)
class WeightsInfo:
    """What a file holds.

    Attributes:
        path: file or folder on this machine.
        bytes: of the file; of all files in a folder.
        contents: "weights", "averaged weights", "optimizer", …
        parts: of the weights, by the first word of the names.
        classes: how many the heads score; None without heads.
        class_names: known or taken for; () where they are not.
        class_source: "file", "COCO", "Objects365" or "".
        image_size: (h, w), where the file says.
        config: of the file, by name; "" without.
        candidates: configs of the catalogue with these tensors, one for each graph.
        epoch: number of finished epochs; 0 unknown.
        metrics: of the file.
        date, version: of the file; version is detrkit's.
        report: of loading the weights into the model of a configuration, if one was asked for.
    """

    path: Path
    bytes: int
    contents: tuple[str, ...]
    parts: tuple[Part, ...]
    classes: int | None
    class_names: tuple[str, ...]
    class_source: str
    image_size: tuple[int, int] | None
    config: str
    candidates: tuple[str, ...]
    epoch: int
    metrics: dict[str, Any]
    date: str
    version: str
    report: LoadReport | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "path": str(self.path),
            "bytes": self.bytes,
            "contents": list(self.contents),
            "parts": {p.name: {"tensors": p.tensors, "numbers": p.numbers} for p in self.parts},
            "classes": {
                "count": self.classes,
                "names": list(self.class_names) or None,
                "source": self.class_source or None,
            },
            "image_size": list(self.image_size) if self.image_size else None,
            "config": self.config or None,
            "candidates": list(self.candidates),
            "epochs": self.epoch or None,
            "metrics": self.metrics or None,
            "date": self.date or None,
            "version": self.version or None,
            "report": self.report.to_dict() if self.report else None,
        }


def inspect_weights(source: str | Path, config: str | None = None) -> WeightsInfo:
    """Reads a file and says what is in it.

    Args:
        source: as `read_checkpoint` takes it.
        config: compare with the model of this configuration.

    Raises:
        WeightsError: it cannot be read.
    """
    path = locate(source)
    checkpoint = read_checkpoint(path)
    weights = checkpoint.weights
    count = class_count(weights)
    classes = checkpoint.class_map or (known_class_map(count) if count else None)
    guessed = known_name(count) if count and checkpoint.class_map is None else None
    return WeightsInfo(
        path=path,
        bytes=sum(f.stat().st_size for f in (path.iterdir() if path.is_dir() else [path])),
        contents=_contents(checkpoint),
        parts=_parts(checkpoint),
        classes=count,
        class_names=classes.names if classes else (),
        class_source="file" if checkpoint.class_map else guessed or "",
        image_size=checkpoint.image_spec.size if checkpoint.image_spec else None,
        config=checkpoint.config_name if checkpoint.config else "",
        candidates=tuple(candidate.name for candidate in candidates(weights)),
        epoch=checkpoint.last_epoch + 1,
        metrics=checkpoint.metrics,
        date=checkpoint.date,
        version=checkpoint.version,
        report=_compare(checkpoint, config, source) if config else None,
    )


def _contents(checkpoint: Checkpoint) -> tuple[str, ...]:
    held = {
        "weights": checkpoint.model,
        "averaged weights": checkpoint.ema,
        "optimizer": checkpoint.optimizer,
        "schedule": checkpoint.lr_scheduler,
        "gradient scaler": checkpoint.scaler,
        "configuration": checkpoint.config,
        "class names": checkpoint.class_map,
        "preprocessing": checkpoint.image_spec,
    }
    return tuple(name for name, value in held.items() if value is not None)


def _parts(checkpoint: Checkpoint) -> tuple[Part, ...]:
    found: dict[str, list[int]] = {}
    for name, value in checkpoint.weights.items():
        counts = found.setdefault(name.split(".", 1)[0], [0, 0])
        counts[0] += 1
        counts[1] += value.numel()
    return tuple(Part(name, *counts) for name, counts in found.items())


def _compare(checkpoint: Checkpoint, config: str, source: str | Path) -> LoadReport:
    from detrkit.config import load_config
    from detrkit.engine.parts import build_model

    cfg = load_config(config)
    classes = class_count(checkpoint.weights)
    if classes is not None:
        cfg = cfg.with_values({"num_classes": classes}, origin="weights")
    return load_weights(build_model(cfg), checkpoint.weights, source=str(source))
