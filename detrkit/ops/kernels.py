"""Compiled kernels of optional packages, which take over on GPUs where they are installed.

| package     | for |
|---|---|
| `mamba-ssm` | the selective scan: `detrkit.ops.selective_scan` |
| `DCNv4`     | sums at moved points, of DCNv3 and DCNv4: `detrkit.ops.deform_aggregation` |

Without them, on CPUs, in float64, and in exported and compiled graphs, which know operations of
PyTorch only, these compute the same.
"""

from __future__ import annotations

import importlib
import logging
from functools import cache
from typing import Any

import torch
from torch import Tensor

logger = logging.getLogger("detrkit")


def kernel_for(x: Tensor, module: str, name: str) -> Any | None:
    """The function or class `name` of an installed package, where it can run on `x`.

    Args:
        x: what it is to be called with: float32 on a GPU.
        module: of the package, e.g. "DCNv4.functions".
        name: in that module.
    """
    tracing = (
        torch.compiler.is_compiling() or torch.onnx.is_in_onnx_export() or torch.jit.is_tracing()
    )
    if tracing or not on_gpu(x) or x.dtype != torch.float32:
        return None
    return installed(module, name)


def on_gpu(x: Tensor) -> bool:
    """Whether CUDA kernels can read the tensor."""
    return x.is_cuda


@cache
def installed(module: str, name: str) -> Any | None:
    """`name` of a package, or None where it is missing, or was built for another torch."""
    try:
        return getattr(importlib.import_module(module), name)
    except ModuleNotFoundError as error:
        if error.name == module.partition(".")[0]:
            return None
        problem: Exception = error
    except (ImportError, AttributeError, OSError, RuntimeError) as error:
        problem = error
    logger.warning("%s cannot be used, PyTorch takes its place: %s", module, problem)
    return None
