"""`--compile`: backbone and encoder as torch.compile makes them.

The decoder stays as it is: in training its shapes change with the boxes of every batch, for which
it would be compiled again and again. The first batch takes minutes, and so does the second size;
from the third on, sizes are variables of the compiled code. The weights, their names and the
checkpoints stay those of the model.
"""

from __future__ import annotations

import functools
import shutil
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from detrkit.errors import UsageError

_HINT = "train without --compile"


#: Parts of a detector whose shapes depend on the size of the images only.
_PARTS = ("backbone", "encoder")


def compile_parts(model: nn.Module, device: torch.device) -> None:
    """Makes the parts compile their forward pass when they are first called.

    Args:
        model: the detector itself, not its replica. One without these parts is compiled whole.
        device: it is on.

    Raises:
        UsageError: this machine cannot compile. What the compiler finds wrong with the model is
            raised by the call, as a UsageError as well.
    """
    _require_compiler(device)
    # torch's own look at the gradients of what it traces
    warnings.filterwarnings("ignore", message="The .grad attribute of a Tensor that is not a leaf")
    parts = [part for name in _PARTS if isinstance(part := getattr(model, name, None), nn.Module)]
    for part in parts or [model]:
        part.forward = _compiled(part.forward)


def _compiled(forward: Callable[..., Any]) -> Callable[..., Any]:
    quick = torch.compile(forward)

    @functools.wraps(forward)
    def call(*args: Any, **kwargs: Any) -> Any:
        try:
            return quick(*args, **kwargs)
        except torch._dynamo.exc.TorchDynamoException as error:
            first = str(error).strip().splitlines()[0]
            raise UsageError(f"the model does not compile: {first}", hint=_HINT) from error

    return call


def _require_compiler(device: torch.device) -> None:
    if device.type == "cuda":
        from torch.utils._triton import has_triton

        if not has_triton():
            raise UsageError(
                "--compile needs Triton on a GPU", hint=f"pip install triton, or {_HINT}"
            )
    elif not any(shutil.which(name) for name in ("c++", "g++", "clang++", "cl")):
        raise UsageError("--compile needs a C++ compiler on a CPU", hint=f"install g++, or {_HINT}")
