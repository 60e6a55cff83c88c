"""TorchScript files: a trace that C++ (libtorch) and PyTorch Mobile load.

A trace follows the batch, not the size of images: that is fixed.
"""

from __future__ import annotations

import io
import warnings
from pathlib import Path

import torch

from detrkit.export.graph import DetectionGraph, InputShape
from detrkit.export.metadata import KEY, Metadata
from detrkit.files import write_bytes


def write_torchscript(
    graph: DetectionGraph, shape: InputShape, path: Path, metadata: Metadata
) -> None:
    """Traces the graph and writes it, all of it or nothing; the description is an extra file."""
    inputs = shape.example(raw=graph.postprocessor is None)
    buffer = io.BytesIO()
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of shapes that are constants here, and of its age
        traced = torch.jit.trace(graph.eval(), inputs, check_trace=False)
        torch.jit.save(torch.jit.freeze(traced), buffer, _extra_files={KEY: metadata.to_json()})
    content = buffer.getvalue()
    write_bytes(path, content)
