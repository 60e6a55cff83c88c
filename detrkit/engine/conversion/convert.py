"""Weight files into other weight files: what `detrkit weights strip` and `convert` do."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from detrkit.engine.checkpoint import Checkpoint
from detrkit.engine.conversion.hf_folder import (
    CONFIG,
    WEIGHTS,
    from_hf_state,
    is_hf_folder,
    read_json,
)
from detrkit.engine.conversion.safetensors import looks_like_hf, read_tensors, write_safetensors
from detrkit.engine.download import locate
from detrkit.engine.weights import classes_of, config_of, open_detector, read_checkpoint
from detrkit.errors import UsageError, WeightsError

#: What weights can be converted to.
Target = Literal["authors", "hf", "safetensors"]


@dataclass(frozen=True)
class Written:
    """What was written.

    Attributes:
        path: file or folder.
        config: the configuration that went with the weights, by name; "" without one.
        tensors: how many.
        bytes: of the file, or of all files in the folder.
        difference: (hf) largest difference between both models' answers.
    """

    path: Path
    config: str
    tensors: int
    bytes: int
    difference: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "output": str(self.path),
            "config": self.config or None,
            "tensors": self.tensors,
            "bytes": self.bytes,
            "difference": self.difference,
        }


def strip(
    source: str | Path, output: Path, *, config: str | None = None, trusted: bool = False
) -> Written:
    """Writes only what inference needs: the averaged weights, and what detrkit wants to know.

    Args:
        source: as `read_checkpoint` takes it.
        output: a `.pth`.
        config: of weights that carry none and are not recognised.
        trusted: runs code inside a `.pth`; see `Checkpoint.load`.

    Raises:
        WeightsError: it cannot be read.
        UsageError: `output` has another ending.
    """
    _want_suffix(output, ".pth", ".pt")
    path = locate(source)
    is_torch_file = path.is_file() and path.suffix != ".safetensors"
    checkpoint = Checkpoint.load(path, trusted=trusted) if is_torch_file else read_checkpoint(path)
    return _write(_described(checkpoint, source, config), output)


def convert(
    source: str | Path,
    output: Path,
    to: Target,
    *,
    config: str | None = None,
    lossy: bool = False,
) -> Written:
    """Writes weights in another form.

    Args:
        source: as `read_checkpoint` takes it.
        output: a `.pth` (authors), a `.safetensors` file, or a folder (hf).
        to: the form.
        config: of weights that carry none and are not recognised.
        lossy: leave out tensors of transformers' model that the authors' lacks.

    Raises:
        WeightsError: it cannot be read, or has no exact counterpart; says why.
        UsageError: `output` does not fit `to`.
    """
    if to == "hf":
        if output.suffix:
            raise UsageError(f"--to hf writes a folder, not {output}")
        detector = open_detector(source, config)
        from detrkit.engine.conversion.hf_export import write_hf_folder

        tensors = len(detector.model.state_dict())
        difference = write_hf_folder(detector, output)
        return Written(output, detector.config.name, tensors, _size(output), difference)
    _want_suffix(output, *((".safetensors",) if to == "safetensors" else (".pth", ".pt")))
    checkpoint = _read_lossy(source) if lossy else read_checkpoint(source)
    return _write(_described(checkpoint, source, config), output)


def _read_lossy(source: str | Path) -> Checkpoint:
    path = locate(source)
    file = path / WEIGHTS if is_hf_folder(path) else path
    if file.suffix != ".safetensors":
        raise UsageError("--lossy is for weights of Hugging Face transformers")
    tensors, _ = read_tensors(file)
    if not looks_like_hf(tensors):
        raise UsageError(f"--lossy is for weights of transformers; {file} has the authors' names")
    return from_hf_state(tensors, read_json(file.with_name(CONFIG)), path, lossy=True)


def _described(checkpoint: Checkpoint, source: str | Path, config: str | None) -> Checkpoint:
    """Stripped; with the configuration, classes and ImageSpec, where the model is known."""
    from detrkit.engine.parts import image_spec_of

    stripped = checkpoint.stripped()
    try:
        cfg = config_of(checkpoint, source, config)
    except WeightsError:
        if config is not None:
            raise
        return stripped
    classes = checkpoint.class_map or classes_of(checkpoint.weights, cfg, source)
    cfg = cfg.with_values({"num_classes": len(classes)}, origin="weights")
    stripped.config, stripped.config_name = cfg.tree, cfg.name
    stripped.class_map = classes
    stripped.image_spec = checkpoint.image_spec or image_spec_of(cfg)
    return stripped


def _write(checkpoint: Checkpoint, output: Path) -> Written:
    output.parent.mkdir(parents=True, exist_ok=True)
    if output.suffix == ".safetensors":
        write_safetensors(checkpoint, output)
    else:
        checkpoint.save(output)
    return Written(output, checkpoint.config_name, len(checkpoint.weights), _size(output))


def _want_suffix(output: Path, *suffixes: str) -> None:
    if output.suffix not in suffixes:
        raise UsageError(f"{output}: the file's name must end with {' or '.join(suffixes)}")


def _size(path: Path) -> int:
    files = path.iterdir() if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files)
