"""`--compile`: the forward pass as torch.compile makes it.

The first batch of each kind (size, with boxes or without) takes minutes; the number of boxes and
sizes after the first become variables of the compiled code. The weights, their names and the
checkpoints stay those of the model.
"""

from __future__ import annotations

import functools
import shutil
from typing import Any

import torch
from torch import nn

from detrkit.errors import UsageError

_HINT = "train without --compile"


def compile_forward(model: nn.Module, device: torch.device) -> None:
    """Makes `model` compile its forward pass when it is first called.

    Args:
        model: the detector itself, not its replica.
        device: it is on.

    Raises:
        UsageError: this machine cannot compile. What the compiler finds wrong with the model is
            raised by the call, as a UsageError as well.
    """
    _require_compiler(device)
    forward = torch.compile(model.forward)

    @functools.wraps(model.forward)
    def compiled(*args: Any, **kwargs: Any) -> Any:
        try:
            return forward(*args, **kwargs)
        except torch._dynamo.exc.TorchDynamoException as error:
            first = str(error).strip().splitlines()[0]
            raise UsageError(f"the model does not compile: {first}", hint=_HINT) from error

    model.forward = compiled  # type: ignore[method-assign]


def _require_compiler(device: torch.device) -> None:
    if device.type == "cuda":
        from torch.utils._triton import has_triton

        if not has_triton():
            raise UsageError(
                "--compile needs Triton on a GPU", hint=f"pip install triton, or {_HINT}"
            )
    elif not any(shutil.which(name) for name in ("c++", "g++", "clang++", "cl")):
        raise UsageError("--compile needs a C++ compiler on a CPU", hint=f"install g++, or {_HINT}")
