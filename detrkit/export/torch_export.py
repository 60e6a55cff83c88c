"""torch.export files (`.pt2`): the traced program, for PyTorch, AOTInductor and ExecuTorch."""

from __future__ import annotations

import io
from pathlib import Path

import torch

from detrkit.export.metadata import KEY, Metadata
from detrkit.files import write_bytes


def write_torch_export(
    program: torch.export.ExportedProgram, path: Path, metadata: Metadata
) -> None:
    """Writes the program, all of it or nothing; the description is an extra file.

    Args:
        program: of `detrkit.export.onnx.trace`.
        path: the file.
        metadata: its description.
    """
    buffer = io.BytesIO()
    torch.export.save(program, buffer, extra_files={KEY: metadata.to_json()})
    content = buffer.getvalue()
    write_bytes(path, content)
