"""Checkpoints as `.safetensors`: tensors and text, no code; by the authors' names.

What a `.pth` keeps under `detrkit` stands in the file's metadata, as JSON.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from detrkit.engine.checkpoint import Checkpoint
from detrkit.errors import MissingExtraError, WeightsError
from detrkit.files import write_bytes

#: Key of our entry in the metadata.
_KEY = "detrkit"


def read_safetensors(path: Path) -> Checkpoint:
    """A checkpoint from a file with the authors' names, or with transformers'.

    Raises:
        WeightsError: missing, damaged, or with other contents.
        MissingExtraError: the package is not installed.
    """
    from detrkit.engine.conversion.hf_folder import from_hf_state

    tensors, metadata = read_tensors(path)
    if looks_like_hf(tensors):
        return from_hf_state(tensors, {}, path)
    meta: Any = json.loads(metadata[_KEY]) if _KEY in metadata else {}
    return Checkpoint.from_dict({"model": tensors, "detrkit": meta}, path)


def write_safetensors(checkpoint: Checkpoint, path: Path) -> None:
    """Writes the weights (the averaged ones where there are any) and the metadata.

    Raises:
        DetrkitError: it cannot be written.
        MissingExtraError: the package is not installed.
    """
    save = _package().save
    metadata = {_KEY: json.dumps(checkpoint.stripped().metadata()), "format": "pt"}
    content: bytes = save(independent(checkpoint.weights), metadata=metadata)
    write_bytes(path, content)


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors and the metadata of a file.

    Raises:
        WeightsError: missing or damaged.
    """
    if not path.is_file():
        raise WeightsError(f"weight file not found: {path}")
    package = _package()
    try:
        with package.safe_open(str(path), framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            return tensors, dict(file.metadata() or {})
    except (package.SafetensorError, OSError, ValueError) as error:
        raise WeightsError(
            f"{path} is damaged or not a safetensors file: {error}",
            hint="download or copy it again; an interrupted copy is shorter than the original",
        ) from error


def looks_like_hf(state: Mapping[str, Tensor]) -> bool:
    """Whether the names are those of a detector of transformers."""
    return any(name.startswith(("model.decoder.", "model.encoder.")) for name in state)


def independent(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Contiguous tensors that share no memory, as the format demands."""
    seen: set[int] = set()
    result = {}
    for name, value in state.items():
        value = value.detach().cpu().contiguous()
        pointer = value.untyped_storage().data_ptr()
        whole = value.untyped_storage().nbytes() == value.numel() * value.element_size()
        result[name] = value.clone() if pointer in seen or not whole else value
        seen.add(pointer)
    return result


class _Package:
    """What is used of safetensors."""

    safe_open: Any
    save: Callable[..., bytes]
    SafetensorError: type[Exception]


def _package() -> _Package:
    try:
        from safetensors import SafetensorError, safe_open
        from safetensors.torch import save
    except ImportError:
        raise MissingExtraError("safetensors", "hf", "reading and writing .safetensors") from None
    package = _Package()
    package.safe_open, package.save, package.SafetensorError = safe_open, save, SafetensorError
    return package
